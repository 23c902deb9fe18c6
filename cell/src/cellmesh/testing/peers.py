"""Who is where, for cells of one process: the one question that they ask discovery, answered from a list."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cellmesh.protocol.messages import encode
from cellmesh.protocol.peers import Peer


class Peers:
    """A discovery that knows the peers in ``known``, and no others."""

    def __init__(self) -> None:
        self.known: list[Peer] = []
        self.url = ""
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.StreamWriter, asyncio.Task[None] | None] = {}

    async def start(self) -> None:
        """Begin to answer."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/meshes/test"

    async def close(self) -> None:
        """Answer no more."""
        if self._server is not None:
            self._server.close()
            tasks = [task for task in self._connections.values() if task is not None]
            for writer in self._connections:
                writer.close()
            if tasks:
                await asyncio.wait(tasks)
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections[writer] = asyncio.current_task()
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                while True:
                    head = await reader.readuntil(b"\r\n\r\n")
                    body = encode(self._answer(head.split(b" ", 2)[1].decode()))
                    writer.write(
                        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
                        % (len(body), body)
                    )
                    await writer.drain()
        finally:
            del self._connections[writer]
            writer.close()

    def _answer(self, target: str) -> dict[str, Any]:
        wanted = parse_qs(urlsplit(target).query).get("cell_id")
        found = [peer for peer in self.known if wanted is None or peer.cell_id in wanted]
        return {
            "peers": found,
            "count": len(found),
            "known": bool(found),
            "settled": True,
            "available_cells": sorted({peer.cell_id for peer in self.known}),
        }
