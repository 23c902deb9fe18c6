"""One cell as a process: socket, signals, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any, cast

import uvicorn
import uvloop

from cellmesh.api.app import build
from cellmesh.api.exchange import Guard
from cellmesh.api.hot_path import protocol
from cellmesh.errors import CellMeshError
from cellmesh.inbox import Inbox
from cellmesh.service.cell import Cell, open_inbox
from cellmesh.settings import Settings

log = logging.getLogger(__name__)

#: Idle connections of clients are kept this long, seconds; longer than our own client keeps them.
KEEP_ALIVE = 75


class PortInUse(CellMeshError):  # noqa: N818 - the state it is in
    """The address cannot be listened on."""


class _Server(uvicorn.Server):
    """uvicorn, with the signals left to us."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def run(settings: Settings, *, exit_with_parent: bool = False) -> int:
    """Run one cell until it is told to stop.

    Args:
        settings: its settings.
        exit_with_parent: stop also when standard input ends, as it does when the parent process dies.

    Returns:
        the exit code: 0 after an orderly stop, 1 after one that was cut short.

    Raises:
        InboxError: the inbox cannot be opened.
        PortInUse: the address cannot be listened on.

    """
    logging.basicConfig(
        level=settings.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    listener = _listen(settings)
    with contextlib.closing(listener):
        inbox = open_inbox(settings)
        return uvloop.run(_serve(settings, inbox, listener, exit_with_parent=exit_with_parent))


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise PortInUse(
            f"cannot listen on {settings.host} port {settings.port}: {error.strerror}; "
            "stop what uses it or set CELLMESH_PORT"
        ) from None
    return listener


async def _serve(settings: Settings, inbox: Inbox, listener: socket.socket, *, exit_with_parent: bool) -> int:
    cell = Cell(settings, inbox)
    guard = Guard(settings)
    server = _Server(
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
    stop, stop_now = _watch_signals(exit_with_parent=exit_with_parent)
    serving = asyncio.get_running_loop().create_task(server.serve(sockets=[listener]))
    # uvicorn sets a flag when it listens, and offers nothing to wait on.
    while not (server.started or serving.done()):  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    port = listener.getsockname()[1]
    # What the start has made lives as long as the process, and a message leaves no cycles behind: the
    # collector need not walk over everything after every few hundred of them.
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    cell.start(port)
    log.info("%s is ready at http://%s:%d", settings.instance, settings.host, port)
    await asyncio.wait([stop, serving], return_when=asyncio.FIRST_COMPLETED)
    failed = serving.done()
    if failed:
        log.error("%s: the HTTP server has ended by itself, this process stops", settings.instance)
    await _drain(cell, stop_now)
    server.should_exit = True
    server.force_exit = stop_now.done()
    await asyncio.wait([serving, stop_now], return_when=asyncio.FIRST_COMPLETED)
    if stop_now.done():
        server.force_exit = True
        log.warning("%s stops now, %d requests are unanswered", settings.instance, cell.in_flight)
    await cell.close()
    if not stop_now.done():
        log.info("%s has stopped", settings.instance)
    serving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await serving
    return 1 if failed or stop_now.done() else 0


async def _drain(cell: Cell, stop_now: asyncio.Future[None]) -> None:
    """Leave the mesh, finish what is under way, refuse what is new; cut short by ``stop_now``."""
    settings = cell.settings
    loop = asyncio.get_running_loop()
    log.info("%s is stopping: accepts messages for %.1f s more", settings.instance, settings.drain_accept)
    accept_until = loop.time() + settings.drain_accept
    deadline = loop.time() + settings.drain_timeout
    leaving = loop.create_task(cell.leave())
    await asyncio.wait([stop_now], timeout=max(0.0, accept_until - loop.time()))
    cell.refuse()
    while cell.in_flight and loop.time() < deadline and not stop_now.done():
        await asyncio.wait([stop_now], timeout=0.02)
    if cell.in_flight and not stop_now.done():
        log.warning("%d requests were not finished within %.0f s", cell.in_flight, settings.drain_timeout)
        await cell.give_up()
    await asyncio.wait([leaving, stop_now], return_when=asyncio.FIRST_COMPLETED)
    leaving.cancel()


def _watch_signals(*, exit_with_parent: bool) -> tuple[asyncio.Future[None], asyncio.Future[None]]:
    """Return futures for the first and the second request to stop."""
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[None] = loop.create_future()
    stop_now: asyncio.Future[None] = loop.create_future()

    def requested() -> None:
        for future in (stop, stop_now):
            if not future.done():
                future.set_result(None)
                return

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, requested)
    if exit_with_parent:

        def watch() -> None:
            # Not sys.stdin: its lock is held while it reads, and the interpreter cannot end over that.
            while os.read(0, 65536):
                pass
            with contextlib.suppress(RuntimeError):  # the loop has ended by itself
                loop.call_soon_threadsafe(requested)

        threading.Thread(target=watch, name="parent-watch", daemon=True).start()
    return stop, stop_now
