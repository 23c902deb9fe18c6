"""Small real processes under the supervisor: how they are watched, restarted and ended."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from cellmesh.cli import restarting
from cellmesh.cli.mesh import Process
from cellmesh.cli.supervisor import MAX_LINE, Child, Supervisor
from support import eventually_async

WAIT = "import sys; print('up', flush=True); sys.stdin.read()"
DEAF = "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); sys.stdin.read()"


class Record:
    """What a supervisor has told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, dict[str, Any]]] = []
        self.lines: list[str] = []

    def event(self, kind: str, child: Child, **details: Any) -> None:
        """Note an event."""
        self.events.append((kind, child.name, details))

    def line(self, _: str, text: str) -> None:
        """Note a line."""
        self.lines.append(text)

    def kinds(self, name: str) -> list[str]:
        """Return the kinds of a process's events, in order."""
        return [kind for kind, of, _ in self.events if of == name]


def process(code: str, name: str = "p", **environ: str) -> Process:
    """Return a process that runs Python code."""
    return Process(name=name, command=(sys.executable, "-c", code), environ={**os.environ, **environ}, url="")


def supervise(test: Callable[[Supervisor, Record, asyncio.Event], Awaitable[None]]) -> Record:
    """Run a test with a supervisor, which ends all processes afterwards."""
    record = Record()

    async def running() -> None:
        supervisor = Supervisor(record.event, record.line)
        at_once = asyncio.Event()
        try:
            await test(supervisor, record, at_once)
        finally:
            at_once.set()
            await supervisor.stop(at_once)

    asyncio.run(running())
    return record


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restart without the waits meant for people."""
    monkeypatch.setattr(restarting, "FIRST", 0.01)


def test_a_process_that_dies_is_started_again() -> None:
    """Its number of restarts grows, and each end is told with its cause."""

    async def test(supervisor: Supervisor, record: Record, _: asyncio.Event) -> None:
        child = supervisor.start(process("import sys; sys.exit(3)"))
        await eventually_async(lambda: child.restarts >= 2, within=20)

    record = supervise(test)

    assert record.kinds("p")[:6] == ["started", "exited", "restarting"] * 2
    assert next(details for kind, _, details in record.events if kind == "exited")["code"] == 3


def test_a_process_with_bad_settings_is_not_started_again() -> None:
    """What it wrote last is told with the event."""

    async def test(supervisor: Supervisor, _: Record, __: asyncio.Event) -> None:
        child = supervisor.start(process("import sys; print('CELLMESH_PORT: no'); sys.exit(2)"))
        assert child.task is not None
        await asyncio.wait_for(child.task, 20)
        assert (child.state, child.pid) == ("failed", None)

    record = supervise(test)

    kind, _, details = record.events[-1]
    assert (kind, details["last_lines"]) == ("failed", ["CELLMESH_PORT: no"])


def test_a_program_that_cannot_be_started_is_tried_again() -> None:
    """The reason is in the log; the supervisor lives on."""

    async def test(supervisor: Supervisor, record: Record, _: asyncio.Event) -> None:
        supervisor.start(Process(name="p", command=("/does/not/exist",), environ={}, url=""))
        await eventually_async(lambda: record.kinds("p")[:2] == ["exited", "restarting"], within=20)

    assert supervise(test).lines[0] == "cannot be started: No such file or directory"


def test_cells_end_before_discovery() -> None:
    """What was started first ends last."""

    async def test(supervisor: Supervisor, record: Record, at_once: asyncio.Event) -> None:
        for name in ("discovery", "a", "b"):
            supervisor.start(process(WAIT, name))
        await eventually_async(lambda: record.lines.count("up") == 3, within=20)
        await supervisor.stop(at_once)

    record = supervise(test)

    stopped = [(name, details) for kind, name, details in record.events if kind == "stopped"]
    assert {name for name, _ in stopped[:2]} == {"a", "b"}
    assert stopped[2] == ("discovery", {"signal": 15})


def test_a_process_that_does_not_end_is_killed_when_there_is_no_time() -> None:
    """A second Ctrl-C leaves no process behind."""

    async def test(supervisor: Supervisor, record: Record, at_once: asyncio.Event) -> None:
        supervisor.start(process(WAIT, "discovery"))
        supervisor.start(process(DEAF, "deaf"))
        await eventually_async(lambda: record.lines.count("up") == 2, within=20)
        asyncio.get_running_loop().call_later(0.1, at_once.set)
        await asyncio.wait_for(supervisor.stop(at_once), 20)

    record = supervise(test)

    assert ("stopped", "deaf", {"signal": 9}) in record.events


def test_a_process_that_does_not_end_in_time_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has to press Ctrl-C twice."""
    monkeypatch.setattr("cellmesh.cli.supervisor.GRACE", 0.2)

    async def test(supervisor: Supervisor, record: Record, at_once: asyncio.Event) -> None:
        supervisor.start(process(WAIT, "discovery"))
        supervisor.start(process(DEAF, "deaf"))
        await eventually_async(lambda: record.lines.count("up") == 2, within=20)
        await asyncio.wait_for(supervisor.stop(at_once), 20)

    assert ("stopped", "deaf", {"signal": 9}) in supervise(test).events


