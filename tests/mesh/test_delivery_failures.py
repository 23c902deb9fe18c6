"""Peers that hang, refuse, close or say no: what ``/send`` answers, and that others do not suffer."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from processes import Cell, Mesh, mesh
from scripted import Script, answer, peer
from support import eventually, free_port

pytestmark = pytest.mark.mesh

RECEIVED = {"status": "received", "acknowledged": True}
names = (f"peer-{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """Run alpha and pure with discovery."""
    with mesh(tmp_path_factory.mktemp("mesh"), "alpha", "pure") as cells:
        yield cells


@pytest.fixture
def alpha(running: Mesh) -> Cell:
    """Return the cell that sends."""
    return running["alpha"]


@pytest.fixture
def name() -> str:
    """Return a name that no other test uses."""
    return next(names)


def script_of(*answers: bytes | None) -> Script:
    """Return a script that gives these answers in turn, the last one again and again."""
    left = list(answers)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


def test_a_refused_connection_is_unreachable_and_certainly_not_delivered(running: Mesh, alpha: Cell, name: str) -> None:
    """Expect 502 after the timeout, with ``maybe_delivered`` false."""
    port = free_port()
    running.discovery.register(name, port)
    begun = time.monotonic()
    reply = alpha.post("/send", {"to_cell": name, "timeout": 1, "message_id": "refused"})
    assert 0.9 < time.monotonic() - begun < 5
    assert (reply.status, reply.json["code"]) == (502, "unreachable")
    assert (reply.json["maybe_delivered"], reply.json["origin"]) == (False, "self")
    assert reply.json["target_url"] == f"http://127.0.0.1:{port}/message"
    assert (reply.json["message_id"], reply.json["to_cell"]) == ("refused", name)


def test_a_peer_that_never_answers_times_out_and_may_have_it(running: Mesh, alpha: Cell, name: str) -> None:
    """Expect 504 after ``timeout``, with ``maybe_delivered`` true, and one attempt only."""
    with peer(None) as hung:
        running.discovery.register(name, hung.port)
        begun = time.monotonic()
        reply = alpha.post("/send", {"to_cell": name, "timeout": 1})
        assert 0.9 < time.monotonic() - begun < 5
        assert len(hung.messages) == 1
    assert (reply.status, reply.json["code"]) == (504, "timeout")
    assert (reply.json["maybe_delivered"], reply.json["origin"]) == (True, "self")


def test_a_hung_peer_takes_nothing_from_sends_to_others(running: Mesh, alpha: Cell, name: str) -> None:
    """Expect sends to another cell as fast as ever while a hundred wait for the hung one."""
    with peer(None) as hung, ThreadPoolExecutor(100) as pool:
        running.discovery.register(name, hung.port)
        waiting = [pool.submit(alpha.post, "/send", {"to_cell": name, "timeout": 4}) for _ in range(100)]
        eventually(lambda: len(hung.messages) >= 60, within=10, message="the hung peer to have requests")
        begun = time.monotonic()
        replies = [alpha.send("pure", payload={"n": number}) for number in range(50)]
        took = time.monotonic() - begun
        assert not any(future.done() for future in waiting)
        stuck = [future.result() for future in waiting]
    assert {reply.status for reply in replies} == {200}
    assert took < 3
    assert {(reply.status, reply.json["code"]) for reply in stuck} == {(504, "timeout")}


def test_a_message_that_never_left_is_said_not_to_be_delivered(running: Mesh, alpha: Cell, name: str) -> None:
    """Expect ``maybe_delivered`` true for exactly those that reached the hung peer."""
    with peer(None) as hung, ThreadPoolExecutor(100) as pool:
        running.discovery.register(name, hung.port)
        replies = list(pool.map(lambda _: alpha.post("/send", {"to_cell": name, "timeout": 2}), range(100)))
        arrived = {message["message_id"] for message in hung.messages}
    assert {reply.json["message_id"] for reply in replies if reply.json["maybe_delivered"]} == arrived
    assert 0 < len(arrived) < 100


def test_a_peer_that_closes_without_an_answer_is_asked_once_more(running: Mesh, alpha: Cell, name: str) -> None:
    """Expect two attempts with one id, then 504 ``outcome_unknown``."""
    with peer(script_of(None)) as closing:
        running.discovery.register(name, closing.port)
        reply = alpha.post("/send", {"to_cell": name, "timeout": 10})
        ids = [message["message_id"] for message in closing.messages]
    assert ids == [reply.json["message_id"]] * 2
    assert (reply.status, reply.json["code"]) == (504, "outcome_unknown")
    assert (reply.json["maybe_delivered"], reply.json["origin"]) == (True, "self")


def test_a_second_attempt_that_is_answered_is_delivered(running: Mesh, alpha: Cell, name: str) -> None:
    """Expect a lost answer healed by the repeat."""
    with peer(script_of(None, answer(200, RECEIVED))) as flaky:
        running.discovery.register(name, flaky.port)
        reply = alpha.post("/send", {"to_cell": name})
        assert [m["message_id"] for m in flaky.messages] == [reply.json["message_id"]] * 2
    assert (reply.status, reply.json["status"]) == (200, "delivered")


def test_after_a_lost_answer_no_other_instance_is_tried(running: Mesh, alpha: Cell, name: str) -> None:
    """Expect both attempts at one instance, as only that one would recognise a repeat."""
    with peer(script_of(None)) as one, peer(script_of(None)) as other:
        running.discovery.register(name, one.port, instance=f"{name}-0")
        running.discovery.register(name, other.port, instance=f"{name}-1")
        reply = alpha.post("/send", {"to_cell": name, "timeout": 10})
        assert sorted([len(one.messages), len(other.messages)]) == [0, 2]
    assert reply.json["code"] == "outcome_unknown"


def test_after_a_refused_connection_another_instance_is_tried(running: Mesh, alpha: Cell, name: str) -> None:
    """Expect every send delivered by the instance that is there."""
    with peer(script_of(answer(200, RECEIVED))) as there:
        running.discovery.register(name, free_port(), instance=f"{name}-0")
        running.discovery.register(name, there.port, instance=f"{name}-1")
        assert {alpha.send(name).status for _ in range(6)} == {200}
        assert len(there.messages) == 6


@pytest.mark.parametrize("status", [421, 429, 503, 507])
def test_after_an_answer_that_proves_nothing_stored_another_instance_is_tried(
    running: Mesh, alpha: Cell, name: str, status: int
) -> None:
    """Expect every send delivered by the other instance."""
    no = answer(status, {"status": "error", "code": "draining" if status == 503 else "no", "error": "no"})
    with peer(script_of(no)) as refusing, peer(script_of(answer(200, RECEIVED))) as taking:
        running.discovery.register(name, refusing.port, instance=f"{name}-0")
        running.discovery.register(name, taking.port, instance=f"{name}-1")
        assert {alpha.send(name).status for _ in range(6)} == {200}
        assert len(taking.messages) == 6


def test_an_address_that_another_program_has_is_looked_up_again(running: Mesh, alpha: Cell, name: str) -> None:
    """Expect a send that meets a program that is no cell delivered once the cell has registered elsewhere."""
    with (
        peer(script_of(answer(404, {"detail": "Not Found"}))) as foreign,
        peer(script_of(answer(200, RECEIVED))) as moved,
        ThreadPoolExecutor(1) as pool,
    ):
        running.discovery.register(name, foreign.port)
        sending = pool.submit(alpha.post, "/send", {"to_cell": name, "timeout": 20})
        eventually(lambda: foreign.messages, within=10, message="the foreign program to be asked")
        running.discovery.register(name, moved.port)
        reply = sending.result()
        assert len(moved.messages) == 1
    assert (reply.status, reply.json["target_url"]) == (200, f"http://127.0.0.1:{moved.port}/message")


@pytest.mark.parametrize("status", [404, 405])
def test_a_program_that_is_no_cell_has_not_got_the_message(running: Mesh, alpha: Cell, name: str, status: int) -> None:
    """Expect 503 after the timeout, a handful of attempts, and the answer in the text."""
    with peer(script_of(answer(status, {"detail": "no"}))) as foreign:
        running.discovery.register(name, foreign.port)
        reply = alpha.post("/send", {"to_cell": name, "timeout": 1})
        assert 1 < len(foreign.messages) < 10
    assert (reply.status, reply.json["code"], reply.json["maybe_delivered"]) == (503, "no_ready_instance", False)
    assert f"answered {status}" in reply.json["error"]


def test_instances_that_are_all_elsewhere_are_tried_in_rounds(running: Mesh, alpha: Cell, name: str) -> None:
    """Expect a few attempts at each with pauses between, not as many as there is time for."""
    no = answer(421, {"status": "error", "code": "misdirected", "error": "no"})
    with peer(script_of(no)) as one, peer(script_of(no)) as other:
        running.discovery.register(name, one.port, instance=f"{name}-0")
        running.discovery.register(name, other.port, instance=f"{name}-1")
        running.discovery.register(name, free_port(), instance=f"{name}-2")
        reply = alpha.post("/send", {"to_cell": name, "timeout": 1})
        assert 1 < len(one.messages) < 10
        assert 1 < len(other.messages) < 10
    assert reply.json["maybe_delivered"] is False


@pytest.mark.parametrize(
    ("status", "maybe"),
    [
        *[(status, False) for status in (400, 403, 409, 413, 422, 429, 499, 507)],
        *[(status, True) for status in (500, 502, 503, 599)],
    ],
)
def test_a_targets_refusal_is_passed_on_as_its_own(
    running: Mesh, alpha: Cell, name: str, status: int, maybe: bool
) -> None:
    """Expect the target's status and code, ``origin`` target, and what it means for a retry."""
    refusal = {"status": "error", "error": "not today", "code": "of_the_target"}
    with peer(script_of(answer(status, refusal))) as refusing:
        running.discovery.register(name, refusing.port)
        reply = alpha.post("/send", {"to_cell": name, "timeout": 3})
        assert len(refusing.messages) == 1
    assert (reply.status, reply.json["code"], reply.json["origin"]) == (status, "of_the_target", "target")
    assert reply.json["maybe_delivered"] is maybe
    assert reply.json["response"] == refusal


