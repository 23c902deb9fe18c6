"""Queued sends between real processes: on disk before the 202, delivered later, whatever happens meanwhile."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from processes import Answer, Cell, Mesh, mesh, request
from support import eventually

pytestmark = pytest.mark.mesh

ids = (f"queued-{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """Run alpha, pure and beta with discovery."""
    with mesh(tmp_path_factory.mktemp("mesh"), "alpha", "pure", "beta") as cells:
        yield cells


@pytest.fixture
def alpha(running: Mesh) -> Cell:
    """Return the cell that sends."""
    return running["alpha"]


@pytest.fixture
def message_id() -> str:
    """Return an id that no other test uses."""
    return next(ids)


def queue(cell: Cell, to_cell: Any, message_id: str | None = None, **fields: Any) -> Answer:
    """Queue a message."""
    given = {} if message_id is None else {"message_id": message_id}
    return cell.send(to_cell, mode="queued", **given, **fields)


def sent(cell: Cell, message_id: str) -> dict[str, Any]:
    """Return what a cell says of a message that was queued."""
    answer = cell.get(f"/sent/{message_id}")
    assert answer.status == 200, answer
    return dict(answer.json)


def ended(cell: Cell, message_id: str, state: str, within: float = 15) -> dict[str, Any]:
    """Wait until a message has come to a state; return what its cell says of it."""

    def there() -> dict[str, Any] | None:
        found = sent(cell, message_id)
        return found if found["state"] == state else None

    found = eventually(there, within=within, message=f"{message_id} to be {state}")
    assert found is not None
    return found


def delete(cell: Cell, message_id: str) -> Answer:
    """Take a message back."""
    return request(cell.port, "DELETE", f"/sent/{message_id}")


def test_a_queued_message_is_accepted_and_then_delivered(running: Mesh, alpha: Cell, message_id: str) -> None:
    """Expect 202 at once, and a little later the message in the receiver's inbox, once, as it was sent."""
    reply = queue(alpha, "pure", message_id, payload={"n": 1.50}, message_type="command", priority="high", ttl=600)
    assert (reply.status, reply.json["status"]) == (202, "queued")
    assert (reply.json["message_id"], reply.json["to_cell"]) == (message_id, "pure")
    found = ended(alpha, message_id, "delivered")
    assert (found["attempts"], found["instance"], "payload" in found) == (1, "pure-0", False)
    there = running["pure"].get(f"/messages/{message_id}").json
    assert (there["payload"], there["message_type"], there["priority"], there["ttl"]) == (
        {"n": 1.5},
        "command",
        "high",
        600,
    )
    assert (there["from_cell"], there["from_instance"], there["timestamp"]) == (
        "alpha",
        "alpha-0",
        reply.json["timestamp"],
    )


def test_the_same_id_again_is_the_same_message(alpha: Cell, message_id: str) -> None:
    """Expect 202 with ``duplicate`` and the present state, and 409 for another payload."""
    first = queue(alpha, "pure", message_id, payload={"a": 1, "b": 2})
    ended(alpha, message_id, "delivered")
    again = queue(alpha, "pure", message_id, payload={"b": 2, "a": 1})
    assert (again.status, again.json["duplicate"], again.json["state"]) == (202, True, "delivered")
    assert again.json["timestamp"] == first.json["timestamp"]
    other = queue(alpha, "pure", message_id, payload={"a": 2})
    assert (other.status, other.json["code"], other.json["maybe_delivered"]) == (409, "id_conflict", False)


def test_a_cell_that_does_not_exist_yet_is_waited_for(running: Mesh, alpha: Cell, message_id: str) -> None:
    """Expect it to be queued, to say why, and to be delivered when the cell has come."""
    assert queue(alpha, "latecomer", message_id).status == 202
    waiting = eventually(lambda: sent(alpha, message_id).get("code") and sent(alpha, message_id), within=10)
    assert (waiting["state"], waiting["code"], waiting["attempts"]) == ("queued", "unknown_cell", 0)
    latecomer = running.add("latecomer")
    ended(alpha, message_id, "delivered")
    assert [message["message_id"] for message in latecomer.messages()["messages"]] == [message_id]


def test_a_message_that_nobody_can_have_is_taken_back(alpha: Cell, message_id: str) -> None:
    """Expect ``cancelled``, and 409 when it is asked for again or is delivered."""
    queue(alpha, "nobody", message_id, payload={"kept": True})
    reply = delete(alpha, message_id)
    assert (reply.status, reply.json["state"], reply.json["payload"]) == (200, "cancelled", {"kept": True})
    again = delete(alpha, message_id)
    assert (again.status, again.json["code"]) == (409, "not_queued")
    queue(alpha, "pure", f"{message_id}-delivered")
    ended(alpha, f"{message_id}-delivered", "delivered")
    late = delete(alpha, f"{message_id}-delivered")
    assert (late.status, late.json["code"]) == (409, "not_queued")
    assert delete(alpha, f"{message_id}-unknown").status == 404


