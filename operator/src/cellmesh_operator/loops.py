"""The event loop: uvloop, with one repair."""

from __future__ import annotations

import socket
from typing import Any

import uvloop


class Loop(uvloop.Loop):
    """uvloop, which does not close a file descriptor twice when a TLS handshake fails.

    uvloop 0.23 takes a connected socket over only once TLS stands on it. If the handshake fails it closes
    its descriptor and leaves the socket object as it was, which closes the same number again when it is
    collected: by then most likely that of another connection, which dies without a sound. Every restart
    of an API server is an occasion, since aiohttp hands its sockets over like that.
    """

    async def create_connection(self, *args: Any, sock: socket.socket | None = None, **more: Any) -> Any:
        """Connect; after a failure the socket that was given no longer owns its descriptor."""
        try:
            return await super().create_connection(*args, sock=sock, **more)
        except BaseException:
            if sock is not None:
                sock.detach()
            raise


def new_event_loop() -> Loop:
    """Return a loop."""
    return Loop()
