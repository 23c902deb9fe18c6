"""The HTTP server of one cell, in the event loop that runs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator
from typing import Any, cast

import uvicorn

from cellmesh.api.app import build
from cellmesh.api.exchange import Guard
from cellmesh.api.hot_path import protocol
from cellmesh.service.cell import Cell

#: Idle connections of clients are kept this long, seconds; longer than our own client keeps them.
KEEP_ALIVE = 75


class _Server(uvicorn.Server):
    """uvicorn, with the signals left to us."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Serving:
    """Serves a cell on a socket.

    Args:
        cell: the cell.
        listener: a bound socket.

    """

    def __init__(self, cell: Cell, listener: socket.socket) -> None:
        guard = Guard(cell.settings)
        self._server = _Server(
            uvicorn.Config(
                build(cell, guard),
                http=cast("Any", protocol(cell, guard)),
                ws="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE,
                timeout_graceful_shutdown=3,
                backlog=2048,
            )
        )
        # Its notices of starting and of each bad request are not the user's business.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        self._listener = listener
        #: Ends when the server has.
        self.task = asyncio.get_running_loop().create_task(self._server.serve(sockets=[listener]))

    async def listening(self) -> int:
        """Wait until it listens; return its port."""
        # uvicorn sets a flag when it listens, and offers nothing to wait on.
        while not (self._server.started or self.task.done()):  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        return int(self._listener.getsockname()[1])

    def end(self, *, force: bool) -> None:
        """Have it end: once its requests are answered or, with ``force``, at once."""
        self._server.should_exit = True
        self._server.force_exit = self._server.force_exit or force

    async def close(self) -> None:
        """End it now, if it has not ended."""
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task
