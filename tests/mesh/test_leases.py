"""Consumers over HTTP, with cells as processes that are killed."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from processes import Answer, Cell, mesh
from support import eventually

pytestmark = pytest.mark.mesh


def give(cell: Cell, *message_ids: str, **fields: Any) -> None:
    """Post messages to a cell."""
    for one in message_ids:
        body = {"from_cell": "alpha", "message_id": one, "payload": {"id": one}, "ttl": 0} | fields
        assert cell.post("/message", body).status == 200


def lease(cell: Cell, **asked: Any) -> list[dict[str, Any]]:
    """Take messages."""
    answer = cell.post("/messages/lease", asked)
    assert answer.status == 200, answer
    assert answer.json["count"] == len(answer.json["messages"])
    return list(answer.json["messages"])


def settle(cell: Cell, verb: str, *taken: dict[str, Any], **more: Any) -> Answer:
    """Settle messages that were taken."""
    items = [{"seq": one["seq"], "lease_token": one["lease_token"]} | more for one in taken]
    return cell.post(f"/messages/{verb}", {"items": items})


def statuses(answer: Answer) -> list[Any]:
    """Return what became of each item."""
    assert answer.status == 200, answer
    return [item.get("code", item.get("state")) for item in answer.json["results"]]


def test_a_consumer_takes_settles_and_looks(tmp_path: Path) -> None:
    """Expect the whole dialect: lease, extend, ack, nack, reject, dead letters listed, put back and purged."""
    with mesh(tmp_path, "pure") as running:
        cell = running["pure"]
        give(cell, "a", "b", "c", "d")
        taken = lease(cell, max=4, lease_seconds=60)
        assert [one["message_id"] for one in taken] == ["a", "b", "c", "d"]
        assert {one["delivery_count"] for one in taken} == {1}
        assert taken[0]["payload"] == {"id": "a"}
        assert statuses(settle(cell, "extend", taken[0], lease_seconds=120)) == ["leased"]
        assert statuses(settle(cell, "ack", taken[0])) == ["consumed"]
        assert statuses(settle(cell, "nack", taken[1], delay=3600)) == ["pending"]
        assert statuses(settle(cell, "nack", taken[2], reject=True, reason="no such order")) == ["dead"]
        assert statuses(settle(cell, "ack", taken[0], taken[2])) == ["consumed", "lease_lost"]
        counts = cell.get("/health").json["messages"]
        assert {name: counts[name] for name in ("pending", "leased", "consumed", "dead")} == {
            "pending": 1,
            "leased": 1,
            "consumed": 1,
            "dead": 1,
        }
        (dead,) = cell.get("/dead?reason=rejected").json["messages"]
        assert (dead["message_id"], dead["reason"]) == ("c", "rejected")
        assert cell.get("/dead?reason=expired").json["messages"] == []
        put_back = cell.post("/dead/retry", {"items": [{"message_id": "c"}]})
        assert (put_back.status, put_back.json["changed"]) == (200, 1)
        (again,) = lease(cell, max=10)
        assert again["message_id"] == "c"
        settle(cell, "nack", again, reject=True)
        assert cell.post("/dead/purge", {"all": True}).json["changed"] == 1
        assert cell.get("/messages/c").status == 404
        repeat = cell.post("/message", {"from_cell": "alpha", "message_id": "c", "payload": {"id": "c"}, "ttl": 0})
        assert repeat.json["duplicate"] is True
        metrics = cell.get("/metrics").body.decode()
        assert 'cellmesh_settled_messages_total{outcome="ack"} 2.0' in metrics
        assert 'cellmesh_inbox_messages{state="leased"} 1.0' in metrics


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/messages/lease", {"max": 0}, "max"),
        ("/messages/lease", {"lease_seconds": 0}, "lease_seconds"),
        ("/messages/lease", {"wait": 1}, "wait"),
        ("/messages/ack", {"items": []}, "items"),
        ("/messages/ack", {"items": [{"lease_token": "x"}]}, "items[0].seq"),
        ("/messages/ack", {"items": [{"seq": 1}]}, "items[0].lease_token"),
        ("/messages/nack", {"items": [{"seq": 1, "lease_token": "x", "delay": -1}]}, "items[0].delay"),
        ("/dead/retry", {}, "items"),
        ("/dead/purge", {"all": True, "items": [{"seq": 1}]}, "items"),
        ("/dead/purge", {"items": [{"seq": 1}], "reason": "expired"}, "reason"),
    ],
)
def test_bad_input_names_the_field(shared: Cell, path: str, body: Any, field: str) -> None:
    """Expect 422 with the field, and what to do."""
    answer = shared.post(path, body)
    assert (answer.status, answer.json["code"], answer.json["field"]) == (422, "invalid_field", field)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Run one cell for all tests that leave nothing behind."""
    with mesh(tmp_path_factory.mktemp("leases"), "pure") as running:
        yield running["pure"]


