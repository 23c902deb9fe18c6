"""The listening process: its socket, its signals, its end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType

import uvicorn

from cellmesh_operator.discovery.app import create_app
from cellmesh_operator.discovery.settings import PREFIX, Settings
from cellmesh_operator.errors import AccessError
from cellmesh_operator.listening import listen_error

#: Seconds that requests may take to end after a signal; long polls end at once.
GRACE = 1


def bind(host: str, port: int) -> socket.socket:
    """Return a socket bound to the address; it listens when the server starts.

    Raises:
        ListenError: the address is in use, not this machine's, or not allowed; says what to do.

    """
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, proto)
    except OSError as error:
        raise listen_error(host, port, error, prefix=PREFIX) from None
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise listen_error(host, port, error, prefix=PREFIX) from None
    return sock


def serve(settings: Settings, announce: Callable[[str], None], *, exit_with_parent: bool = False) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code: 0, or 1 where a second signal cut requests off.

    Args:
        settings: the settings.
        announce: called once with one line when requests are served.
        exit_with_parent: also end when standard input reaches its end.

    Raises:
        ListenError: the address to listen on cannot be had.
        AccessError: with ``kubernetes``: nothing says where the API server is.

    """
    if settings.kubernetes:
        _check_access()
    sock = bind(settings.host, settings.port)
    server = _Server(settings, announce)
    if exit_with_parent:
        threading.Thread(target=server.exit_with_parent, name="parent", daemon=True).start()
    server.run(sockets=[sock])
    return 1 if server.force_exit else 0


def _check_access() -> None:
    """Check before anything starts, so that what is wrong is one line and not a start that fails half-way."""
    try:
        from cellmesh_operator.kube import access
    except ModuleNotFoundError as error:
        raise AccessError(
            f"{error.name} is not installed; install cellmesh[operator], or do without --kubernetes"
        ) from None
    asyncio.run(access.load())


class _Server(uvicorn.Server):
    """uvicorn's server, except that long polls end with it and that a signal it obeyed is not raised again."""

    def __init__(self, settings: Settings, announce: Callable[[str], None]) -> None:
        app = create_app(settings)
        super().__init__(
            uvicorn.Config(
                app,
                loop="cellmesh_operator.loops:new_event_loop",
                http="httptools",
                ws="none",
                lifespan="on",
                access_log=False,
                log_config=None,
                server_header=False,
                timeout_keep_alive=75,
                timeout_graceful_shutdown=GRACE,
            )
        )
        self._waiters = app.discovery.waiters
        self._announce = announce
        self._mesh = settings.default_mesh

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then say so."""
        await super().startup(sockets)
        if self.started and sockets:
            host, port = sockets[0].getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            self._announce(f"discovery listens on http://{shown}:{port} (default mesh: {self._mesh})")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer those who wait, then let requests end."""
        self._waiters.close()
        # One turn of the loop, so that they are answered before their connections are told to close.
        await asyncio.sleep(0)
        await super().shutdown(sockets)
        if self.force_exit:
            # uvicorn leaves this out then; the application's own end takes no time.
            await self.lifespan.shutdown()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """End at the first signal; at the second do not wait for requests."""
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True

    def exit_with_parent(self) -> None:
        """End when standard input does; for a thread."""
        try:
            while os.read(0, 65536):
                pass
        except OSError:
            pass  # closed already
        # As a signal, so that it is obeyed also while the server starts.
        os.kill(os.getpid(), signal.SIGTERM)
