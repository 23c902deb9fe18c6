"""`send`, `messages`, `peers` and `top` against a discovery and cells of the test's making."""

from __future__ import annotations

import io
import itertools
import json
import re
import subprocess
import sys
from typing import Any

import pytest

from fake_mesh import FakeMesh, Run
from support import eventually, free_port

DELIVERED = {
    "status": "delivered",
    "message_id": "m-1",
    "to_cell": "pure",
    "target_url": "http://127.0.0.1:8002/message",
    "response": {"acknowledged": True, "cell_id": "pure"},
}


def message(seq: int, **fields: Any) -> dict[str, Any]:
    """Return a message as an inbox shows it."""
    return {
        "message_id": f"m-{seq}",
        "from_cell": "alpha",
        "to_cell": "pure",
        "message_type": "ping",
        "payload": {"text": "Hello from Alpha!"},
        "seq": seq,
        "received_at": "2026-01-31T12:00:00Z",
        "state": "pending",
        **fields,
    }


def health(received: int, *, pending: int = 0, delivered: int = 0) -> dict[str, Any]:
    """Return what a cell says of itself."""
    messages = {"received": received, "pending": pending, "oldest_pending_seconds": 75.0 if pending else None}
    return {
        "status": "healthy",
        "messages": {**messages, "leased": 4, "consumed": 0, "dead": 2, "bytes": 1_500_000},
        "outbox": {"queued": 6, "delivered": 0},
        "sent": {"delivered": delivered, "failed": 0},
    }


def test_send_asks_the_cell_and_says_where_it_went(mesh: FakeMesh, run: Run) -> None:
    """The cell named first is asked; its answer is told in one line."""
    alpha = mesh.cell("alpha")
    alpha.routes["POST", "/send"] = lambda *_: (200, DELIVERED)

    result = run("send", "alpha", "pure", "--type", "ping", "--payload", '{"text": "hi"}', "--id", "m-1", "--ttl", "5")

    assert (result.code, result.out) == (0, "delivered m-1 to pure at http://127.0.0.1:8002/message\n")
    assert alpha.requests[-1][3] == {
        "to_cell": "pure",
        "message_id": "m-1",
        "message_type": "ping",
        "payload": {"text": "hi"},
        "ttl": 5.0,
        "timeout": 10,
    }


def test_send_gives_every_message_an_id_of_its_own(mesh: FakeMesh, run: Run) -> None:
    """So that a retry is possible also when no answer comes."""
    alpha = mesh.cell("alpha")
    alpha.routes["POST", "/send"] = lambda *_: (200, DELIVERED)
    for _ in range(2):
        run("send", "alpha", "pure")

    first, second = (body["message_id"] for *_, body in alpha.requests)

    assert re.fullmatch(r"[0-9a-f-]{36}", first)
    assert first != second


