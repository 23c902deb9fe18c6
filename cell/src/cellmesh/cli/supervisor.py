"""Processes of a mesh: started, watched, started again when they die, and ended in order.

Each child runs in a session of its own, so that a Ctrl-C reaches only us and we decide the order of the
end. Its standard input is a pipe whose other end is ours alone: if we are killed, it closes, and the child
ends by itself (``--exit-with-parent``).
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Literal

from cellmesh.cli.mesh import Process
from cellmesh.cli.restarting import GiveUp, decide, describe

#: Seconds that processes may take to end before they are killed.
GRACE = 30.0
#: A line of a child's log is cut here; what has no line end must not fill our memory.
MAX_LINE = 8192
#: Lines shown again when a child is given up.
LAST_LINES = 8

State = Literal["starting", "ready", "restarting", "failed", "stopped"]
#: Called with an event's name, the child and details.
OnEvent = Callable[..., None]
OnLine = Callable[[str, str], None]


class Child:
    """One process, over all its lives.

    Args:
        process: what to run.
        on_event: told of ``started``, ``ready``, ``exited``, ``restarting``, ``failed`` and ``stopped``.
        on_line: told each line that the process writes.

    """

    def __init__(self, process: Process, on_event: OnEvent, on_line: OnLine) -> None:
        self.process = process
        self.name = process.name
        self.state: State = "starting"
        self.url = process.url
        self.pid: int | None = None
        self.restarts = 0
        self.health: dict[str, Any] = {}
        #: It was ready and does not answer now.
        self.silent = False
        self.task: asyncio.Task[None] | None = None
        self._on_event = on_event
        self._on_line = on_line
        self._running: asyncio.subprocess.Process | None = None
        self._stop = asyncio.Event()
        self._kill = False
        self._lines: deque[str] = deque(maxlen=LAST_LINES)
        self._started_at = 0.0

    def start(self) -> None:
        """Begin, in the background."""
        self.task = asyncio.get_running_loop().create_task(self._run())

    def became_ready(self, url: str) -> None:
        """Note that it serves, and where."""
        if self.state == "starting":
            self.state, self.url = "ready", url
            seconds = asyncio.get_running_loop().time() - self._started_at
            self._on_event("ready", self, url=url, seconds=round(seconds, 3))

    def stop(self) -> None:
        """Ask it to end and do not start it again."""
        self._stop.set()
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it now."""
        self._kill = True
        self._stop.set()
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        # Only while it has not been waited for: afterwards the number may be another process.
        if self._running is not None and self._running.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._running.send_signal(number)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            self._started_at = loop.time()
            code = await self._live()
            lived = loop.time() - self._started_at
            self.pid, self._running, self.health = None, None, {}
            if self._stop.is_set():
                self.state = "stopped"
                self._on_event("stopped", self, **_ended(code))
                return
            self._on_event("exited", self, **_ended(code), seconds=round(lived, 3), reason=describe(code))
            decision = decide(code, lived, failures)
            if isinstance(decision, GiveUp):
                self.state = "failed"
                self._on_event("failed", self, reason=decision.reason, last_lines=list(self._lines))
                return
            failures = decision.failures
            self.state = "restarting"
            self._on_event("restarting", self, after=decision.after)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(decision.after):
                    await self._stop.wait()
            if self._stop.is_set():
                self.state = "stopped"
                self._on_event("stopped", self)
                return
            self.restarts += 1

    async def _live(self) -> int:
        """Run the process once; return its exit code."""
        self.state, self.url, self.silent = "starting", self.process.url, False
        self._lines.clear()
        try:
            running = await asyncio.create_subprocess_exec(
                *self.process.command,
                env=dict(self.process.environ),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            self._on_line(self.name, f"cannot be started: {error.strerror or error}")
            return 1
        self._running, self.pid = running, running.pid
        self._on_event("started", self, pid=running.pid)
        if self._stop.is_set():
            # Told to end while it was being started.
            self._signal(signal.SIGKILL if self._kill else signal.SIGTERM)
        assert running.stdout is not None  # noqa: S101 - it is a pipe, see above
        reading = asyncio.get_running_loop().create_task(self._read(running.stdout))
        code = await running.wait()
        # What it wrote last is still in the pipe; if a process of its own holds it open, not for long.
        await asyncio.wait([reading], timeout=1.0)
        reading.cancel()
        return code

    async def _read(self, stream: asyncio.StreamReader) -> None:
        pending = b""
        while chunk := await stream.read(65536):
            *lines, pending = (pending + chunk).split(b"\n")
            if len(pending) > MAX_LINE:
                lines, pending = [*lines, pending], b""
            for line in lines:
                self._line(line)
        if pending:
            self._line(pending)

    def _line(self, raw: bytes) -> None:
        line = raw[:MAX_LINE].decode(errors="replace").rstrip()
        self._lines.append(line)
        self._on_line(self.name, line)


class Supervisor:
    """The children of a mesh."""

    def __init__(self, on_event: OnEvent, on_line: OnLine) -> None:
        self.children: list[Child] = []
        self._on_event = on_event
        self._on_line = on_line

    def start(self, process: Process) -> Child:
        """Start a process and keep it running."""
        child = Child(process, self._on_event, self._on_line)
        self.children.append(child)
        child.start()
        return child

    async def stop(self, at_once: asyncio.Event) -> None:
        """End all: first the cells, then discovery, which they leave; it was started first.

        Returns when none is left. After GRACE seconds, or when ``at_once`` is set, they are killed.
        """
        deadline = asyncio.get_running_loop().time() + GRACE
        await self._end(self.children[1:], deadline, at_once)
        await self._end(self.children[:1], deadline, at_once)

    async def _end(self, children: Sequence[Child], deadline: float, at_once: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        for child in children:
            child.stop()
        ends = asyncio.gather(*(child.task for child in children if child.task is not None), return_exceptions=True)
        hurry = loop.create_task(at_once.wait())
        either: list[asyncio.Future[Any]] = [ends, hurry]
        try:
            await asyncio.wait(either, timeout=max(0.0, deadline - loop.time()), return_when=asyncio.FIRST_COMPLETED)
        finally:
            hurry.cancel()
            if not ends.done():
                for child in children:
                    child.kill()
            await ends


def _ended(code: int) -> dict[str, Any]:
    return {"code": code} if code >= 0 else {"signal": -code}