def test_an_expired_message_is_retried_under_its_id(running: Mesh, alpha: Cell, message_id: str) -> None:
    """Expect ``expired`` after its ttl, ``queued`` again with its whole ttl, and the message delivered once."""
    queue(alpha, "phoenix", message_id, ttl=1, payload={"n": 7})
    expired = ended(alpha, message_id, "expired")
    assert expired["attempts"] == 0
    reply = alpha.post(f"/sent/{message_id}/retry", {})
    assert (reply.status, reply.json["state"]) == (200, "queued")
    assert reply.json["seq"] > expired["seq"]
    assert alpha.post(f"/sent/{message_id}/retry", {}).json["code"] == "not_ended"
    ended(alpha, message_id, "expired")
    phoenix = running.add("phoenix")
    assert alpha.post(f"/sent/{message_id}/retry", {}).status == 200
    ended(alpha, message_id, "delivered")
    assert [(m["message_id"], m["payload"]) for m in phoenix.messages()["messages"]] == [(message_id, {"n": 7})]
    assert alpha.post(f"/sent/{message_id}/retry", {}).json["code"] == "not_ended"


def test_a_message_to_several_is_queued_with_all_its_copies(running: Mesh, alpha: Cell, message_id: str) -> None:
    """Expect a copy for each receiver, results by receiver, and a repeat that changes nothing."""
    reply = queue(alpha, ["pure", "beta"], message_id, payload={"to": "all"})
    assert (reply.status, reply.json["to_cell"], reply.json["count"]) == (202, ["pure", "beta"], 2)
    found = ended(alpha, message_id, "delivered")
    assert {result["to_cell"]: result["state"] for result in found["results"]} == {
        "pure": "delivered",
        "beta": "delivered",
    }
    again = queue(alpha, ["pure", "latecomer"], message_id, payload={"to": "all"})
    assert (again.status, again.json["duplicate"], again.json["to_cell"]) == (202, True, ["pure", "beta"])
    other = queue(alpha, ["pure"], message_id, payload={"to": "none"}, instances="all")
    assert (other.status, other.json["code"]) == (409, "id_conflict")
    for name in ("pure", "beta"):
        assert running[name].get(f"/messages/{message_id}").json["payload"] == {"to": "all"}


def test_what_was_queued_is_listed_by_state(alpha: Cell, message_id: str) -> None:
    """Expect it on the page of its state, behind the position asked for, and counted."""
    queue(alpha, "nobody", message_id)
    seq = sent(alpha, message_id)["seq"]
    page = alpha.get(f"/sent?state=queued&after={seq - 1}").json
    assert [message["message_id"] for message in page["messages"]] == [message_id]
    assert (page["next"], page["cell_id"]) == (seq, "alpha")
    assert page["total"] >= 1
    assert alpha.get(f"/sent?state=dead&after={seq - 1}").json["messages"] == []
    assert alpha.get("/sent?state=lost").json["field"] == "state"
    assert alpha.get("/health").json["outbox"]["queued"] >= 1
    assert b'cellmesh_outbox_messages{state="queued"}' in alpha.get("/metrics").body
    delete(alpha, message_id)


def test_what_cannot_be_queued_is_refused_at_once(alpha: Cell, message_id: str) -> None:
    """Expect 422 or 404 that names the field."""
    for fields, status, field in (
        ({"await_reply": 1}, 422, "await_reply"),
        ({"ttl": 5, "not_before": 5}, 422, "not_before"),
        ({"mode": "later"}, 422, "mode"),
    ):
        reply = alpha.send("pure", **{"mode": "queued", "message_id": message_id, **fields})
        assert (reply.status, reply.json["field"]) == (status, field)
    reply = queue(alpha, "no cell", message_id)
    assert (reply.status, reply.json["code"]) == (404, "unknown_cell")
    assert alpha.get(f"/sent/{message_id}").status == 404


def test_the_outbox_survives_a_kill(tmp_path: Path) -> None:
    """Expect every message that was accepted delivered once after the sender was killed and started again."""
    with mesh(tmp_path, "alpha", "pure") as cells:
        alpha, pure = cells["alpha"], cells["pure"]
        pure.kill()
        accepted = [queue(alpha, "pure", ttl=0, payload={"n": n}).json["message_id"] for n in range(50)]
        alpha.kill()
        alpha.start()
        pure.start()
        eventually(lambda: alpha.get("/health").json["outbox"]["queued"] == 0, within=30)
        assert [message["message_id"] for message in pure.messages()["messages"]] == accepted
        assert {sent(alpha, one)["state"] for one in accepted} == {"delivered"}