def test_the_targets_wish_when_to_come_again_is_passed_on(running: Mesh, alpha: Cell, name: str) -> None:
    """Expect its Retry-After."""
    with peer(script_of(answer(429, {"code": "inbox_full"}, Retry_After="7"))) as full:
        running.discovery.register(name, full.port)
        reply = alpha.post("/send", {"to_cell": name, "timeout": 3})
    assert (reply.status, reply.headers["retry-after"]) == (429, "7")


def test_of_several_full_instances_the_one_that_has_room_first_is_passed_on(
    running: Mesh, alpha: Cell, name: str
) -> None:
    """Expect the smallest Retry-After, whichever was asked first and wherever it was said; in the body as well."""
    full = {"code": "inbox_full", "error": "full"}
    scripts = [answer(429, full, Retry_After="40"), answer(429, full | {"retry_after": 7}), answer(429, full)]
    with contextlib.ExitStack() as stack:
        for number, said in enumerate(scripts):
            one = stack.enter_context(peer(script_of(said)))
            running.discovery.register(name, one.port, instance=f"{name}-{number}")
        for _ in range(3):
            reply = alpha.post("/send", {"to_cell": name, "timeout": 3})
            assert (reply.status, reply.headers["retry-after"], reply.json["retry_after"]) == (429, "7", 7)