def test_send_takes_the_payload_from_standard_input(mesh: FakeMesh, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large payloads come through a pipe."""
    alpha = mesh.cell("alpha")
    alpha.routes["POST", "/send"] = lambda *_: (200, DELIVERED)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b'{"from": "stdin"}')))

    assert run("send", "alpha", "pure", "--payload-file", "-").code == 0
    assert alpha.requests[-1][3]["payload"] == {"from": "stdin"}


def test_send_prints_the_answer_for_programs(mesh: FakeMesh, run: Run) -> None:
    """With --json the answer is printed whole."""
    mesh.cell("alpha").routes["POST", "/send"] = lambda *_: (200, DELIVERED)

    assert json.loads(run("send", "alpha", "pure", "--json").out) == DELIVERED


@pytest.mark.parametrize(
    ("maybe", "advice"),
    [
        (False, "it was not stored anywhere"),
        (True, "it may have been delivered all the same; to retry safely, repeat it with --id m-1"),
        (None, "it may have been delivered all the same; to retry safely, repeat it with --id m-1"),
    ],
)
def test_a_refused_send_says_whether_it_may_have_arrived(
    mesh: FakeMesh, run: Run, maybe: bool | None, advice: str
) -> None:
    """What is not known counts as maybe."""
    error = {"status": "error", "error": "too slow", "code": "timeout"}
    answer = error if maybe is None else {**error, "maybe_delivered": maybe}
    mesh.cell("alpha").routes["POST", "/send"] = lambda *_: (504, answer)

    result = run("send", "alpha", "pure", "--id", "m-1")

    assert (result.code, result.out) == (1, "")
    assert result.err == f"cellmesh: not delivered: too slow (timeout); {advice}\n"


def test_a_send_to_a_cell_nobody_knows_lists_those_there_are(mesh: FakeMesh, run: Run) -> None:
    """The cells of the answer are shown."""
    answer = {"error": "unknown", "code": "unknown_cell", "maybe_delivered": False, "available_cells": ["a", "b"]}
    mesh.cell("alpha").routes["POST", "/send"] = lambda *_: (404, answer)

    assert "(unknown_cell); cells here: a, b; it was not stored" in run("send", "alpha", "nobody").err


def test_a_sender_nobody_knows_lists_those_there_are(mesh: FakeMesh, run: Run) -> None:
    """A misspelt name is found out by the list."""
    mesh.cell("alpha")
    mesh.cell("pure")

    result = run("send", "alhpa", "pure")

    assert result.code == 1
    assert result.err == "cellmesh: no instance of cell alhpa is known in default; cells here: alpha, pure\n"


def test_an_instance_nobody_knows_lists_those_there_are(mesh: FakeMesh, run: Run) -> None:
    """The instances of the cell are shown."""
    mesh.cell("alpha")

    result = run("send", "alpha", "x", "--instance", "alpha-7")

    assert "cell alpha has no instance alpha-7; there are alpha-0" in result.err


def test_a_sender_that_is_gone_has_stored_nothing(mesh: FakeMesh, run: Run) -> None:
    """Refused connections are certain."""
    mesh.peers.append({"cell_id": "alpha", "instance": "alpha-0", "ip": "127.0.0.1", "port": free_port()})

    result = run("send", "alpha", "pure")

    assert result.code == 1
    assert "cannot reach alpha-0" in result.err
    assert "it was not stored anywhere" in result.err


def test_a_sender_that_answers_nonsense_may_have_sent(mesh: FakeMesh, run: Run) -> None:
    """Whatever listens there has had the request."""
    mesh.cell("alpha").routes["POST", "/send"] = lambda *_: (200, b"<html>")

    result = run("send", "alpha", "pure", "--id", "m-1")

    assert "answered 200, but not JSON" in result.err
    assert "--id m-1" in result.err


@pytest.mark.parametrize("command", [("peers",), ("send", "a", "b"), ("messages", "a"), ("top", "--once")])
def test_without_discovery_the_commands_say_what_to_do(run: Run, command: tuple[str, ...]) -> None:
    """One line, exit code 1."""
    url = f"http://127.0.0.1:{free_port()}"

    result = run(*command, "--discovery", url)

    assert (result.code, result.out) == (1, "")
    assert result.err.startswith(f"cellmesh: cannot reach discovery at {url} (connection refused); is `cellmesh up`")
    assert result.err.count("\n") == 1


@pytest.mark.parametrize("form", ["{url}", "{url}/", "{url}/meshes/default", "{url}/meshes/default/"])
def test_discoverys_url_may_be_that_of_the_mesh(mesh: FakeMesh, run: Run, form: str) -> None:
    """What cells are given works for people too."""
    mesh.cell("alpha")

    assert run("peers", "--discovery", form.format(url=mesh.discovery.url)).code == 0


def test_the_namespace_given_wins_over_that_of_the_url(mesh: FakeMesh, run: Run) -> None:
    """The option is the more particular one."""
    run("peers", "--discovery", f"{mesh.discovery.url}/meshes/default", "--namespace", "a/b")

    assert mesh.discovery.requests[-1][1] == "/meshes/a%2Fb/peers"


def test_peers_shows_who_is_there(mesh: FakeMesh, run: Run) -> None:
    """One line for each instance."""
    mesh.cell("pure", type="pure", services=["code-analysis"], last_seen="now")
    mesh.cell("alpha")

    header, alpha, pure = run("peers").out.splitlines()

    assert header.split()[:3] == ["CELL", "INSTANCE", "URL"]
    assert alpha.split()[:2] == ["alpha", "alpha-0"]
    assert pure.split()[4:] == ["-", "code-analysis", "registered", "now"]


def test_peers_can_be_those_of_one_cell(mesh: FakeMesh, run: Run) -> None:
    """Discovery is asked for that cell only, and JSON is its list."""
    mesh.cell("pure")
    mesh.cell("alpha")

    found = json.loads(run("peers", "--cell", "pure", "--json").out)

    assert (found["count"], [peer["cell_id"] for peer in found["peers"]]) == (1, ["pure"])


def test_what_peers_call_themselves_cannot_reach_the_terminal(mesh: FakeMesh, run: Run) -> None:
    """Control characters are shown as text."""
    mesh.cell("alpha", type="\x1b[2Jx")

    assert "\\x1b[2Jx" in run("peers").out


def test_messages_shows_the_inboxes_of_all_instances(mesh: FakeMesh, run: Run) -> None:
    """Each line says which instance has it."""
    for number in range(2):
        page = {"messages": [message(number)], "next": number}
        mesh.cell("pure", f"pure-{number}").routes["GET", "/messages"] = lambda *_, page=page: (200, page)

    lines = run("messages", "pure").out.splitlines()

    assert [line.split()[:2] for line in lines[1:]] == [["pure-0", "0"], ["pure-1", "1"]]
    assert '{"text": "Hello from Alpha!"}' in lines[1]


def test_messages_passes_its_filters_on(mesh: FakeMesh, run: Run) -> None:
    """The cell does the choosing."""
    pure = mesh.cell("pure")
    pure.routes["GET", "/messages"] = lambda *_: (200, {"messages": [], "next": None})

    run("messages", "pure", "--limit", "5", "--from", "al pha", "--state", "dead", "--after", "7")

    assert pure.requests[-1][2] == {"limit": "5", "from_cell": "al pha", "state": "dead", "after": "7"}


def test_messages_are_json_lines_for_programs(mesh: FakeMesh, run: Run) -> None:
    """One message a line, whole, with its instance."""
    page = {"messages": [message(1), message(2)], "next": 2}
    mesh.cell("pure").routes["GET", "/messages"] = lambda *_: (200, page)

    lines = [json.loads(line) for line in run("messages", "pure", "--json").out.splitlines()]

    assert lines == [{"instance": "pure-0", **message(1)}, {"instance": "pure-0", **message(2)}]


def test_what_messages_say_cannot_reach_the_terminal(mesh: FakeMesh, run: Run) -> None:
    """Senders choose these texts, and may mean ill."""
    page = {
        "messages": [message(1, from_cell="\x1b]0;x\a", message_type="\r\n", payload={"a": "\x9b\u202e"})],
        "next": 1,
    }
    mesh.cell("pure").routes["GET", "/messages"] = lambda *_: (200, page)

    out = run("messages", "pure").out

    assert out.replace("\n", "").isprintable()


def test_following_shows_each_message_once_as_it_arrives(mesh: FakeMesh) -> None:
    """It begins with what is there, goes on from its position, and ends quietly on Ctrl-C."""
    stored = [message(1)]

    def messages(query: dict[str, str], _: Any) -> tuple[int, Any]:
        after = int(query.get("after", -1))
        found = [stored_one for stored_one in stored if stored_one["seq"] > after]
        return 200, {"messages": found, "next": found[-1]["seq"] if found else None}

    pure = mesh.cell("pure")
    pure.routes["GET", "/messages"] = messages
    command = [sys.executable, "-m", "cellmesh", "messages", "pure", "--follow", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["seq"] == 1
        for seq in (2, 3):
            stored.append(message(seq))
            assert json.loads(process.stdout.readline())["seq"] == seq
        asked = len(pure.requests)
        eventually(lambda: len(pure.requests) > asked, within=10)
        process.send_signal(2)
        rest, errors = process.communicate(timeout=10)

    assert (process.returncode, rest, errors) == (130, "", "")


def test_following_outlives_a_restart_of_the_cell(mesh: FakeMesh) -> None:
    """What was stored while it was away is shown, once."""
    away = [False]
    stored = [message(1)]

    def messages(query: dict[str, str], _: Any) -> tuple[int, Any]:
        found = [one for one in stored if one["seq"] > int(query.get("after", 0))]
        return (503, {"error": "starting"}) if away[0] else (200, {"messages": found, "next": len(stored)})

    mesh.cell("pure").routes["GET", "/messages"] = messages
    command = [sys.executable, "-m", "cellmesh", "messages", "pure", "--follow", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        away[0] = True
        assert "answered 503 starting; trying again" in process.stderr.readline()
        stored.append(message(2))
        away[0] = False
        assert json.loads(process.stdout.readline())["seq"] == 2
        process.send_signal(2)
        process.communicate(timeout=10)


def test_top_shows_what_waits_and_how_fast_it_goes(mesh: FakeMesh, run: Run) -> None:
    """Counts as they are, rates between two looks."""
    counts = itertools.count(0, 10)
    mesh.cell("alpha").routes["GET", "/health"] = lambda *_: (200, health(next(counts), pending=3, delivered=7))

    line = run("top", "--once", "--interval", "0.1").out.splitlines()[1].split()

    assert line[:5] == ["alpha-0", "ok", "3", "4", "75"]
    assert 50 <= float(line[6]) <= 110
    assert line[7:] == ["0.0", "0.0", "6", "10", "2", "1.5"]


def test_top_is_json_for_programs(mesh: FakeMesh, run: Run) -> None:
    """One object an interval."""
    mesh.cell("alpha").routes["GET", "/health"] = lambda *_: (200, health(5))

    (row,) = json.loads(run("top", "--once", "--interval", "0.05", "--json").out)["instances"]

    assert (row["instance"], row["received"], row["received_per_second"], row["pending"]) == ("alpha-0", 5, 0.0, 0)


def test_top_shows_an_instance_that_does_not_answer(mesh: FakeMesh, run: Run) -> None:
    """It stays in the list, without numbers."""
    mesh.peers.append({"cell_id": "alpha", "instance": "alpha-0", "ip": "127.0.0.1", "port": free_port()})

    assert run("top", "--once", "--interval", "0.05").out.splitlines()[1].split()[:4] == [
        "alpha-0",
        "no",
        "answer",
        "-",
    ]


def test_a_cell_that_has_started_again_has_no_rate_yet(mesh: FakeMesh, run: Run) -> None:
    """Counters that went back give no negative rates."""
    counts = iter([100, 3])
    mesh.cell("alpha").routes["GET", "/health"] = lambda *_: (200, health(next(counts)))

    (row,) = json.loads(run("top", "--once", "--interval", "0.05", "--json").out)["instances"]

    assert row["received_per_second"] is None
