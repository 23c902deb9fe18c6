"""One message to several receivers, by real cells."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from processes import Answer, Cell, Mesh, mesh
from scripted import answer, peer
from support import eventually, free_port

pytestmark = pytest.mark.mesh


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """Run alpha, pure with two instances, and gamma."""
    with mesh(tmp_path_factory.mktemp("mesh"), "alpha", "pure", "gamma", settle=0) as cells:
        cells.add("pure", instance="pure-1")
        yield cells


def got(cell: Cell, message_id: str) -> list[str | None]:
    """Return whom the copies of a message that a cell has were for."""
    return [m["to_cell"] for m in cell.messages()["messages"] if m["message_id"] == message_id]


def outcome(reply: Answer) -> dict[str, int]:
    """Return the status of each receiver; instances by their names where there are several of a cell."""
    results = reply.json["results"]
    assert reply.json["count"] == len(results)
    assert reply.json["delivered"] == sum(result["status"] == 200 for result in results)
    return {result.get("instance") or result["to_cell"]: result["status"] for result in results}


def test_everyone_else_gets_a_copy(running: Mesh) -> None:
    """Expect one instance of every other cell to have it, with its own name as receiver, and the sender not."""
    reply = running["alpha"].send("*", message_id="all", payload={"n": 1})
    assert (reply.status, reply.json["status"], reply.json["message_id"]) == (200, "delivered", "all")
    assert [result["to_cell"] for result in reply.json["results"]] == ["gamma", "pure"]
    for result in reply.json["results"]:
        assert result["body"]["message_id"] == "all"
        assert result["body"]["to_cell"] == result["body"]["response"]["cell_id"] == result["to_cell"]
        assert result["instance"] == result["body"]["response"]["instance"]
    assert got(running["gamma"], "all") == ["gamma"]
    assert sorted([got(running["pure-0"], "all"), got(running["pure-1"], "all")]) == [[], ["pure"]]
    assert got(running["alpha"], "all") == []


def test_every_instance_gets_a_copy(running: Mesh) -> None:
    """Expect each instance of every other cell to have it, once."""
    reply = running["alpha"].send("*", message_id="each", instances="all")
    assert (reply.status, outcome(reply)) == (200, {"gamma-0": 200, "pure-0": 200, "pure-1": 200})
    for instance in ("gamma-0", "pure-0", "pure-1"):
        assert got(running[instance], "each") == [instance[:-2]]


def test_every_instance_of_one_cell_gets_a_copy(running: Mesh) -> None:
    """Expect both instances of the cell named, and nobody else."""
    reply = running["alpha"].send("pure", message_id="both", instances="all")
    assert (reply.status, outcome(reply)) == (200, {"pure-0": 200, "pure-1": 200})
    assert got(running["gamma"], "both") == []


def test_those_named_get_a_copy_each_once(running: Mesh) -> None:
    """Expect a list to be taken by its names, the sender's own if it is there, a name said twice once."""
    reply = send(running["alpha"], to_cell=["gamma", "alpha", "gamma"], message_id="named")
    assert (reply.status, outcome(reply)) == (200, {"gamma-0": 200, "alpha-0": 200})
    assert got(running["gamma"], "named") == ["gamma"]
    assert got(running["alpha"], "named") == ["alpha"]


def send(cell: Cell, **fields: Any) -> Answer:
    """Send what is not to one cell by its name."""
    return cell.post("/send", fields)


def test_some_have_it_is_said_with_the_outcome_of_each(running: Mesh) -> None:
    """Expect 207, with what a send to each alone would have answered."""
    running.discovery.register("deaf", free_port())
    reply = send(running["alpha"], to_cell=["gamma", "nobody", "deaf"], message_id="some", timeout=1)
    assert (reply.status, reply.json["status"]) == (207, "partial")
    assert outcome(reply) == {"gamma-0": 200, "nobody": 404, "deaf": 502}
    nobody, deaf = reply.json["results"][1]["body"], reply.json["results"][2]["body"]
    assert (nobody["code"], nobody["maybe_delivered"], nobody["to_cell"]) == ("unknown_cell", False, "nobody")
    assert (deaf["code"], deaf["message_id"]) == ("unreachable", "some")


@pytest.mark.parametrize("instances", ["one", "all"])
def test_nobody_has_it_is_said(running: Mesh, instances: str) -> None:
    """Expect 502 where no copy was delivered."""
    reply = send(running["alpha"], to_cell=["nobody", "noone"], instances=instances, message_id="none")
    assert (reply.status, reply.json["status"], reply.json["delivered"]) == (502, "failed", 0)
    assert outcome(reply) == {"nobody": 404, "noone": 404}


def test_a_slow_receiver_takes_nothing_from_the_others(running: Mesh) -> None:
    """Expect the others to have it at once, and an answer when the time is over."""
    with peer(None) as hung, ThreadPoolExecutor(1) as pool:
        running.discovery.register("hung", hung.port)
        begun = time.monotonic()
        sent = pool.submit(send, running["alpha"], to_cell=["hung", "gamma"], message_id="slow", timeout=2)
        eventually(lambda: got(running["gamma"], "slow"), within=1.5, message="the copy of gamma")
        assert not sent.done()
        assert outcome(sent.result()) == {"hung": 504, "gamma-0": 200}
        assert time.monotonic() - begun < 10