def test_a_full_inbox_says_when_there_may_be_room(running: Mesh, tmp_path: Path) -> None:
    """Expect a minute while nothing goes, less once messages are consumed, and the same for an item of a batch."""
    small = Cell("small", tmp_path, max_messages="20")
    try:
        small.start()
        body = [{"from_cell": "a", "message_id": f"m-{n}", "payload": {}, "ttl": 0} for n in range(20)]
        assert small.post("/message/batch", body).status == 200
        more = {"from_cell": "a", "message_id": "more", "payload": {}}
        refused = small.post("/message", more)
        assert (refused.status, refused.json["code"], refused.headers["retry-after"]) == (429, "inbox_full", "60")
        (item,) = small.post("/message/batch", [more]).json
        assert (item["status"], item["body"]["retry_after"]) == (429, 60)
        turn = itertools.count()

        def quicker() -> bool:
            (taken,) = small.post("/messages/lease", {}).json["messages"]
            done = {"seq": taken["seq"], "lease_token": taken["lease_token"]}
            small.post("/messages/ack", {"items": [done]})
            filling = {"from_cell": "a", "message_id": f"filling-{next(turn)}", "payload": {}, "ttl": 0}
            assert small.post("/message", filling).status == 200
            return int(small.post("/message", more).headers["retry-after"]) < 10

        eventually(quicker, within=30)
    finally:
        small.kill()


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        answer(200, {"acknowledged": False}),
        answer(302, {}, Location="http://127.0.0.1:1/"),
    ],
    ids=["text", "array", "nothing", "not acknowledged", "redirect"],
)
def test_an_answer_that_acknowledges_nothing_is_not_delivered(
    running: Mesh, alpha: Cell, name: str, said: bytes
) -> None:
    """Expect 502, and that the message may have arrived."""
    with peer(script_of(said)) as odd:
        running.discovery.register(name, odd.port)
        reply = alpha.post("/send", {"to_cell": name, "timeout": 3})
    assert (reply.status, reply.json["origin"]) == (502, "target")
    assert reply.json["maybe_delivered"] is True


@pytest.mark.parametrize(
    "said",
    [b"\x00\x01\x02\x03", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", b"HTTP/1.1 101 Up\r\nUpgrade: x\r\n\r\n"],
    ids=["garbage", "cut off", "upgrade"],
)
def test_an_answer_that_is_none_leaves_the_outcome_unknown(running: Mesh, alpha: Cell, name: str, said: bytes) -> None:
    """Expect 504 with ``maybe_delivered`` true."""

    def script(_: dict[str, Any]) -> bytes | None:
        return said

    with peer(script) as odd:
        running.discovery.register(name, odd.port)
        reply = alpha.post("/send", {"to_cell": name, "timeout": 2})
    assert (reply.status, reply.json["maybe_delivered"]) == (504, True)


def test_a_registered_cell_without_an_instance_wanted_is_not_ready(alpha: Cell) -> None:
    """Expect 503 with Retry-After when the wanted instance of a known cell is not there."""
    reply = alpha.post("/send", {"to_cell": "pure", "to_instance": "pure-9", "timeout": 1})
    assert (reply.status, reply.json["code"]) == (503, "no_ready_instance")
    assert (reply.headers["retry-after"], reply.json["maybe_delivered"]) == ("1", False)
