"""`sent` against cells of the test's making."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fake_mesh import FakeMesh, FakeServer, Run


def record(message_id: str = "m-1", state: str = "queued", **fields: Any) -> dict[str, Any]:
    """Return what a cell says of a message that it was given to send."""
    return {
        "message_id": message_id,
        "seq": 7,
        "to_cell": "pure",
        "timestamp": "2026-01-31T12:00:00Z",
        "state": state,
        "attempts": 3,
        **fields,
    }


def knowing(mesh: FakeMesh, instance: str, *records: dict[str, Any]) -> FakeServer:
    """Add an instance of the cell alpha that has been given these messages."""
    server = mesh.cell("alpha", instance)
    server.routes["GET", "/sent"] = lambda *_: (200, {"messages": list(records), "next": None})
    for one in records:
        server.routes["GET", f"/sent/{one['message_id']}"] = lambda *_, one=one: (200, one)
    return server


@pytest.mark.parametrize("command", [("sent", "alpha"), ("sent", "list", "alpha")])
def test_sent_shows_what_all_instances_were_given(mesh: FakeMesh, run: Run, command: tuple[str, ...]) -> None:
    """Also if no subcommand is named; with the next attempt and why the last one failed."""
    waiting = record(next_attempt_in=4.2, error="nobody is ready", code="no_ready_instance")
    knowing(mesh, "alpha-0", waiting)
    knowing(mesh, "alpha-1", record("m-2", "delivered", instance="pure-0", attempts=1))

    _, first, second = (" ".join(line.split()) for line in run(*command).out.splitlines())

    assert first == "alpha-0 7 m-1 2026-01-31T12:00:00Z pure queued 3 4.2 s nobody is ready (no_ready_instance)"
    assert second == "alpha-1 7 m-2 2026-01-31T12:00:00Z pure-0 delivered 1 - -"


def test_sent_passes_its_filters_on(mesh: FakeMesh, run: Run) -> None:
    """The cell does the choosing; JSON is one record a line."""
    alpha = knowing(mesh, "alpha-0", record())

    done = run("sent", "alpha", "--state", "queued", "--limit", "5", "--after", "7", "--json")

    assert alpha.requests[-1][2] == {"limit": "5", "state": "queued", "after": "7"}
    assert json.loads(done.out) == {"sender": "alpha-0", **record()}


def test_one_message_is_shown_whole(mesh: FakeMesh, run: Run) -> None:
    """Whichever instance was given it; each part of a list is a line."""
    knowing(mesh, "alpha-0")
    history = [{"state": "queued", "at": "12:00"}, {"state": "delivered", "at": "12:01"}]
    knowing(mesh, "alpha-1", record("m/1", "delivered", error=None, history=history))
    mesh.servers[-1].routes["GET", "/sent/m%2F1"] = mesh.servers[-1].routes["GET", "/sent/m/1"]

    done = run("sent", "show", "alpha", "m/1")

    assert done.code == 0
    lines = [line.split(maxsplit=1) for line in done.out.splitlines()]
    assert ["state", "delivered"] in lines
    assert ["history", json.dumps(history[0])] in lines
    assert not any(line[0] == "error" for line in lines)


def test_a_message_that_no_instance_was_given_is_said(mesh: FakeMesh, run: Run) -> None:
    """With the cell's words."""
    knowing(mesh, "alpha-0")

    assert run("sent", "show", "alpha", "m-9").err == "cellmesh: m-9: alpha-0 says: no such path\n"


def test_following_ends_with_the_outcome(mesh: FakeMesh, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each change is a line; exit code 0 only if it was delivered."""
    monkeypatch.setattr("cellmesh.cli.sent.INTERVAL", 0.01)
    for outcome, code in (("delivered", 0), ("expired", 1)):
        steps = iter([record(attempts=0), record(attempts=1), record(attempts=1), record(state=outcome, attempts=2)])
        alpha = mesh.cell("alpha")
        alpha.routes["GET", "/sent/m-1"] = lambda *_, steps=steps: (200, next(steps))

        done = run("sent", "show", "alpha", "m-1", "--follow")

        assert done.code == code
        assert done.out.splitlines()[-2:] == ["queued after 1 attempt", f"{outcome} after 2 attempts"]
        mesh.peers.clear()


def test_a_message_to_several_is_followed_until_all_have_ended(
    mesh: FakeMesh, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How many have it is what changes; exit code 1 where not all have."""
    monkeypatch.setattr("cellmesh.cli.sent.INTERVAL", 0.01)

    def copies(*states: str) -> dict[str, Any]:
        together = "queued" if "queued" in states else "partial"
        results = [record(state=state) for state in states]
        delivered = states.count("delivered")
        return {"message_id": "m-1", "state": together, "results": results, "count": 2, "delivered": delivered}

    steps = iter([copies("queued", "queued"), copies("delivered", "queued"), copies("delivered", "dead")])
    mesh.cell("alpha").routes["GET", "/sent/m-1"] = lambda *_: (200, next(steps))

    done = run("sent", "show", "alpha", "m-1", "--follow")

    assert (done.code, done.err) == (1, "cellmesh: m-1 is partial\n")
    assert done.out.splitlines()[-2:] == ["queued 1 of 2 delivered", "partial 1 of 2 delivered"]


def test_following_outlives_a_restart_of_the_cell(mesh: FakeMesh, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked again until it answers."""
    monkeypatch.setattr("cellmesh.cli.sent.INTERVAL", 0.01)
    answers = iter([(200, record()), (503, {"error": "starting"}), (200, record(state="delivered"))])
    mesh.cell("alpha").routes["GET", "/sent/m-1"] = lambda *_: next(answers)

    done = run("sent", "show", "alpha", "m-1", "--follow", "--json")

    assert done.code == 0
    assert "alpha-0 says: starting; trying again" in done.err
    assert [json.loads(line)["state"] for line in done.out.splitlines()] == ["queued", "delivered"]


@pytest.mark.parametrize(
    ("command", "method", "suffix", "said"),
    [("retry", "POST", "/retry", "queued again m-1\n"), ("cancel", "DELETE", "", "cancelled m-1\n")],
)
def test_a_message_is_changed_at_the_instance_that_has_it(
    mesh: FakeMesh, run: Run, command: str, method: str, suffix: str, said: str
) -> None:
    """The others are only asked whether they have it; what cannot be changed is told, with exit code 1."""
    other = knowing(mesh, "alpha-0")
    alpha = knowing(mesh, "alpha-1", record(), record("m-2", "delivered"))
    alpha.routes[method, f"/sent/m-1{suffix}"] = lambda *_: (200, record())
    alpha.routes[method, f"/sent/m-2{suffix}"] = lambda *_: (409, {"error": "it has ended", "code": "not_queued"})

    done = run("sent", command, "alpha", "m-2", "m-1")

    assert (done.code, done.out) == (1, said)
    assert done.err == "cellmesh: m-2: alpha-1 says: it has ended (not_queued)\n"
    assert {request[0] for request in other.requests} == {"GET"}


def test_what_cells_say_of_messages_cannot_reach_the_terminal(mesh: FakeMesh, run: Run) -> None:
    """Receivers choose the errors."""
    knowing(mesh, "alpha-0", record(error="\x1b[2J", code="\x9b", results=[{"error": "\u202e"}]))

    for command in (("sent", "alpha"), ("sent", "show", "alpha", "m-1")):
        assert run(*command).out.replace("\n", "").isprintable()
