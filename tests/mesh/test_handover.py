"""Instances that end hand over what they have to their siblings: real processes, some of them killed meanwhile."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import apsw
import pytest

from processes import Cell, Mesh, mesh
from scripted import answer, peer
from support import eventually

pytestmark = pytest.mark.mesh

KILLS = 4
QUICK = {"drain_accept": "0", "drain_timeout": "10"}


@pytest.fixture
def twins(tmp_path: Path) -> Iterator[Mesh]:
    """Run two instances of alpha that are without a volume."""
    with mesh(tmp_path, "alpha", settle=0, replicas="2", durability="ephemeral", **QUICK) as running:
        running.add("alpha", instance="alpha-1", replicas="2", durability="ephemeral", **QUICK)
        yield running


@pytest.fixture
def surplus(tmp_path: Path) -> Iterator[Mesh]:
    """Run two instances of alpha with volumes, of which discovery says that there should be one."""
    with mesh(tmp_path, "alpha", settle=0, replicas="2", **QUICK) as running:
        running.add("alpha", instance="alpha-1", replicas="2", **QUICK)
        running.scale("alpha-0", 1)
        yield running


def fill(cell: Cell, prefix: str, count: int, **fields: Any) -> list[str]:
    """Give a cell messages; return their ids."""
    ids = [f"{prefix}{number}" for number in range(count)]
    for start in range(0, count, 200):
        batch = [
            {"message_id": one, "from_cell": "x", "ttl": 0, "payload": {"id": one}} | fields
            for one in ids[start : start + 200]
        ]
        items = cell.post("/message/batch", batch).json
        assert {item["status"] for item in items} == {200}
    return ids


def everything(cell: Cell) -> list[dict[str, Any]]:
    """Return all messages of a cell."""
    found: list[dict[str, Any]] = []
    while page := cell.messages(f"limit=1000&after={found[-1]['seq'] if found else 0}")["messages"]:
        found += page
    return found


def ids(cell: Cell, state: str = "pending") -> list[str]:
    """Return the ids of the messages of a cell in one state, in their order."""
    return [message["message_id"] for message in everything(cell) if message["state"] == state]


def lease(cell: Cell, most: int = 100, **fields: Any) -> list[dict[str, Any]]:
    """Lease messages."""
    answer = cell.post("/messages/lease", {"max": most} | fields)
    assert answer.status == 200, answer
    return list(answer.json["messages"])


def ack(cell: Cell, leased: list[dict[str, Any]]) -> None:
    """Say that messages are done."""
    items = [{"seq": message["seq"], "lease_token": message["lease_token"]} for message in leased]
    results = cell.post("/messages/ack", {"items": items}).json["results"]
    assert {result["status"] for result in results} == {"ok"}


def test_an_instance_without_a_volume_hands_over_all_that_waits(twins: Mesh) -> None:
    """Expect every message with its sibling, in order, with its past, and nothing else; the end is orderly."""
    ending, sibling = twins["alpha-1"], twins["alpha-0"]
    given = fill(ending, "m", 700, conversation_id="c", reply_to="earlier", traceparent="t")
    assert ending.stop() == 0
    assert ids(sibling) == given
    for message in everything(sibling)[::100]:
        assert message["payload"] == {"id": message["message_id"]}
        assert (message["from_cell"], message["conversation_id"]) == ("x", "c")
        assert (message["reply_to"], message["traceparent"]) == ("earlier", "t")
    assert "ends with 0 pending messages, 0 leased by clients and 0 to be sent\n" in ending.log.read_text()


def test_an_instance_beyond_the_replicas_hands_over_all_that_waits(surplus: Mesh) -> None:
    """Expect the same of one with a volume that is scaled away; started again, it has none of them."""
    ending = surplus["alpha-1"]
    given = fill(ending, "m", 300)
    assert ending.stop() == 0
    assert ids(surplus["alpha-0"]) == given
    ending.start()
    assert everything(ending) == []


def test_an_instance_that_comes_back_keeps_what_it_has(surplus: Mesh) -> None:
    """Expect nothing handed over by an instance with a volume that its cell should have."""
    ending = surplus["alpha-0"]
    given = fill(ending, "m", 10)
    assert ending.stop() == 0
    assert everything(surplus["alpha-1"]) == []
    ending.start()
    assert ids(ending) == given


def test_what_belongs_to_a_message_goes_with_it(twins: Mesh) -> None:
    """Expect its deliveries, what is left of its delay and ttl, its priority and its history."""
    ending, sibling = twins["alpha-1"], twins["alpha-0"]
    fill(ending, "tried", 1, priority="high")
    (leased,) = lease(ending)
    nack = {"seq": leased["seq"], "lease_token": leased["lease_token"], "reason": "not today"}
    assert ending.post("/messages/nack", {"items": [nack]}).status == 200
    fill(ending, "later", 1, not_before=3000, ttl=6000)
    received = ending.get("/messages/tried0").json["received_at"]
    assert ending.stop() == 0
    tried, later = sibling.get("/messages/tried0").json, sibling.get("/messages/later0").json
    assert (tried["delivery_count"], tried["priority"]) == (1, "high")
    assert [step["reason"] for step in tried["history"] if "reason" in step] == [
        "not today",
        "handed over by alpha-1",
    ]
    age = datetime.fromisoformat(tried["received_at"]) - datetime.fromisoformat(received)
    assert abs(age.total_seconds()) < 1
    assert (later["ttl"], later["not_before"]) == (6000, 3000)
    assert later["available_at"] > later["received_at"]
    assert [message["message_id"] for message in lease(sibling)] == ["tried0"]
    assert lease(sibling) == []


def test_what_is_no_longer_there_is_recognised_by_the_sibling(twins: Mesh) -> None:
    """Expect a repeat of a consumed message to be a duplicate, and one with other content a conflict."""
    ending, sibling = twins["alpha-1"], twins["alpha-0"]
    fill(ending, "done", 300)
    while leased := lease(ending):
        ack(ending, leased)
    fill(ending, "open", 3)
    assert ending.stop() == 0
    repeat = {"message_id": "done7", "from_cell": "x", "ttl": 0, "payload": {"id": "done7"}}
    assert sibling.post("/message", repeat).json["duplicate"] is True
    assert sibling.post("/message", repeat | {"payload": {}}).status == 409
    repeat = {"message_id": "open1", "from_cell": "x", "ttl": 0, "payload": {"id": "open1"}}
    assert sibling.post("/message", repeat).json["duplicate"] is True
    assert ids(sibling) == ["open0", "open1", "open2"]
    # They outlive a restart, and stand in nobody's way.
    sibling.kill()
    sibling.start()
    fill(sibling, "new", 3)
    repeat = {"message_id": "done299", "from_cell": "x", "ttl": 0, "payload": {"id": "done299"}}
    assert sibling.post("/message", repeat).json["duplicate"] is True
    assert ids(sibling) == ["open0", "open1", "open2", "new0", "new1", "new2"]


def test_messages_that_come_in_at_the_end_are_handed_over_too(tmp_path: Path) -> None:
    """Expect every acknowledged one with the sibling."""
    settings = {"replicas": "2", "durability": "ephemeral", "drain_accept": "1.5", "drain_timeout": "10"}
    with mesh(tmp_path, "alpha", settle=0, **settings) as twins:
        ending = twins.add("alpha", instance="alpha-1", **settings)
        fill(ending, "m", 3)
        acknowledged: list[str] = []

        def loop() -> None:
            for number in range(100_000):
                try:
                    body = {"message_id": f"n{number}", "from_cell": "x", "ttl": 0, "payload": {}}
                    if ending.post("/message", body).status == 200:
                        acknowledged.append(f"n{number}")
                except OSError:
                    return

        sending = threading.Thread(target=loop)
        sending.start()
        eventually(lambda: len(acknowledged) > 10, within=20, message="some messages")
        ending.signal(signal.SIGTERM)
        sending.join(40)
        assert ending.wait() == 0
        assert sorted(ids(twins["alpha-0"])) == sorted(["m0", "m1", "m2", *acknowledged])


def test_what_is_leased_by_a_client_is_handed_over_only_when_it_comes_back(twins: Mesh) -> None:
    """Expect acks taken until the end, a lease that runs out handed over, and one that does not lost, and said."""
    ending, sibling = twins["alpha-1"], twins["alpha-0"]
    fill(ending, "acked", 1)
    (acked,) = lease(ending, lease_seconds=300)
    fill(ending, "over", 1)
    lease(ending, lease_seconds=3)
    fill(ending, "held", 1)
    lease(ending, lease_seconds=300)
    fill(ending, "open", 1)
    ending.signal(signal.SIGTERM)
    eventually(lambda: ids(sibling) == ["open0"], within=10, message="the pending one at the sibling")
    ack(ending, [acked])
    eventually(lambda: ids(sibling) == ["open0", "over0"], within=10, message="the one whose lease is over")
    assert ending.wait() == 0
    assert ids(sibling) == ["open0", "over0"]
    said = "ends with 0 pending messages, 1 leased by clients and 0 to be sent: lost with its storage"
    assert said in ending.log.read_text()
    repeat = {"message_id": "acked0", "from_cell": "x", "ttl": 0, "payload": {"id": "acked0"}}
    assert "duplicate" not in sibling.post("/message", repeat | {"message_id": "another"}).json


def test_without_a_sibling_it_ends_soon_and_says_what_is_lost(tmp_path: Path) -> None:
    """Expect no waiting for one that will not come, and the number of messages."""
    with mesh(tmp_path, "alpha", durability="ephemeral", drain_accept="0", drain_timeout="60") as running:
        fill(running["alpha"], "m", 5)
        assert running["alpha"].stop(within=10) == 0
        assert "ends with 5 pending messages" in running["alpha"].log.read_text()


def test_what_a_full_sibling_does_not_take_stays(surplus: Mesh, tmp_path: Path) -> None:
    """Expect the sibling filled to its bound, and the rest on the volume, pending after a restart."""
    sibling = surplus["alpha-0"]
    sibling.stop()
    sibling._environ["CELLMESH_MAX_MESSAGES"] = "100"
    sibling.start()
    surplus.wait_listed(sibling)
    surplus.scale("alpha-0", 1)
    ending = surplus["alpha-1"]
    given = fill(ending, "m", 250)
    ending._environ["CELLMESH_DRAIN_TIMEOUT"] = "3"
    assert ending.stop() == 0
    assert ids(sibling) == given[:100]
    assert "ends with 150 pending messages" in ending.log.read_text()
    ending.start()
    assert ids(ending) == given[100:]
    assert len(lease(ending, 1000)) == 150


def test_messages_are_spread_over_the_siblings(twins: Mesh) -> None:
    """Expect both to have some, each message once."""
    settings = {"replicas": "3", "durability": "ephemeral"} | QUICK
    third = twins.add("alpha", instance="alpha-2", **settings)
    given = fill(third, "m", 3000, payload={"filling": "x" * 1000})
    assert third.stop() == 0
    there = [ids(twins["alpha-0"]), ids(twins["alpha-1"])]
    assert sorted(there[0] + there[1]) == sorted(given)
    assert all(there)


def test_a_hand_over_whose_outcome_is_unknown_is_asked_about_at_that_sibling_only(surplus: Mesh) -> None:
    """Expect the same messages again there, none of them anywhere else, and all of them left as they were."""
    asked: list[dict[str, Any]] = []

    def lose(body: dict[str, Any]) -> bytes | None:
        asked.append(body)
        return None

    surplus["alpha-0"].stop()
    ending = surplus["alpha-1"]
    with peer(lose) as silent:
        surplus.discovery.register("alpha", silent.port, instance="alpha-5", replicas=1)
        fill(ending, "m", 3)
        ending._environ["CELLMESH_DRAIN_TIMEOUT"] = "3"
        assert ending.stop() == 0
    sent = [[message["message"]["message_id"] for message in body["messages"]] for body in asked]
    assert len(sent) > 1
    assert all(one == ["m0", "m1", "m2"] for one in sent)
    assert {body["to_instance"] for body in asked} == {"alpha-5"}
    ending.start()
    assert ids(ending) == ["m0", "m1", "m2"]
    assert lease(ending) == []


def test_a_sibling_that_knows_no_hand_over_gets_nothing(surplus: Mesh) -> None:
    """Expect what an older program refuses to go to another sibling."""
    with peer(lambda _: answer(404, {"detail": "Not Found"})) as old:
        surplus.discovery.register("alpha", old.port, instance="alpha-7", replicas=1)
        given = fill(surplus["alpha-1"], "m", 600)
        assert surplus["alpha-1"].stop() == 0
    assert sorted(ids(surplus["alpha-0"])) == sorted(given)


def killed(tmp_path: Path, victim: str) -> tuple[Counter[str], list[str], int]:
    """Kill an instance in the middle of a hand-over and start it again, some times; then let it finish.

    Return what the sibling has, what it should have, and how often the hand-over was not finished at a kill.
    """
    settings = {"replicas": "2", "drain_accept": "0", "drain_timeout": "30"}
    with mesh(tmp_path, "alpha", settle=0, **settings) as twins:
        ending, sibling = twins.add("alpha", instance="alpha-1", **settings), twins["alpha-0"]
        given = fill(ending, "m", 6000, payload={"filling": "x" * 8000})
        interrupted = 0
        for _ in range(KILLS):
            if not total(ending):
                break
            twins.scale("alpha-0", 1)
            before = total(sibling)
            ending.signal(signal.SIGTERM)
            eventually(lambda than=before: total(sibling) > than, within=20, message="a part handed over")  # type: ignore[misc]
            process = sibling if victim == "sibling" else ending
            process.kill()
            there = len(ids_on_disk(sibling)) if victim == "sibling" else total(sibling)
            interrupted += there < len(given)
            process.start()
            if victim == "sibling":
                ending.wait()
                ending.start()
            twins.wait_listed(ending, sibling)
        twins.scale("alpha-0", 1)
        assert ending.stop() == 0
        return Counter(ids(sibling)), given, interrupted


def ids_on_disk(cell: Cell) -> list[str]:
    """Return the ids in the file of a cell that does not run."""
    with contextlib.closing(apsw.Connection(str(cell.data_dir / "inbox.db"))) as connection:
        return [str(row[0]) for row in connection.execute("SELECT message_id FROM messages")]


def total(cell: Cell) -> int:
    """Return how many messages a cell has."""
    return int(cell.get("/health").json["messages"]["pending"])


@pytest.mark.parametrize("victim", ["source", "sibling"])
def test_a_kill_in_the_middle_of_a_hand_over_loses_nothing_and_doubles_nothing(tmp_path: Path, victim: str) -> None:
    """Expect every message with the sibling in the end, once, whoever was killed."""
    found, given, interrupted = killed(tmp_path, victim)
    assert interrupted
    assert found == Counter(given)


def test_two_that_end_at_the_same_time_do_not_pass_messages_to_and_fro(twins: Mesh) -> None:
    """Expect each message with the third, once."""
    third = twins.add("alpha", instance="alpha-2", replicas="3", durability="ephemeral", **QUICK)
    given = [*fill(twins["alpha-0"], "a", 800), *fill(twins["alpha-1"], "b", 800)]
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda name: twins[name].stop(), ["alpha-0", "alpha-1"])) == [0, 0]
    assert Counter(ids(third)) == Counter(given)


def test_what_a_handler_does_not_finish_is_handed_over_as_not_delivered(tmp_path: Path) -> None:
    """Expect messages that are being handled at the end with the sibling, and no delivery counted."""
    settings = {"replicas": "2", "durability": "ephemeral"} | QUICK | {"drain_timeout": "4"}
    with peer(None) as hung, mesh(tmp_path, "alpha", settle=0, **settings) as twins:
        handler = {"handler_url": f"http://127.0.0.1:{hung.port}", "handler_concurrency": "2"}
        ending = twins.add("alpha", instance="alpha-1", **settings, **handler)
        given = fill(ending, "m", 5)
        eventually(lambda: len(hung.messages) == 2, within=20, message="two messages to be handled")
        assert ending.stop() == 0
        there = everything(twins["alpha-0"])
    assert sorted(message["message_id"] for message in there) == given
    assert {message.get("delivery_count", 0) for message in there} == {0}


def test_what_is_queued_is_sent_before_the_end(tmp_path: Path) -> None:
    """Expect queued messages delivered while the rest is handed over, and what cannot be to be said."""
    settings = {"replicas": "2", "durability": "ephemeral"} | QUICK | {"drain_timeout": "6"}
    with mesh(tmp_path, "alpha", "pure", settle=0, **settings) as running:
        pure, ending = running["pure"], running.add("alpha", instance="alpha-1", **settings)
        port = pure.port
        pure.kill()
        for number in range(20):
            sent = ending.send("pure", message_id=f"q{number}", mode="queued", ttl=0)
            assert sent.status == 202
        assert ending.send("nobody", mode="queued", ttl=0).status == 202
        given = fill(ending, "m", 10)
        ending.signal(signal.SIGTERM)
        eventually(lambda: ids(running["alpha-0"]) == given, within=10, message="the hand-over")
        assert pure.port == port
        pure.start()
        eventually(lambda: len(ids(pure)) == 20, within=10, message="the queued messages")
        assert ending.wait() == 0
        assert "0 leased by clients and 1 to be sent: lost with its storage" in ending.log.read_text()
