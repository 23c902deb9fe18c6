"""Queued sends while things fail: answers that do not come, refusals, instances that go, and kills under load."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from processes import Answer, Cell, Mesh, mesh, request
from scripted import Script, answer, peer
from support import eventually

pytestmark = pytest.mark.mesh

RECEIVED = {"status": "received", "acknowledged": True}
SEED = 20261125
names = (f"peer-{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """Run alpha with discovery."""
    with mesh(tmp_path_factory.mktemp("mesh"), "alpha") as cells:
        yield cells


@pytest.fixture
def alpha(running: Mesh) -> Cell:
    """Return the cell that sends."""
    return running["alpha"]


@pytest.fixture
def name() -> str:
    """Return a name that no other test uses, for a cell and for a message."""
    return next(names)


def script_of(*answers: bytes | None) -> Script:
    """Return a script that gives these answers in turn, the last one again and again."""
    left = list(answers)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


def queue(cell: Cell, to_cell: str, message_id: str, **fields: Any) -> None:
    """Queue a message."""
    reply = cell.send(to_cell, mode="queued", message_id=message_id, **fields)
    assert reply.status == 202, reply


def sent(cell: Cell, message_id: str) -> dict[str, Any]:
    """Return what a cell says of a message that was queued."""
    reply = cell.get(f"/sent/{message_id}")
    assert reply.status == 200, reply
    return dict(reply.json)


def until(cell: Cell, message_id: str, check: Callable[[dict[str, Any]], bool], within: float = 20) -> dict[str, Any]:
    """Wait until what a cell says of a message is as it should be; return it."""
    found: dict[str, Any] = {}

    def there() -> bool:
        found.update(sent(cell, message_id))
        return check(found)

    eventually(there, within=within, message=f"{message_id}, last {found}")
    return found


def state(wanted: str) -> Callable[[dict[str, Any]], bool]:
    """Return a check for a state."""
    return lambda found: found["state"] == wanted


def test_a_lost_answer_is_asked_for_again_at_the_same_instance(running: Mesh, alpha: Cell, name: str) -> None:
    """Expect the same message twice at one of two instances, and it delivered."""
    script = script_of(None, answer(200, RECEIVED))
    with peer(script) as one, peer(script) as other:
        running.discovery.register(name, one.port, instance=f"{name}-0")
        running.discovery.register(name, other.port, instance=f"{name}-1")
        queue(alpha, name, name)
        found = until(alpha, name, state("delivered"))
        counts = sorted([len(one.messages), len(other.messages)])
        asked = one.messages or other.messages
    assert counts == [0, 2]
    assert [message["message_id"] for message in asked] == [name, name]
    assert asked[1]["ttl_remaining"] < asked[0]["ttl_remaining"] <= asked[0]["ttl"] if "ttl" in asked[0] else True
    assert found["attempts"] == 2
    assert found["instance"] == asked[0]["to_instance"]


def test_a_message_that_was_sent_and_not_answered_is_unconfirmed(running: Mesh, alpha: Cell, name: str) -> None:
    """Expect that at the end of its ttl, never an attempt elsewhere, and no taking back."""
    with peer(None) as hung, peer(script_of(answer(200, RECEIVED))) as other:
        running.discovery.register(name, hung.port, instance=f"{name}-0")
        queue(alpha, name, name, ttl=3, to_instance=f"{name}-0")
        eventually(lambda: hung.messages, within=10)
        refused = request(alpha.port, "DELETE", f"/sent/{name}")
        hung.close()
        running.discovery.register(name, other.port, instance=f"{name}-1")
        found = until(alpha, name, state("unconfirmed"))
        assert other.messages == []
    assert (refused.status, refused.json["code"]) == (409, "not_queued")
    assert (found["instance"], found["code"]) == (f"{name}-0", "outcome_unknown")


def test_after_a_kill_a_message_that_was_sent_goes_to_the_same_instance(tmp_path: Path, name: str) -> None:
    """Expect the sender that is started again to ask the instance that may have the message, and no other."""
    answers: list[bytes | None] = []

    def first(_: dict[str, Any]) -> bytes | None:
        return answers[0] if answers else None

    with mesh(tmp_path, "alpha") as cells:
        alpha = cells["alpha"]
        with peer(None) as hung, peer(script_of(answer(200, RECEIVED))) as other:
            cells.discovery.register(name, hung.port, instance=f"{name}-0")
            queue(alpha, name, name, ttl=0)
            eventually(lambda: hung.messages, within=10)
            alpha.kill()
            cells.discovery.register(name, other.port, instance=f"{name}-1")
            alpha.start()
            eventually(lambda: len(hung.messages) == 2, within=20, message="the same instance to be asked again")
            found = sent(alpha, name)
            assert other.messages == []
    assert (found["state"], found["instance"], found["attempts"]) == ("queued", f"{name}-0", 2)


def test_a_refusal_for_good_is_a_dead_message_and_can_be_retried(running: Mesh, alpha: Cell, name: str) -> None:
    """Expect ``dead`` with the receiver's code after one attempt, and the same id delivered by a retry."""
    refusal = answer(422, {"status": "error", "code": "invalid_field", "error": "payload: not this"})
    with peer(script_of(refusal, answer(200, RECEIVED))) as picky:
        running.discovery.register(name, picky.port)
        queue(alpha, name, name, payload={"n": 1})
        found = until(alpha, name, state("dead"))
        assert (found["code"], found["error"], found["attempts"]) == ("invalid_field", "payload: not this", 1)
        assert alpha.post(f"/sent/{name}/retry", {}).status == 200
        until(alpha, name, state("delivered"))
        assert [message["payload"] for message in picky.messages] == [{"n": 1}, {"n": 1}]


