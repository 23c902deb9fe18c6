"""A mesh from its first process to the end of its last one; ``up`` and ``demo`` are both this."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Sequence

from cellmesh.cli.group import Failure
from cellmesh.cli.mesh import Plan, is_local, port_faults
from cellmesh.cli.reporting import Reporter
from cellmesh.cli.supervisor import Child, Supervisor
from cellmesh.cli.watching import Watcher, until_ready

#: Seconds until every process should serve, and what each further one adds on a small machine.
START = 60.0
START_EACH = 1.0

#: Called when the mesh is up; what it returns, unless None, is the exit code of the command.
WhenUp = Callable[[Sequence[Child]], Awaitable[int | None]]


class RunningMesh:
    """One mesh, run once.

    Args:
        plan: its processes.
        reporter: makes what the user sees, from the list of children.
        when_up: what to do once all serve; nothing: keep it running.

    """

    def __init__(
        self, plan: Plan, reporter: Callable[[Sequence[Child]], Reporter], when_up: WhenUp | None = None
    ) -> None:
        self._plan = plan
        self._supervisor = Supervisor(self._on_event, self._on_line)
        self._reporter = reporter(self._supervisor.children)
        self._when_up = when_up
        self._stop = asyncio.Event()
        self._at_once = asyncio.Event()

    async def run(self) -> int:
        """Run it until a signal comes, ``when_up`` is done, or nothing is left; return the exit code.

        Raises:
            Failure: a port is taken; nothing has been started.

        """
        faults = port_faults(self._plan)
        if faults:
            raise Failure("\n".join(faults))
        self._catch_signals()
        loop = asyncio.get_running_loop()
        watcher = loop.create_task(
            Watcher(self._supervisor.children, keep_looking=self._reporter.shows_health).run(), name="watcher"
        )
        living = loop.create_task(self._live(), name="living")
        stopping = loop.create_task(self._stop.wait(), name="stopping")
        with self._reporter:
            try:
                await asyncio.wait([living, stopping, watcher], return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (living, stopping, watcher):
                    task.cancel()
                self._reporter.mesh("stopping", "stopping")
                await self._supervisor.stop(self._at_once)
                ended = await asyncio.gather(living, watcher, return_exceptions=True)
        for result in ended:
            if isinstance(result, Exception):
                raise result
        return ended[0] if isinstance(ended[0], int) else 0

    async def _live(self) -> int:
        for cell, fields in self._plan.unused:
            text = f"Cell {cell}: has an effect in a cluster only: {', '.join(fields)}"
            self._reporter.mesh("unused", text, cell=cell, fields=list(fields))
        for cell, url in self._plan.handlers:
            text = f"Cell {cell}: run its handler yourself, no containers are started here; messages go to {url}"
            self._reporter.mesh("handler", text, cell=cell, url=url)
        discovery = self._supervisor.start(self._plan.discovery)
        if await until_ready([discovery], START):
            self._reporter.mesh("failed", "discovery does not serve; its last lines are above")
            return 1
        cells = [self._supervisor.start(process) for process in self._plan.cells]
        missing = await until_ready(cells, START + START_EACH * len(cells))
        self._tell(discovery, cells, missing)
        if self._when_up is not None and not missing:
            code = await self._when_up(cells)
            if code is not None:
                return code
        if self._when_up is not None and missing:
            return 1
        return await self._until_out(discovery, cells)

    async def _until_out(self, discovery: Child, cells: Sequence[Child]) -> int:
        """Wait for as long as there is a mesh; return the exit code for its end."""
        ends = [asyncio.ensure_future(_ended([discovery]))]
        if cells:
            ends.append(asyncio.ensure_future(_ended(cells)))
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()
        what = "discovery is down" if discovery.task is not None and discovery.task.done() else "every cell is down"
        self._reporter.mesh("failed", f"{what} and will not be restarted")
        return 1

    def _tell(self, discovery: Child, cells: Sequence[Child], missing: Sequence[Child]) -> None:
        urls = {child.name: child.url for child in cells if child.state == "ready"}
        if missing:
            names = ", ".join(child.name for child in missing)
            self._reporter.mesh("incomplete", f"not ready: {names}", instances=urls, missing=[c.name for c in missing])
        else:
            count = f"{len(cells)} instance{'s' if len(cells) != 1 else ''}"
            text = f"the mesh is up: {count}, discovery at {discovery.url}; Ctrl-C stops it"
            self._reporter.mesh("up", text, discovery=discovery.url, instances=urls)
        if not is_local(self._plan.host):
            self._reporter.say(f"listening on {self._plan.host}: whoever reaches this machine can send messages")

    def _on_event(self, kind: str, child: Child, **details: object) -> None:
        self._reporter.event(kind, child, **details)

    def _on_line(self, name: str, text: str) -> None:
        self._reporter.line(name, text)

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # Under nohup a hangup stays ignored.
            if signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, self._on_signal)

    def _on_signal(self) -> None:
        if self._stop.is_set():
            self._at_once.set()
        self._stop.set()


async def _ended(children: Sequence[Child]) -> None:
    tasks = [child.task for child in children if child.task is not None]
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.wait(tasks)