def test_a_process_that_waits_for_its_restart_is_not_started_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of the mesh does not wait for a backoff."""
    monkeypatch.setattr(restarting, "FIRST", 10.0)

    async def test(supervisor: Supervisor, record: Record, at_once: asyncio.Event) -> None:
        child = supervisor.start(process("raise SystemExit(1)"))
        await eventually_async(lambda: child.state == "restarting", within=20)
        await asyncio.wait_for(supervisor.stop(at_once), 5)

    assert supervise(test).kinds("p") == ["started", "exited", "restarting", "stopped"]


def test_a_process_told_to_end_while_it_is_started_ends() -> None:
    """There is no moment at which a stop is lost."""

    async def test(supervisor: Supervisor, record: Record, at_once: asyncio.Event) -> None:
        supervisor.start(process(WAIT))
        await asyncio.sleep(0)
        await asyncio.wait_for(supervisor.stop(at_once), 20)

    assert supervise(test).kinds("p") == ["started", "stopped"]


def test_children_see_the_end_of_their_standard_input() -> None:
    """The pipe is ours alone: no sibling holds it open."""

    async def test(supervisor: Supervisor, record: Record, _: asyncio.Event) -> None:
        first = supervisor.start(process(WAIT, "first"))
        await eventually_async(lambda: record.lines == ["up"], within=20)
        supervisor.start(process(WAIT, "second"))
        await eventually_async(lambda: record.lines == ["up", "up"], within=20)
        running = first._running
        assert running is not None
        assert running.stdin is not None
        running.stdin.close()
        await eventually_async(lambda: "exited" in record.kinds("first"), within=20)

    assert ("exited", "first") in {(kind, name) for kind, name, _ in supervise(test).events}


def test_children_are_out_of_reach_of_the_terminals_signals() -> None:
    """Each is the leader of a session of its own."""

    async def test(supervisor: Supervisor, record: Record, _: asyncio.Event) -> None:
        child = supervisor.start(process(WAIT))
        await eventually_async(lambda: record.lines == ["up"], within=20)
        assert child.pid is not None
        assert os.getsid(child.pid) == child.pid

    supervise(test)


def test_output_without_line_ends_does_not_fill_the_memory() -> None:
    """It is cut, and shown in pieces; what is not UTF-8 does no harm."""
    code = "import sys; sys.stdout.buffer.write(b'x' * 1_000_000 + b'\\n\\xff\\nlast')"

    async def test(supervisor: Supervisor, record: Record, _: asyncio.Event) -> None:
        supervisor.start(process(code))
        await eventually_async(lambda: "last" in record.lines, within=20)

    lines = supervise(test).lines

    assert max(map(len, lines)) <= MAX_LINE
    assert "\ufffd" in lines
