"""A gate in front of a server: others connect to the gate, which can cut them off, lose answers, or lead astray.

The server registers the gate's address, so that its peers come through here. A gate tells who connects by looking the
other end of the connection up in ``/proc`` (Linux), so that one pair of processes can be cut off from each other while
all others go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

Address = tuple[str, int]
Owner = Callable[[Address, Address], str]
_RESET = struct.pack("ii", 1, 0)
_CHUNK = 256 * 1024


class _Crossing:
    """One connection through a gate."""

    def __init__(self, by: str, client: asyncio.StreamWriter) -> None:
        self.by = by
        self.client = client
        self.server: asyncio.StreamWriter | None = None
        #: Whether a request has gone to the server and nothing has come back yet.
        self.awaiting = False

    def abort(self, *, reset: bool = False) -> None:
        """End both connections; with ``reset`` the client's ends with RST instead of FIN."""
        if reset:
            sock = self.client.get_extra_info("socket")
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        for writer in (self.client, self.server):
            if writer is not None:
                writer.transport.abort()


class Gate:
    """The gate of one server.

    Args:
        address: where it listens.
        target: where the server does.
        owner: tells the name of the process at the other end of a connection, from that end's address and ours.

    """

    def __init__(self, address: Address, target: Address, owner: Owner) -> None:
        self.address = address
        self.target = target
        self._owner = owner
        self._astray: Address | None = None
        self._listener: asyncio.Server | None = None
        self._crossings: set[_Crossing] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._cut: dict[str, asyncio.Event] = {}
        self._losing = 0
        self._losing_by = ""
        self._losing_after = 0
        self._lost: asyncio.Event = asyncio.Event()

    @property
    def url(self) -> str:
        """Base URL of the server, through the gate."""
        return f"http://{self.address[0]}:{self.address[1]}"

    async def open(self) -> None:
        """Listen; until then connections are refused."""
        if self._listener is None:
            self._listener = await asyncio.start_server(self._accept, *self.address, limit=_CHUNK, backlog=1024)

    def shut(self) -> None:
        """Refuse connections, and end those there are: the server is not there."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for crossing in list(self._crossings):
            crossing.abort()

    async def close(self) -> None:
        """End everything."""
        self.shut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def in_flight(self, by: str = "") -> int:
        """Return how many requests are on their way: sent to the server and not answered.

        Args:
            by: those of this process only; empty: of all.

        """
        return sum(crossing.awaiting for crossing in self._crossings if by in {"", crossing.by})

    def cut(self, by: str) -> None:
        """Let nothing through between a process and the server, in neither direction, and tell neither."""
        self._cut.setdefault(by, asyncio.Event())

    def mend(self, by: str, *, broken: bool) -> None:
        """End a cut: what was held back goes on, or with ``broken`` the connections have died of it."""
        if broken:
            for crossing in list(self._crossings):
                if crossing.by == by:
                    crossing.abort(reset=True)
        event = self._cut.pop(by, None)
        if event is not None:
            event.set()

    def lose(self, by: str, answers: int, after: int) -> asyncio.Event:
        """Lose answers: the server has answered, and the client sees its connection reset instead.

        Args:
            by: whose answers.
            answers: how many are lost.
            after: bytes of each that still come through.

        Returns:
            an event that is set when the last of them is lost.

        """
        self._losing, self._losing_by, self._losing_after, self._lost = answers, by, after, asyncio.Event()
        return self._lost

    def lead_astray(self, target: Address | None) -> None:
        """Have new connections end at another server, as when an address is given to another; None: no more."""
        self._astray = target
        for crossing in list(self._crossings):
            crossing.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - for the type checker
        self._tasks.add(task)
        crossing = _Crossing(self._owner(writer.get_extra_info("peername"), writer.get_extra_info("sockname")), writer)
        self._crossings.add(crossing)
        try:
            await self._cross(crossing, reader)
        except (OSError, asyncio.CancelledError):
            pass  # either end has gone, or the gate is closed: so do both
        finally:
            crossing.abort()
            self._crossings.discard(crossing)
            self._tasks.discard(task)

    async def _cross(self, crossing: _Crossing, client: asyncio.StreamReader) -> None:
        await self._held(crossing)
        server, crossing.server = await asyncio.open_connection(*(self._astray or self.target), limit=_CHUNK)
        ways = [
            asyncio.ensure_future(self._requests(crossing, client)),
            asyncio.ensure_future(self._answers(crossing, server)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            await self._held(crossing)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _requests(self, crossing: _Crossing, client: asyncio.StreamReader) -> None:
        assert crossing.server is not None  # noqa: S101 - for the type checker
        while data := await client.read(_CHUNK):
            await self._held(crossing)
            crossing.awaiting = True
            crossing.server.write(data)
            await crossing.server.drain()

    async def _answers(self, crossing: _Crossing, server: asyncio.StreamReader) -> None:
        while data := await server.read(_CHUNK):
            await self._held(crossing)
            if crossing.awaiting and self._losing and crossing.by == self._losing_by:
                self._losing -= 1
                if not self._losing:
                    self._lost.set()
                if self._losing_after:
                    crossing.client.write(data[: self._losing_after])
                    await crossing.client.drain()
                crossing.abort(reset=not self._losing_after)  # a reset would overtake the bytes before it
                return
            crossing.awaiting = False
            crossing.client.write(data)
            await crossing.client.drain()

    async def _held(self, crossing: _Crossing) -> None:
        event = self._cut.get(crossing.by)
        if event is not None:
            await event.wait()


def owner_among(processes: Callable[[], Mapping[int, str]]) -> Owner:
    """Return what tells the name of the process at the other end of a connection, from the addresses of both ends.

    Of both: connections of several processes to different servers may share an address at their end.

    Args:
        processes: tells the names of the processes it may be, by their ids.

    """

    def owner(there: Address, here: Address) -> str:
        try:
            inode = _inode(there, here)
        except OSError:
            return ""
        return next((name for pid, name in processes().items() if inode in _sockets(pid)), "") if inode else ""

    return owner


def _inode(local: Address, remote: Address) -> str:
    """Return the inode of the TCP socket between these addresses, as ``/proc/net/tcp`` has it."""
    wanted = [f"{int.from_bytes(socket.inet_aton(host), 'little'):08X}:{port:04X}" for host, port in (local, remote)]
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1:3] == wanted and fields[9] != "0":
            return fields[9]
    return ""


def _sockets(pid: int) -> set[str]:
    """Return the inodes of a process' sockets."""
    found = set()
    with contextlib.suppress(OSError), os.scandir(f"/proc/{pid}/fd") as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                target = str(Path(entry.path).readlink())
                if target.startswith("socket:["):
                    found.add(target[8:-1])
    return found
