"""Request and reply between real cells: ``await_reply``, and where a reply goes."""

from __future__ import annotations

import itertools
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from processes import Answer, Cell, Mesh, mesh, request
from scripted import answer, peer
from support import eventually

pytestmark = pytest.mark.mesh

RECEIVED = answer(200, {"status": "received", "acknowledged": True})
names = (f"oracle-{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """Run alpha and pure with discovery."""
    with mesh(tmp_path_factory.mktemp("mesh"), "alpha", "pure") as cells:
        yield cells


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Return threads for requests that wait."""
    with ThreadPoolExecutor(8) as threads:
        yield threads


def ask(pool: ThreadPoolExecutor, sender: Cell, to_cell: str, message_id: str, **fields: Any) -> Future[Answer]:
    """Send a message and wait for its reply, in a thread."""
    return pool.submit(sender.send, to_cell, **({"message_id": message_id, "await_reply": 20} | fields))


def arrived(cell: Cell, message_id: str) -> dict[str, Any]:
    """Wait until a cell has a message, and return it."""

    def there() -> Any:
        found = cell.get(f"/messages/{message_id}")
        return found.status == 200 and found.json

    return dict(eventually(there, within=20, message=f"{message_id} at {cell.instance}"))


def state(cell: Cell, message_id: str) -> str:
    """Return the state of a message."""
    return str(arrived(cell, message_id)["state"])


def test_a_question_is_answered_with_the_reply(running: Mesh, pool: ThreadPoolExecutor) -> None:
    """Expect 200 with the receiver's acknowledgement and the reply, which is consumed at the asker."""
    alpha, pure = running["alpha"], running["pure"]
    asked = ask(pool, alpha, "pure", "q1", message_type="query", payload={"q": 6})
    question = arrived(pure, "q1")
    said = pure.send("alpha", message_id="r1", reply_to=question["message_id"], payload={"a": 42})
    assert said.status == 200
    got = asked.result()
    assert (got.status, got.json["status"], got.json["response"]["cell_id"]) == (200, "delivered", "pure")
    reply = got.json["reply"]
    assert (reply["message_id"], reply["payload"], reply["reply_to"]) == ("r1", {"a": 42}, "q1")
    assert (reply["from_cell"], reply["from_instance"], reply["state"]) == ("pure", "pure-0", "consumed")
    assert state(alpha, "r1") == "consumed"
    assert "reply" not in alpha.send("pure").json


def test_a_question_that_is_asked_again_is_answered_with_the_reply_to_the_first(
    running: Mesh, pool: ThreadPoolExecutor
) -> None:
    """Expect the reply that is here already: given before, or pending as it came too late, and consumed now."""
    alpha, pure = running["alpha"], running["pure"]
    for late in (False, True):
        question, answered = f"again-{late}", f"answer-{late}"
        if late:
            assert alpha.send("pure", message_id=question, await_reply=0.3).status == 504
        else:
            asked = ask(pool, alpha, "pure", question)
            arrived(pure, question)
        # Others that say the same id, but are no reply of the one that was asked.
        for name, fields in (
            ("forged", {"from_cell": "mallory", "reply_to": question}),
            ("beside", {"from_cell": "pure"}),
        ):
            body = {"message_id": f"{name}-{late}", "payload": {}, "conversation_id": question} | fields
            assert alpha.post("/message", body).status == 200
        assert pure.send("alpha", message_id=answered, reply_to=question, payload={"a": 42}).status == 200
        if late:
            assert state(alpha, answered) == "pending"
        else:
            assert asked.result().json["reply"]["message_id"] == answered
        for _ in range(2):
            got = alpha.send("pure", message_id=question, await_reply=5)
            assert (got.status, got.json["response"]["duplicate"]) == (200, True)
            reply = got.json["reply"]
            assert (reply["message_id"], reply["payload"], reply["state"]) == (answered, {"a": 42}, "consumed")
        assert state(alpha, answered) == "consumed"
        assert state(alpha, f"forged-{late}") == state(alpha, f"beside-{late}") == "pending"


def test_a_question_without_a_reply_times_out_as_delivered(running: Mesh, pool: ThreadPoolExecutor) -> None:
    """Expect 504 ``reply_timeout`` after the seconds given, ``delivered``; the late reply is pending."""
    alpha, pure = running["alpha"], running["pure"]
    begun = time.monotonic()
    got = alpha.send("pure", message_id="q2", await_reply=0.5)
    assert 0.5 <= time.monotonic() - begun < 10
    assert (got.status, got.json["code"]) == (504, "reply_timeout")
    assert (got.json["delivered"], got.json["maybe_delivered"], got.json["message_id"]) == (True, True, "q2")
    assert pure.send("alpha", message_id="r2", reply_to="q2").status == 200
    assert state(alpha, "r2") == "pending"


def test_a_question_that_is_not_delivered_says_so(running: Mesh) -> None:
    """Expect the error of any send, at once."""
    got = running["alpha"].send("nobody", await_reply=20)
    assert (got.status, got.json["code"], got.json["maybe_delivered"]) == (404, "unknown_cell", False)
    assert "delivered" not in got.json


@pytest.mark.parametrize("seconds", [0, -1, 301, "5", True])
def test_a_wait_that_cannot_be_is_refused(running: Mesh, seconds: Any) -> None:
    """Expect 422 naming the field."""
    got = running["alpha"].send("pure", await_reply=seconds)
    assert (got.status, got.json["field"]) == (422, "await_reply")


@pytest.mark.parametrize("acknowledged", [True, False], ids=["then acknowledged", "never acknowledged"])
@pytest.mark.parametrize("form", ["/message", "/message/batch", "/message/legacy"])
def test_a_reply_that_overtakes_the_acknowledgement_is_given(running: Mesh, form: str, acknowledged: bool) -> None:
    """Expect 200 with the reply, though it came before the receiver's answer, or in its place."""
    alpha, name = running["alpha"], next(names)
    replies = []

    def script(question: dict[str, Any]) -> bytes | None:
        body: Any = {"message_id": f"re-{name}", "from_cell": name, "reply_to": question["message_id"]}
        body |= {"content": "42"} if form == "/message/legacy" else {"payload": {"content": "42"}}
        replies.append(request(alpha.port, "POST", form, [body] if form == "/message/batch" else body))
        return RECEIVED if acknowledged else None

    with peer(script) as oracle:
        running.discovery.register(name, oracle.port)
        got = alpha.send(name, await_reply=20)
    assert [one.status for one in replies] == [200] * len(replies)
    assert (got.status, got.json["reply"]["payload"]) == (200, {"content": "42"})
    assert got.json["response"]["acknowledged"] is True
    assert state(alpha, f"re-{name}") == "consumed"


def test_only_the_cell_asked_answers(running: Mesh, pool: ThreadPoolExecutor) -> None:
    """Expect a reply of somebody else to be an ordinary message."""
    alpha, pure = running["alpha"], running["pure"]
    asked = ask(pool, alpha, "pure", "q3")
    arrived(pure, "q3")
    forged = {"message_id": "forged", "from_cell": "gamma", "reply_to": "q3", "payload": {}}
    assert alpha.post("/message", forged).status == 200
    assert pure.send("alpha", message_id="r3", reply_to="q3").status == 200
    assert asked.result().json["reply"]["message_id"] == "r3"
    assert state(alpha, "forged") == "pending"


@pytest.mark.parametrize("chunked", [False, True], ids=["hot path", "FastAPI"])
def test_a_reply_for_a_client_that_is_gone_is_pending(running: Mesh, chunked: bool) -> None:
    """Expect it kept for consumers: nobody was there to take it."""
    alpha, pure = running["alpha"], running["pure"]
    identity = f"gone-{chunked}"
    over = asked(alpha, "reply_timeout")
    body = json.dumps({"to_cell": "pure", "message_id": identity, "await_reply": 60}).encode()
    length = b"transfer-encoding: chunked" if chunked else b"content-length: %d" % len(body)
    sent = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked else body
    with socket.create_connection(("127.0.0.1", alpha.port)) as client:
        client.sendall(b"POST /send HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n")
        client.sendall(length + b"\r\n\r\n" + sent)
        arrived(pure, identity)
    eventually(lambda: asked(alpha, "reply_timeout") > over, within=10, message="alpha to see that the client is gone")
    before = asked(alpha, "reply")
    assert pure.send("alpha", message_id=f"re-{identity}", reply_to=identity).status == 200
    assert state(alpha, f"re-{identity}") == "pending"
    assert asked(alpha, "reply") == before


def asked(cell: Cell, outcome: str) -> float:
    """Return how many questions had this outcome."""
    for line in cell.get("/metrics").body.decode().splitlines():
        if line.startswith(f'cellmesh_asked_messages_total{{outcome="{outcome}"}}'):
            return float(line.rpartition(" ")[2])
    return 0.0


def test_many_questions_get_each_its_own_reply(running: Mesh, pool: ThreadPoolExecutor) -> None:
    """Expect every asker to get the reply to its question, whatever goes out together."""
    alpha, pure = running["alpha"], running["pure"]
    waiting = [ask(pool, alpha, "pure", f"many-{number}", payload={"n": number}) for number in range(8)]
    for number in range(8):
        arrived(pure, f"many-{number}")
    with ThreadPoolExecutor(8) as repliers:
        said = repliers.map(
            lambda number: pure.send("alpha", reply_to=f"many-{number}", payload={"n": number}), range(8)
        )
        assert {one.status for one in said} == {200}
    assert [one.result().json["reply"]["payload"]["n"] for one in waiting] == list(range(8))


@pytest.fixture
def twins(tmp_path: Path) -> Iterator[Mesh]:
    """Run pure, and alpha with two instances."""
    with mesh(tmp_path, "alpha", "pure", settle=0, replicas="2", drain_accept="0", drain_timeout="3") as cells:
        cells.add("alpha", instance="alpha-1", replicas="2", drain_accept="0", drain_timeout="3")
        yield cells


def test_a_reply_goes_to_the_instance_that_asked(twins: Mesh) -> None:
    """Expect every reply at the instance whose message it answers, and at the one named where one is."""
    pure = twins["pure"]
    for number in range(6):
        asker = twins[f"alpha-{number % 2}"]
        asker.send("pure", message_id=f"q{number}")
        assert pure.send("alpha", message_id=f"r{number}", reply_to=f"q{number}").status == 200
        assert state(asker, f"r{number}") == "pending"
    pure.send("alpha", message_id="named", reply_to="q0", to_instance="alpha-1")
    assert state(twins["alpha-1"], "named") == "pending"


def test_a_reply_waits_for_the_instance_that_asked_if_that_comes_back(twins: Mesh, pool: ThreadPoolExecutor) -> None:
    """Expect it delivered to the restarted instance, not to its sibling."""
    asker, pure = twins["alpha-0"], twins["pure"]
    asker.send("pure", message_id="q")
    asker.stop()
    reply = pool.submit(pure.post, "/send", {"to_cell": "alpha", "message_id": "r", "reply_to": "q", "timeout": 20})
    eventually(lambda: "alpha-0" not in known(pure), within=10, message="pure to know that alpha-0 is gone")
    assert not reply.done()
    asker.move()
    asker.start()
    assert reply.result().status == 200
    assert state(asker, "r") == "pending"
    assert twins["alpha-1"].messages()["messages"] == []


def known(cell: Cell) -> set[str]:
    """Return the instances that a cell knows."""
    return {peer["instance"] for peer in cell.get("/peers").json["peers"]}


@pytest.mark.parametrize("mode", ["direct", "queued"])
def test_a_reply_is_kept_by_a_sibling_for_an_instance_that_is_away(twins: Mesh, mode: str) -> None:
    """Expect it with the sibling, not handed out there, and with the instance it is for once that is there."""
    pure, sibling = twins["pure"], twins["alpha-0"]
    asker = twins.add("alpha", instance="alpha-2", replicas="3", drain_accept="0", drain_timeout="3")
    asker.send("pure", message_id="q")
    twins.scale("alpha-1", 2)
    asker.stop()
    twins["alpha-1"].stop()
    # After the time in which one that restarts is waited for.
    body = {"to_cell": "alpha", "message_id": "r", "reply_to": "q", "timeout": 60, "ttl": 0, "payload": {"a": 1}}
    assert pure.post("/send", body | {"mode": mode}, timeout=70).status == (200 if mode == "direct" else 202)
    kept = arrived(sibling, "r")
    assert (kept["state"], kept["for_instance"]) == ("pending", "alpha-2")
    assert sibling.post("/messages/lease", {"max": 10}).json["messages"] == []
    asker.move()
    asker.start()
    there = arrived(asker, "r")
    assert (there["from_cell"], there["from_instance"], there["payload"]) == ("pure", "pure-0", {"a": 1})
    eventually(lambda: sibling.get("/messages/r").status == 404, within=20, message="the sibling to let it go")
    assert [m["message_id"] for m in asker.post("/messages/lease", {"max": 10}).json["messages"]] == ["r"]
    assert "handed over by alpha-0" in str(there["history"])


def test_a_waiter_gets_the_reply_that_a_sibling_has_kept(twins: Mesh, pool: ThreadPoolExecutor) -> None:
    """Expect the reply of the cell asked, consumed, though it came by way of another instance."""
    pure, sibling = twins["pure"], twins["alpha-0"]
    asker = twins.add("alpha", instance="alpha-2", replicas="3")
    twins.scale("alpha-1", 2)
    asked = ask(pool, asker, "pure", "q")
    arrived(pure, "q")
    # For discovery it is gone, until its next beat.
    gone = request(twins.discovery.port, "DELETE", "/meshes/default/peer/alpha?instance=alpha-2")
    assert gone.status == 200
    assert pure.send("alpha", message_id="r", reply_to="q").json["response"]["instance"] != "alpha-2"
    got = asked.result()
    assert (got.status, got.json["reply"]["from_cell"], got.json["reply"]["state"]) == (200, "pure", "consumed")
    assert state(asker, "r") == "consumed"
    eventually(lambda: sibling.get("/messages/r").status == 404, within=20, message="the sibling to let it go")
