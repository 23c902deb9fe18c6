"""`ask`, `send`, `sent` and `dead` against real cells: what the commands ask for is what cells understand."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from cellmesh.cli import main
from fake_mesh import Result, Run
from processes import Cell, Mesh, mesh
from support import eventually

pytestmark = pytest.mark.mesh


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """Run alpha and two instances of pure with discovery, which knows at once that a cell is nobody's."""
    with mesh(tmp_path_factory.mktemp("mesh"), "alpha", settle=0) as cells:
        for number in range(2):
            cells.add("pure", instance=f"pure-{number}")
        yield cells


@pytest.fixture
def run(running: Mesh, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs a command against that mesh and returns code and output."""
    monkeypatch.setenv("CELLMESH_DISCOVERY_URL", running.discovery.url)

    def command(*arguments: str) -> Result:
        capsys.readouterr()
        return Result(main(arguments), capsys.readouterr())

    return command


def new() -> str:
    """Return an id that nothing has yet."""
    return str(uuid.uuid4())


def lease(cell: Cell) -> list[dict[str, Any]]:
    """Take what waits at an instance."""
    answer = cell.post("/messages/lease", {"max": 100, "wait_seconds": 10})
    found: list[dict[str, Any]] = answer.json["messages"]
    return found


def reject_all(cell: Cell) -> None:
    """Make dead letters of what waits at an instance."""
    items = [{key: one[key] for key in ("seq", "lease_token")} | {"reject": True} for one in lease(cell)]
    assert cell.post("/messages/nack", {"items": items}).status == 200


def test_ask_gets_its_reply(running: Mesh, run: Run) -> None:
    """The receiver answers by hand, with the command that is meant for it."""
    asked = new()

    def reply() -> None:
        eventually(lambda: asked in {one["message_id"] for one in lease(running["pure-0"])}, within=20)
        running["pure-0"].send("alpha", reply_to=asked, payload={"answer": 42})

    replying = threading.Thread(target=reply)
    replying.start()
    done = run("ask", "alpha", "pure", "--to-instance", "pure-0", "--id", asked, "--timeout", "20")
    replying.join()

    assert (done.code, done.out, done.err) == (0, '{"answer": 42}\n', "")


def test_ask_without_a_reply_says_so(run: Run) -> None:
    """And where a late one would be."""
    done = run("ask", "alpha", "pure", "--timeout", "0.2")

    assert (done.code, done.out) == (1, "")
    assert "(reply_timeout); look with: cellmesh messages alpha --from pure" in done.err


def test_send_to_all_instances_and_to_somebody_who_is_not_there(run: Run) -> None:
    """Each receiver has a line, and one without the message makes it a failure."""
    everyone = run("send", "alpha", "*", "--all-instances")
    some = run("send", "alpha", "pure", "nobody", "--timeout", "5")

    assert everyone.code == 0
    assert [line.split()[:3] for line in everyone.out.splitlines()[1:]] == [
        ["pure", "pure-0", "delivered"],
        ["pure", "pure-1", "delivered"],
    ]
    assert some.code == 1
    assert "not delivered" in some.out
    assert "(unknown_cell)" in some.out
    assert "delivered to 1 of 2" in some.err


def test_a_queued_message_is_followed_to_its_end(run: Run) -> None:
    """From the command that queues it to the one that tells what became of it."""
    sent = new()

    assert run("send", "alpha", "pure", "--queued", "--id", sent).out == f"queued {sent} for pure\n"
    assert run("sent", "show", "alpha", sent, "--follow").code == 0
    (record,) = [
        record
        for line in run("sent", "alpha", "--state", "delivered", "--limit", "1000", "--json").out.splitlines()
        if (record := json.loads(line))["message_id"] == sent
    ]
    assert record["sender"] == "alpha-0"
    assert record["instance"] in {"pure-0", "pure-1"}
    assert run("send", "alpha", "pure", "--queued", "--id", sent).out.endswith("it was before, and is delivered\n")


def test_a_queued_message_is_cancelled_and_sent_again(run: Run) -> None:
    """As long as nobody can have it; what is delivered is not cancelled."""
    sent = new()
    run("send", "alpha", "not-yet", "--queued", "--id", sent)

    assert run("sent", "cancel", "alpha", sent).out == f"cancelled {sent}\n"
    assert sent in run("sent", "list", "alpha", "--state", "cancelled").out
    assert run("sent", "retry", "alpha", sent).out == f"queued again {sent}\n"
    assert sent in run("sent", "alpha", "--state", "queued").out
    assert "(unknown_message)" in run("sent", "cancel", "alpha", new()).err


def test_dead_letters_are_shown_put_back_and_purged(running: Mesh, run: Run) -> None:
    """One by its id, wherever it is; the rest by reason."""
    run("send", "alpha", "*", "--all-instances", "--ttl", "0")
    first, second = new(), new()
    for sent, instance in ((first, "pure-0"), (second, "pure-1")):
        run("send", "alpha", "pure", "--to-instance", instance, "--id", sent, "--ttl", "0")
    for instance in ("pure-0", "pure-1"):
        reject_all(running[instance])

    assert {first, second} <= {
        json.loads(line)["message_id"] for line in run("dead", "pure", "--json").out.splitlines()
    }
    assert run("dead", "retry", "pure", first, second).out == "put back: 2\n"
    assert {one["message_id"] for one in lease(running["pure-1"])} == {second}
    assert run("dead", "retry", "pure", second).err.endswith("(not_dead)\n")
    assert run("dead", "purge", "pure", "--all", "--reason", "rejected", "--yes").code == 0
    assert run("dead", "pure", "--reason", "rejected", "--json").out == ""
