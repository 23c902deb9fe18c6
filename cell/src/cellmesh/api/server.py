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
from typing import Any

import uvloop

from cellmesh.api import last_words
from cellmesh.api.serving import Serving
from cellmesh.app import Cell as App
from cellmesh.app.host import Host
from cellmesh.errors import AppError, CellMeshError
from cellmesh.inbox import Inbox
from cellmesh.service.cell import Cell, open_inbox
from cellmesh.settings import Settings

log = logging.getLogger(__name__)

#: How long the end of the cell's own code may take, seconds.
STOP_GRACE = 5.0
#: Time kept at the end, where what is left is handed over, for what handlers hand back; at most a quarter of it all.
HANDING_BACK = 5.0
_FIRST = asyncio.FIRST_COMPLETED


class PortInUse(CellMeshError):  # noqa: N818 - the state it is in
    """The address cannot be listened on."""


def run(settings: Settings, *, exit_with_parent: bool = False, app: App | None = None) -> int:
    """Run one cell until it is told to stop.

    Args:
        settings: its settings.
        exit_with_parent: stop also when standard input ends, as it does when the parent process dies.
        app: the cell's own code.

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
        return uvloop.run(_serve(settings, inbox, listener, app, exit_with_parent=exit_with_parent))


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


async def _serve(
    settings: Settings, inbox: Inbox, listener: socket.socket, app: App | None, *, exit_with_parent: bool
) -> int:
    cell = Cell(settings, inbox)
    host = Host(app, cell) if app is not None else None
    serving = Serving(cell, listener)
    stop, stop_now = _watch_signals(exit_with_parent=exit_with_parent)
    port = await serving.listening()
    # What the start has made lives as long as the process, and a message leaves no cycles behind: the
    # collector need not walk over everything after every few hundred of them.
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    cell.start(port)
    log.info("%s is ready at http://%s:%d", settings.instance, settings.host, port)
    failed = await _until_stop(stop, serving, host)
    if failed:
        log.error("%s: %s, this process stops", settings.instance, failed)
    await drain(cell, stop_now)
    if host is not None:
        await asyncio.wait([asyncio.ensure_future(host.stop()), stop_now], timeout=STOP_GRACE, return_when=_FIRST)
        host.close()
    serving.end(force=stop_now.done())
    await asyncio.wait([serving.task, stop_now], return_when=_FIRST)
    if stop_now.done():
        serving.end(force=True)
        log.warning("%s stops now, %d requests are unanswered", settings.instance, cell.in_flight)
    await cell.close()
    if not stop_now.done():
        log.info("%s has stopped", settings.instance)
    await serving.close()
    return 1 if failed or stop_now.done() else 0


async def _until_stop(stop: asyncio.Future[None], serving: Serving, host: Host | None) -> str:
    """Start the cell's own code, then wait; return what went wrong, or nothing if the process is told to stop."""
    ends: list[asyncio.Future[Any]] = [stop, serving.task]
    if host is not None:
        starting = asyncio.get_running_loop().create_task(host.start())
        await asyncio.wait([*ends, starting], return_when=_FIRST)
        if not starting.done():
            starting.cancel()
        elif (error := starting.exception()) is not None:
            return str(error) if isinstance(error, AppError) else f"the app: {type(error).__name__}"
    await asyncio.wait(ends, return_when=_FIRST)
    return "" if stop.done() else "the HTTP server has ended by itself"


async def drain(cell: Cell, stop_now: asyncio.Future[None]) -> None:
    """Leave the mesh, finish what is under way, refuse what is new; cut short by ``stop_now``.

    An instance that does not come back, or not with what it has, hands that over to its siblings meanwhile.
    """
    settings = cell.settings
    loop = asyncio.get_running_loop()
    log.info("%s is stopping: accepts messages for %.1f s more", settings.instance, settings.drain_accept)
    accept_until = loop.time() + settings.drain_accept
    deadline = loop.time() + settings.drain_timeout
    handing_over = loop.create_task(cell.handing_over.run(deadline))
    leaving = loop.create_task(cell.leave())
    await asyncio.wait([stop_now], timeout=max(0.0, accept_until - loop.time()))
    cell.refuse()

    def time_is_over() -> bool:
        # What is handed back by handlers at the end of their time is to be handed over as well.
        kept = min(HANDING_BACK, settings.drain_timeout / 4) if cell.handing_over.active else 0.0
        return loop.time() >= deadline - kept

    while (cell.in_flight or cell.handling) and not time_is_over() and not stop_now.done():
        await asyncio.wait([stop_now], timeout=0.02)
    if (cell.in_flight or cell.handling) and not stop_now.done():
        log.warning(
            "%d requests and %d handlers were not finished within %.0f s",
            cell.in_flight,
            cell.handling,
            settings.drain_timeout,
        )
        await cell.give_up()
    cell.handing_over.close()
    await asyncio.wait([handing_over, stop_now], return_when=_FIRST)
    await asyncio.wait([leaving, stop_now], return_when=_FIRST)
    for task in (handing_over, leaving):
        task.cancel()
    (error,) = await asyncio.gather(handing_over, return_exceptions=True)
    if isinstance(error, Exception):
        log.error("handing over failed: %s", type(error).__name__)
    _say_what_stays(cell)


def _say_what_stays(cell: Cell) -> None:
    """Say what this instance leaves behind: in the log, and to Kubernetes."""
    settings, gauges, handing_over = cell.settings, cell.inbox.gauges, cell.handing_over
    if handing_over.active:
        left = handing_over.remaining + handing_over.unsent
        lost = settings.durability == "ephemeral"
        log.log(
            logging.INFO if not left else logging.ERROR if lost else logging.WARNING,
            "%s ends with %d pending messages, %d leased by clients and %d to be sent%s",
            settings.instance,
            gauges.pending,
            gauges.leased,
            handing_over.unsent,
            "" if not left else ": lost with its storage" if lost else ": they wait on its volume until it is back",
        )
    last_words.write(handing_over.remaining, handing_over.unsent)


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