def test_the_same_again_is_a_duplicate_for_each(running: Mesh) -> None:
    """Expect a repeat with the same id to be recognised by every receiver that has it."""
    for _ in range(2):
        reply = send(running["alpha"], to_cell=["gamma", "pure"], message_id="again", payload={})
        assert reply.status == 200
    assert [result["body"]["response"].get("duplicate") for result in reply.json["results"]] == [True, True]


def test_every_copy_is_for_its_receiver(running: Mesh) -> None:
    """Expect what travels to name the receiver and its instance, with the same id."""
    received = answer(200, {"status": "received", "acknowledged": True})
    with peer(lambda _: received) as one, peer(lambda _: received) as other:
        running.discovery.register("twin", one.port, instance="twin-0")
        running.discovery.register("twin", other.port, instance="twin-1")
        reply = running["alpha"].send("twin", message_id="twins", instances="all")
        assert outcome(reply) == {"twin-0": 200, "twin-1": 200}
        found = [(m["message_id"], m["to_cell"], m["to_instance"]) for m in (*one.messages, *other.messages)]
    assert found == [("twins", "twin", "twin-0"), ("twins", "twin", "twin-1")]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"to_cell": "*", "await_reply": 5}, "await_reply"),
        ({"to_cell": ["pure"], "await_reply": 5}, "await_reply"),
        ({"to_cell": "pure", "instances": "all", "await_reply": 5}, "await_reply"),
        ({"to_cell": "*", "to_instance": "pure-0"}, "to_instance"),
        ({"to_cell": ["pure", "*"]}, "to_cell"),
        ({"to_cell": []}, "to_cell"),
        ({"to_cell": [""]}, "to_cell[0]"),
        ({"to_cell": [1]}, "to_cell[0]"),
        ({"to_cell": {}}, "to_cell"),
        ({"to_cell": "pure", "instances": "some"}, "instances"),
    ],
)
def test_what_has_no_meaning_for_several_is_refused(running: Mesh, fields: dict[str, Any], field: str) -> None:
    """Expect 422 naming the field."""
    reply = send(running["alpha"], **fields)
    assert (reply.status, reply.json["code"], reply.json["field"]) == (422, "invalid_field", field)


def test_alone_in_the_mesh_there_are_no_receivers(tmp_path: Path) -> None:
    """Expect 404 ``no_receivers``, also with an instance of the same cell beside."""
    with mesh(tmp_path, "alpha", settle=0) as running:
        running.add("alpha", instance="alpha-1")
        reply = running["alpha-0"].send("*", instances="all", message_id="m")
        assert (reply.status, reply.json["code"], reply.json["message_id"]) == (404, "no_receivers", "m")
        assert reply.json["maybe_delivered"] is False


def test_without_discovery_nobody_is_known(tmp_path: Path) -> None:
    """Expect 503 ``discovery_unavailable``."""
    cell = Cell("alpha", tmp_path)
    try:
        cell.start()
        reply = cell.send("*")
        assert (reply.status, reply.json["code"]) == (503, "discovery_unavailable")
    finally:
        cell.kill()


def test_a_cell_that_has_to_stop_says_what_is_known_of_each_copy(tmp_path: Path) -> None:
    """Expect the outcome of each when the time to stop is over."""
    with mesh(tmp_path, "alpha", "gamma", drain_accept="0", drain_timeout="1") as running, peer(None) as hung:
        running.discovery.register("hung", hung.port)
        with ThreadPoolExecutor(1) as pool:
            sent = pool.submit(send, running["alpha"], to_cell=["hung", "gamma"], timeout=30)
            eventually(lambda: hung.messages, within=10, message="the copy that hangs")
            running["alpha"].signal(signal.SIGTERM)
            reply = sent.result()
    assert (reply.status, outcome(reply)) == (207, {"hung": 504, "gamma-0": 200})
    assert reply.json["results"][0]["body"]["maybe_delivered"] is True


def test_a_queued_message_to_everyone_has_all_its_copies_on_disk_before_the_answer(tmp_path: Path) -> None:
    """Expect those who were there at that time to get it, once, though its sender is killed after the 202."""
    with mesh(tmp_path, "alpha", "pure", "gamma", settle=0, replicas="1") as running:
        alpha, pure, gamma = running["alpha"], running["pure"], running["gamma"]
        pure.signal(signal.SIGSTOP)
        gamma.signal(signal.SIGSTOP)
        answered = alpha.send("*", mode="queued", message_id="later", ttl=0)
        alpha.kill()
        assert (answered.status, answered.json["count"]) == (202, 2)
        pure.signal(signal.SIGCONT)
        gamma.signal(signal.SIGCONT)
        running.add("late")
        alpha.start()
        for cell in (pure, gamma):
            eventually(lambda cell=cell: got(cell, "later"), within=20, message=f"the copy of {cell.cell_id}")  # type: ignore[misc]
        eventually(lambda: alpha.get("/sent/later").json["state"] == "delivered", within=20, message="both delivered")
        assert (got(pure, "later"), got(gamma, "later"), got(running["late"], "later")) == (["pure"], ["gamma"], [])


def test_a_queued_message_to_nobody_or_with_a_question_is_refused(running: Mesh, tmp_path: Path) -> None:
    """Expect 422 for a question to several, and 404 where there is no other cell."""
    refused = send(running["alpha"], to_cell="*", mode="queued", await_reply=1)
    assert (refused.status, refused.json["field"]) == (422, "await_reply")
    with mesh(tmp_path, "alone", settle=0) as one:
        nobody = send(one["alone"], to_cell="*", mode="queued")
        assert (nobody.status, nobody.json["code"]) == (404, "no_receivers")
