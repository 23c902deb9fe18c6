"""`dead` against cells of the test's making."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fake_mesh import FakeMesh, FakeServer, Run


def letter(seq: int, **fields: Any) -> dict[str, Any]:
    """Return a dead letter as an inbox shows it."""
    return {
        "message_id": f"m-{seq}",
        "from_cell": "alpha",
        "message_type": "ping",
        "payload": {"text": "Hello!"},
        "seq": seq,
        "received_at": "2026-01-31T12:00:00Z",
        "state": "dead",
        "reason": "max_deliveries",
        "delivery_count": 5,
        **fields,
    }


def holding(mesh: FakeMesh, instance: str, *ids: str, changed: int = 0) -> FakeServer:
    """Add an instance of the cell pure that has these dead letters, or changes so many where all are meant."""
    server = mesh.cell("pure", instance)

    def change(_: Any, body: Any) -> tuple[int, Any]:
        if "items" not in body:
            return 200, {"changed": changed, "dead": 0, "results": []}
        results = []
        for item in body["items"]:
            if item.get("message_id") in ids or item.get("seq") == 1:
                results.append({"status": "ok", "http_status": 200, **item})
            else:
                error = {"code": "unknown_message", "error": "no message of this position or id is kept here"}
                results.append({"status": "error", "http_status": 404, **error, **item})
        return 200, {"changed": sum(one["status"] == "ok" for one in results), "dead": 0, "results": results}

    server.routes["POST", "/dead/retry"] = server.routes["POST", "/dead/purge"] = change
    return server


@pytest.mark.parametrize("command", [("dead", "pure"), ("dead", "list", "pure")])
def test_dead_shows_the_dead_letters_of_all_instances(mesh: FakeMesh, run: Run, command: tuple[str, ...]) -> None:
    """Also if no subcommand is named; with the reason and what is needed to put one back."""
    for number in range(2):
        page = {"messages": [letter(number)], "next": number}
        mesh.cell("pure", f"pure-{number}").routes["GET", "/dead"] = lambda *_, page=page: (200, page)

    header, *lines = run(*command).out.splitlines()

    assert header.split()[:3] == ["INSTANCE", "SEQ", "MESSAGE"]
    assert lines[1].split()[:8] == [
        "pure-1",
        "1",
        "m-1",
        "2026-01-31T12:00:00Z",
        "alpha",
        "ping",
        "max_deliveries",
        "5",
    ]
    assert len(lines) == 2


def test_dead_passes_its_filters_on(mesh: FakeMesh, run: Run) -> None:
    """Options before the cell also mean the list."""
    pure = mesh.cell("pure")
    pure.routes["GET", "/dead"] = lambda *_: (200, {"messages": [letter(1)], "next": 1})

    done = run("dead", "--reason", "expired", "--limit", "5", "--after", "7", "--json", "pure")

    assert pure.requests[-1][2] == {"limit": "5", "after": "7", "reason": "expired"}
    assert json.loads(done.out) == {"instance": "pure-0", **letter(1)}


def test_what_dead_letters_say_cannot_reach_the_terminal(mesh: FakeMesh, run: Run) -> None:
    """Senders and consumers choose these texts."""
    foul = letter(1, message_id="\x1b", from_cell="\x9b", reason="\r", payload={"a": "\u202e"})
    mesh.cell("pure").routes["GET", "/dead"] = lambda *_: (200, {"messages": [foul], "next": 1})

    assert run("dead", "pure").out.replace("\n", "").isprintable()


def test_a_dead_letter_is_put_back_where_it_is(mesh: FakeMesh, run: Run) -> None:
    """Every instance is asked: which one has it need not be known."""
    holding(mesh, "pure-0", "m-1")
    holding(mesh, "pure-1", "m-2")

    done = run("dead", "retry", "pure", "m-1", "m-2")

    assert (done.code, done.out, done.err) == (0, "put back: 2\n", "")


def test_a_dead_letter_that_nobody_has_is_named(mesh: FakeMesh, run: Run) -> None:
    """The others are put back; exit code 1."""
    holding(mesh, "pure-0", "m-1")
    holding(mesh, "pure-1")

    done = run("dead", "retry", "pure", "m-9", "m-1")

    assert (done.code, done.out) == (1, "put back: 1\n")
    assert done.err == "cellmesh: m-9: no message of this position or id is kept here (unknown_message)\n"


def test_all_dead_letters_of_a_reason_are_put_back(mesh: FakeMesh, run: Run) -> None:
    """At every instance."""
    servers = [holding(mesh, f"pure-{number}", changed=number + 1) for number in range(2)]

    done = run("dead", "retry", "pure", "--all", "--reason", "expired")

    assert (done.code, done.out) == (0, "put back: 3\n")
    assert [server.requests[-1][3] for server in servers] == [{"all": True, "reason": "expired"}] * 2


def test_a_position_needs_its_instance(mesh: FakeMesh, run: Run) -> None:
    """Where there is one instance it is that one."""
    holding(mesh, "pure-0")
    assert run("dead", "retry", "pure", "--seq", "1").out == "put back: 1\n"
    holding(mesh, "pure-1")

    assert run("dead", "retry", "pure", "--seq", "1").code == 2
    assert run("dead", "retry", "pure", "--seq", "1", "--instance", "pure-1").out == "put back: 1\n"


def test_a_purge_wants_a_yes(mesh: FakeMesh, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal it asks; elsewhere it has to be said."""
    pure = holding(mesh, "pure-0", "m-1", changed=4)

    refused = run("dead", "purge", "pure", "--all")
    assert refused.code == 2
    assert "this deletes all dead letters of pure for good; confirm it with --yes" in refused.err

    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    for answer, code in (("n\n", 130), ("y\n", 0)):
        monkeypatch.setattr("click.termui.visible_prompt_func", lambda _, said=answer: said)
        done = run("dead", "purge", "pure", "--all")
        assert done.code == code
    assert done.out == "deleted: 4\n"
    assert [request[1] for request in pure.requests] == ["/dead/purge"]


def test_a_purge_with_yes_asks_nothing(mesh: FakeMesh, run: Run) -> None:
    """For scripts."""
    holding(mesh, "pure-0", "m-1")

    assert run("dead", "purge", "pure", "m-1", "--yes").out == "deleted: 1\n"


def test_more_ids_than_a_request_takes_are_several(mesh: FakeMesh, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is still accounted for."""
    monkeypatch.setattr("cellmesh.cli.dead.CHUNK", 2)
    pure = holding(mesh, "pure-0", "a", "b", "d", "e")
    holding(mesh, "pure-1", "c")

    done = run("dead", "retry", "pure", "a", "b", "c", "d", "e", "f")

    assert done.out == "put back: 5\n"
    assert done.err.startswith("cellmesh: f: ")
    assert len(pure.requests) == 3


def test_a_cell_that_refuses_is_said(mesh: FakeMesh, run: Run) -> None:
    """With its own words."""
    mesh.cell("pure").routes["POST", "/dead/retry"] = lambda *_: (507, {"error": "the disk is full"})

    done = run("dead", "retry", "pure", "m-1")

    assert done.code == 1
    assert "pure-0 at http://127.0.0.1:" in done.err
    assert "answered 507 the disk is full" in done.err