def test_a_full_receiver_is_asked_again_when_it_wants_to_be(running: Mesh, alpha: Cell, name: str) -> None:
    """Expect the reason to be shown, no attempt before ``Retry-After``, and then the message delivered."""
    full = answer(429, {"status": "error", "code": "inbox_full", "error": "the inbox is full"}, Retry_After="2")
    times: list[float] = []

    def script(_: dict[str, Any]) -> bytes:
        times.append(time.monotonic())
        return full if len(times) == 1 else answer(200, RECEIVED)

    with peer(script) as busy:
        running.discovery.register(name, busy.port)
        queue(alpha, name, name)
        waiting = until(alpha, name, lambda found: found.get("code") == "inbox_full")
        assert (waiting["state"], waiting["error"], waiting.get("instance")) == ("queued", "the inbox is full", None)
        assert 0 < waiting["next_attempt_in"] <= 2.5
        until(alpha, name, state("delivered"))
    assert 2 <= times[1] - times[0] < 5


def test_a_message_that_a_receiver_fails_on_does_not_hold_up_the_others(running: Mesh, alpha: Cell, name: str) -> None:
    """Expect those behind it delivered, and it tried again and again until its ttl is over."""

    def script(message: dict[str, Any]) -> bytes:
        if message["message_id"] == f"{name}-poison":
            return answer(500, {"status": "error", "code": "internal", "error": "it failed"})
        return answer(200, RECEIVED)

    with peer(script) as failing:
        running.discovery.register(name, failing.port)
        queue(alpha, name, f"{name}-poison", ttl=8)
        queue(alpha, name, f"{name}-good")
        until(alpha, f"{name}-good", state("delivered"))
        found = until(alpha, f"{name}-poison", state("unconfirmed"))
    assert found["attempts"] > 4
    assert found["code"] == "internal"


def test_a_program_that_takes_one_message_at_a_time_gets_them_in_order(running: Mesh, alpha: Cell, name: str) -> None:
    """Expect single requests in the order in which the messages were queued."""
    with peer(script_of(answer(200, {"status": "received"}))) as plain:
        for number in range(100):
            queue(alpha, name, f"{name}-{number}")
        running.discovery.register(name, plain.port)
        until(alpha, f"{name}-99", state("delivered"))
        assert [message["message_id"] for message in plain.messages] == [f"{name}-{number}" for number in range(100)]


def test_higher_priorities_do_not_wait_for_lower_ones(running: Mesh, alpha: Cell, name: str) -> None:
    """Expect a critical message delivered while a low one is not answered."""
    hang = threading.Event()

    def script(message: dict[str, Any]) -> bytes:
        if message["priority"] == "low":
            hang.wait(20)
        return answer(200, RECEIVED)

    with peer(script) as slow:
        running.discovery.register(name, slow.port)
        queue(alpha, name, f"{name}-low", priority="low")
        eventually(lambda: slow.messages, within=10)
        queue(alpha, name, f"{name}-low-too", priority="low")
        queue(alpha, name, f"{name}-critical", priority="critical")
        until(alpha, f"{name}-critical", state("delivered"))
        assert [message["message_id"] for message in slow.messages] == [f"{name}-low", f"{name}-critical"]
        hang.set()
        until(alpha, f"{name}-low-too", state("delivered"))


def inbox(cell: Cell) -> list[dict[str, Any]]:
    """Return every message of an inbox, in the order of their positions."""
    found: list[dict[str, Any]] = []
    after = 0
    while page := cell.get(f"/messages?limit=1000&after={after}").json["messages"]:
        found += page
        after = page[-1]["seq"]
    return found


