"""A mesh in one process, for tests."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Container, Sequence
from dataclasses import dataclass
from pathlib import Path

from cellmesh.api.server import drain
from cellmesh.api.serving import Serving
from cellmesh.app import Cell, Message
from cellmesh.app.host import Host
from cellmesh.app.message import of_stored
from cellmesh.protocol.peers import Peer
from cellmesh.protocol.receipts import State
from cellmesh.service import cell as service
from cellmesh.service.outcomes import Backoff
from cellmesh.settings import Settings
from cellmesh.testing.peers import Peers

#: Name of the cell that the test itself is.
TEST = "test"
#: Between two tries of a message: a test does not wait as a cell does.
QUICK = Backoff(first=0.01, most=0.1)
_LOOK = 0.01


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A message in an inbox."""

    message: Message
    state: State
    """pending, leased, consumed or dead."""
    reason: str | None
    """Why it is dead: ``rejected``, ``max_deliveries`` or ``expired``."""


class _Running:
    """One cell of the mesh."""

    def __init__(self, app: Cell, peers: Peers, directory: Path, max_deliveries: int, backoff: Backoff) -> None:
        if app.name is None:
            raise ValueError("a cell in a test needs a name: Cell(NAME)")
        settings = Settings(
            cell_id=app.name,
            port=0,
            data_dir=directory / app.name,
            discovery_url=peers.url,
            register=False,
            type=app.type,
            branch=app.branch,
            services=app.services,
            max_deliveries=max_deliveries,
            drain_accept=0.0,
            drain_timeout=1.0,
        )
        self.app = app
        self.service = service.Cell(settings, service.open_inbox(settings))
        self.host = Host(app, self.service, backoff=backoff)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._serving = Serving(self.service, self._listener)
        self.url = ""

    async def serve(self) -> Peer:
        """Begin to serve; return where."""
        settings, port = self.service.settings, await self._serving.listening()
        self.service.start(port)
        self.url = f"http://127.0.0.1:{port}"
        return Peer(
            cell_id=settings.cell_id,
            ip="127.0.0.1",
            port=port,
            instance=settings.instance,
            uid=settings.uid,
            namespace=settings.namespace,
            type=settings.type or None,
            branch=settings.branch or None,
            services=list(settings.services) or None,
        )

    async def close(self) -> None:
        """End as a process does at SIGTERM."""
        with contextlib.closing(self._listener):
            await drain(self.service, asyncio.get_running_loop().create_future())
            await self.host.stop()
            self.host.close()
            self._serving.end(force=True)
            await self._serving.task
            await self.service.close()

    async def unfinished(self, cells: Container[str]) -> list[str]:
        """Return what waits for a handler or is with one, and what is queued to one of these cells."""
        types, name = self.app.handlers, self.service.here.cell_id
        waiting = [
            f"{one.message_id} ({one.message_type}, from {one.from_cell} to {name})"
            for state in ("pending", "leased")
            for one in await self.service.inbox.page(1000, state=state)
            if None in types or one.message_type in types
        ]
        queued = [
            f"{one.message_id} ({one.message_type}, queued by {name} to {one.to_cell})"
            for one in await self.service.queueing.page(1000, state="queued", after=None)
            if one.to_cell in cells
        ]
        return waiting + queued

    def progress(self) -> tuple[int, int, int]:
        """Return numbers that grow with whatever happens to messages."""
        return (
            self.service.inbox.gauges.received,
            self.service.counters.handled.total(),
            sum(self.service.outbox.ended.values()),
        )


class Mesh:
    """A mesh in a test; ``mesh`` makes it. The test is one of its cells, named ``test``, and sends as that."""

    def __init__(self, cells: Sequence[_Running], client: Cell) -> None:
        self._cells = {running.service.settings.cell_id: running for running in cells}
        self.client = client
        """The cell that the test is."""
        self.send = client.send
        self.ask = client.ask
        self.broadcast = client.broadcast

    def url(self, cell: str) -> str:
        """Return the base URL of a cell's API, as other programs see it."""
        return self._cell(cell).url

    async def messages(self, cell: str, *, state: State | None = None) -> list[Kept]:
        """Return the messages in a cell's inbox, oldest first, at most 1000.

        Args:
            cell: its name; ``test`` for what the test was sent.
            state: of the messages; None: any.

        """
        page = await self._cell(cell).service.inbox.page(1000, state=state)
        return [Kept(message=of_stored(one), state=one.state, reason=one.reason) for one in page]

    async def settled(self, *, within: float = 10.0) -> None:
        """Wait until no handler has anything to do and nothing is on its way to a cell of this mesh.

        Messages that no handler is for stay as they are.

        Args:
            within: seconds at most.

        Raises:
            AssertionError: at the end of that time; says which messages are left.

        """
        deadline = time.monotonic() + within
        while True:
            # One that moves on while the others are looked at must not be overlooked.
            before = [running.progress() for running in self._cells.values()]
            left = [one for running in self._cells.values() for one in await running.unfinished(self._cells)]
            if not left and before == [running.progress() for running in self._cells.values()]:
                return
            if time.monotonic() > deadline:
                names = ", ".join(left[:10])
                raise AssertionError(f"{len(left)} messages are not handled within {within:g} s: {names}")
            await asyncio.sleep(_LOOK)

    def _cell(self, name: str) -> _Running:
        if name not in self._cells:
            raise KeyError(f"no cell {name!r} in this mesh; there are {', '.join(sorted(self._cells))}")
        return self._cells[name]


@contextlib.asynccontextmanager
async def mesh(
    *cells: Cell, data_dir: Path | None = None, max_deliveries: int = 5, backoff: Backoff = QUICK
) -> AsyncIterator[Mesh]:
    """Run cells in this process, one instance each.

    Args:
        cells: the cells; each must have a name.
        data_dir: where inboxes are kept; None: in a directory that is deleted at the end.
        max_deliveries: how often a message is handed to a handler at most.
        backoff: how long a message waits after its handler failed, in place of what the cell says.

    Raises:
        ValueError: a cell has no name, or two have the same.
        AppError: an ``on_start`` failed.

    """
    names = [cell.name for cell in cells] + [TEST]
    if len(set(names)) < len(names):
        raise ValueError(f"two cells have one name; the test itself is {TEST!r}: {', '.join(map(str, names))}")
    client = Cell(TEST)
    async with contextlib.AsyncExitStack() as stack:
        directory = data_dir or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cellmesh-")))
        peers = Peers()
        await peers.start()
        stack.push_async_callback(peers.close)
        running = []
        for app in (*cells, client):
            one = _Running(app, peers, directory, max_deliveries, backoff)
            stack.push_async_callback(one.close)
            running.append(one)
            peers.known.append(await one.serve())
        for one in running:
            await one.host.start()
        yield Mesh(running, client)