def test_a_consumer_that_waits_is_answered_when_a_message_comes(tmp_path: Path) -> None:
    """Expect the answer long before the wait is over; and an empty one when nothing comes."""
    with mesh(tmp_path, "pure") as running:
        cell = running["pure"]
        got: list[Any] = []
        waiting = threading.Thread(target=lambda: got.extend(lease(cell, wait_seconds=30)))
        waiting.start()
        eventually(lambda: cell.get("/health").json["consumers_waiting"] == 1, within=10)
        give(cell, "a")
        waiting.join(10)
        assert [one["message_id"] for one in got] == ["a"]
        assert lease(cell, wait_seconds=0.2) == []


def test_what_is_leased_to_a_client_that_has_gone_is_handed_back(tmp_path: Path) -> None:
    """Expect a message that comes after its consumer has hung up to go to the next one, as its first delivery."""
    with mesh(tmp_path, "pure") as running:
        cell = running["pure"]
        connection = http.client.HTTPConnection("127.0.0.1", cell.port)
        body = json.dumps({"wait_seconds": 60, "lease_seconds": 3600})
        connection.request("POST", "/messages/lease", body, {"Content-Type": "application/json"})
        eventually(lambda: cell.get("/health").json["consumers_waiting"] == 1, within=10)
        connection.close()
        eventually(lambda: cell.get("/health").json["consumers_waiting"] == 0, within=10)
        give(cell, "a")
        (taken,) = eventually(lambda: lease(cell), within=10)
        assert taken["delivery_count"] == 1


def test_leases_and_acks_outlive_a_killed_cell(tmp_path: Path) -> None:
    """Expect the token to be good after SIGKILL, nobody else to have got the message, and an ack to stay one."""
    with mesh(tmp_path, "pure") as running:
        cell = running["pure"]
        give(cell, *(f"m-{number}" for number in range(20)))
        taken = lease(cell, max=10, lease_seconds=3600)
        assert statuses(settle(cell, "ack", *taken[:5])) == ["consumed"] * 5
        for _ in range(3):
            cell.kill()
            cell.start()
        assert [one["message_id"] for one in lease(cell, max=100)] == [f"m-{number}" for number in range(10, 20)]
        assert statuses(settle(cell, "ack", *taken)) == ["consumed"] * 10


def test_a_stopping_cell_answers_its_consumers_and_takes_their_acks(tmp_path: Path) -> None:
    """Expect a wait to end with nothing, a new lease to be refused, and an ack to be taken while it drains."""
    with mesh(tmp_path, "pure", drain_accept="0.5", drain_timeout="20") as running:
        cell = running["pure"]
        give(cell, "a")
        taken = lease(cell, lease_seconds=3600)
        got: list[Any] = []
        waiting = threading.Thread(target=lambda: got.append(cell.post("/messages/lease", {"wait_seconds": 60})))
        waiting.start()
        eventually(lambda: cell.get("/health").json["consumers_waiting"] == 1, within=10)
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", cell.port)) as kept:
            kept.connect()
            cell.signal(signal.SIGTERM)
            waiting.join(10)
            assert (got[0].status, got[0].json["messages"]) == (200, [])
            body = json.dumps({"items": [{"seq": taken[0]["seq"], "lease_token": taken[0]["lease_token"]}]})
            kept.request("POST", "/messages/ack", body, {"Content-Type": "application/json"})
            assert json.loads(kept.getresponse().read())["results"][0]["state"] == "consumed"
        assert cell.wait(20) == 0