class Clients:
    """Clients that queue messages one after the other, and each again under its id until it is accepted."""

    def __init__(self, cell: Cell, count: int, prefix: str = "") -> None:
        self.cell = cell
        self.accepted: list[list[str]] = [[] for _ in range(count)]
        self.stopping = threading.Event()
        self._prefix = prefix
        self._pool = ThreadPoolExecutor(count)
        self._running = [self._pool.submit(self._run, number) for number in range(count)]

    @property
    def total(self) -> int:
        """How many were accepted."""
        return sum(map(len, self.accepted))

    def _run(self, client: int) -> None:
        for number in itertools.count():
            if self.stopping.is_set():
                return
            message_id = f"{self._prefix}{client}-{number}"
            body = {"to_cell": "pure", "mode": "queued", "message_id": message_id, "ttl": 0, "payload": {"n": number}}
            while True:
                reply = self._post(body)
                if reply is not None:
                    break
            assert reply.status == 202, reply
            self.accepted[client].append(message_id)

    def _post(self, body: dict[str, Any]) -> Answer | None:
        try:
            return request(self.cell.port, "POST", "/send", body)
        except OSError:
            self.stopping.wait(0.02)  # it is being started again
            return None
        except Exception as error:
            if type(error).__name__ in {"RemoteDisconnected", "IncompleteRead", "BadStatusLine"}:
                return None
            raise

    def stop(self) -> None:
        """Begin nothing more, and see to it that no client has failed."""
        self.stopping.set()
        for client in self._running:
            client.result(60)
        self._pool.shutdown()


def drained(cell: Cell, within: float = 60) -> None:
    """Wait until nothing is queued."""
    eventually(lambda: cell.get("/health").json["outbox"]["queued"] == 0, within=within, message="an empty outbox")


def in_order(clients: Clients, found: list[str]) -> None:
    """Expect everything accepted once, that of each client in the order in which it was accepted."""
    assert len(set(found)) == len(found)
    places = {message_id: place for place, message_id in enumerate(found)}
    for accepted in clients.accepted:
        missing = [one for one in accepted if one not in places]
        assert missing == []
        assert [places[one] for one in accepted] == sorted(places[one] for one in accepted)


def test_kills_of_both_sides_lose_nothing_double_nothing_and_keep_the_order(tmp_path: Path) -> None:
    """Ten kills of the sender, ten of the receiver while clients queue: each message once, each client's in order."""
    rng = random.Random(SEED)
    with mesh(tmp_path, "alpha", "pure") as cells:
        alpha, pure = cells["alpha"], cells["pure"]
        clients = Clients(alpha, 8)
        try:
            for kill in range(20):
                goal = clients.total + 60 + rng.randrange(60)
                eventually(lambda goal=goal: clients.total >= goal, within=60, message="messages to be accepted")
                victim = (alpha, pure)[kill % 2]
                victim.kill()
                victim.start()
        finally:
            clients.stop()
        drained(alpha)
        in_order(clients, [message["message_id"] for message in inbox(pure)])


def test_a_receiver_that_goes_in_an_orderly_way_gets_everything_in_order(tmp_path: Path) -> None:
    """Two instances that are restarted in turn while clients queue: each message once, and each inbox in order."""
    with mesh(tmp_path, "alpha") as cells:
        alpha = cells["alpha"]
        settings = {"drain_accept": "0.2", "replicas": "2"}
        both = [cells.add("pure", instance=f"pure-{number}", **settings) for number in range(2)]
        clients = Clients(alpha, 8)
        try:
            for number in range(6):
                goal = clients.total + 150
                eventually(lambda goal=goal: clients.total >= goal, within=60, message="messages to be accepted")
                assert both[number % 2].stop() == 0
                both[number % 2].start()
        finally:
            clients.stop()
        drained(alpha, within=90)
        inboxes = [[message["message_id"] for message in inbox(one)] for one in both]
        assert all(inboxes)
        assert sorted(inboxes[0] + inboxes[1]) == sorted(one for accepted in clients.accepted for one in accepted)
        for found in inboxes:
            for client in range(8):
                numbers = [int(one.split("-")[1]) for one in found if one.startswith(f"{client}-")]
                assert numbers == sorted(numbers)


def test_what_one_instance_cannot_take_another_takes(tmp_path: Path) -> None:
    """Expect everything delivered while one of two instances is away for good, also what was meant for it."""
    with mesh(tmp_path, "alpha") as cells:
        alpha = cells["alpha"]
        first = cells.add("pure", instance="pure-0", drain_accept="0")
        second = cells.add("pure", instance="pure-1", drain_accept="0")
        queue(alpha, "pure", "before")
        until(alpha, "before", state("delivered"))
        first.stop()
        for number in range(40):
            queue(alpha, "pure", f"m-{number}", payload={"n": number})
        until(alpha, "m-39", state("delivered"), within=60)
        drained(alpha)
        there = {message["message_id"] for message in inbox(second)} - {"before"}
        assert there == {f"m-{number}" for number in range(40)}
