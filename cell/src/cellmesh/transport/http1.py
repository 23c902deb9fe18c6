"""A small HTTP/1.1 client: what a message needs, and no more.

It exists because delivery needs to know what no general client tells: whether a byte of a request may
have reached the other side. ``NotSent`` says that none has; ``Lost`` that one may have.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from typing import cast

import httptools

#: Longest answer taken, bytes.
MAX_ANSWER = 32 * 1024 * 1024
#: Idle connections are given up before the other side (75 s) does, so that none is closed under a request.
IDLE_SECONDS = 30.0


class NotSent(Exception):  # noqa: N818 - what is known, not a fault
    """No byte of the request has left: it can be sent again anywhere."""


class Lost(Exception):  # noqa: N818 - what is known, not a fault
    """The request may have arrived, its answer has not: the outcome is unknown."""


class Answer:
    """A complete HTTP answer; header names are lower case."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: dict[bytes, bytes], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body


class Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request under way."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._waiter: asyncio.Future[Answer] | None = None
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._size = 0
        #: Whether the answer under way says no length: it ends with the connection.
        self._open_ended = False
        self.idle_since = 0.0

    @property
    def usable(self) -> bool:
        """Whether another request can go out on it."""
        return self._transport is not None and not self._transport.is_closing() and self._waiter is None

    def send(self, request: bytes) -> asyncio.Future[Answer]:
        """Write one request; the future holds its answer, or ``Lost``.

        Raises:
            NotSent: the connection is closed.

        """
        if self._transport is None or self._transport.is_closing() or self._waiter is not None:
            raise NotSent("connection closed")
        waiter: asyncio.Future[Answer] = self._loop.create_future()
        self._waiter = waiter
        self._headers = {}
        self._body = []
        self._size = 0
        self._open_ended = False
        self._parser = httptools.HttpResponseParser(self)
        self._transport.write(request)
        return waiter

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport (asyncio)."""
        self._transport = cast("asyncio.Transport", transport)
        _keep_alive(transport.get_extra_info("socket"))

    def data_received(self, data: bytes) -> None:
        """Feed the parser (asyncio)."""
        if self._parser is None or self._waiter is None:
            self.close()  # an answer nobody asked for: nothing on this connection can be trusted
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail("answered with an upgrade")
        except httptools.HttpParserError as error:
            self._fail(f"answer is not HTTP: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what waits (asyncio)."""
        self._transport = None
        if self._waiter is not None and self._open_ended and exc is None:
            self.on_message_complete()
        elif self._waiter is not None:
            self._fail(str(exc) if exc else "connection closed without a complete answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep one header (httptools)."""
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """Note how the answer will end (httptools)."""
        self._open_ended = not (b"content-length" in self._headers or b"transfer-encoding" in self._headers)

    def on_body(self, body: bytes) -> None:
        """Keep a piece of the body (httptools)."""
        self._size += len(body)
        if self._size > MAX_ANSWER:
            self._fail(f"answer is longer than {MAX_ANSWER} bytes")
            return
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Hand the answer over (httptools)."""
        parser, waiter = self._parser, self._waiter
        if parser is None or waiter is None:
            return
        status = parser.get_status_code()
        if 100 <= status < 200:
            self._headers = {}
            self._open_ended = False
            return
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._waiter = self._parser = None
        if not parser.should_keep_alive() and self._transport is not None:
            self._transport.close()
        if not waiter.done():
            waiter.set_result(Answer(status, self._headers, body))

    def _fail(self, why: str) -> None:
        waiter, self._waiter, self._parser = self._waiter, None, None
        if waiter is not None and not waiter.done():
            waiter.set_exception(Lost(why))
        self.close()


def _keep_alive(sock: socket.socket | None) -> None:
    """Have the kernel notice a machine that is gone, which closes no connection: within about 30 s."""
    if sock is None:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):  # macOS has no TCP_KEEPIDLE
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class Pool:
    """Keep-alive connections to one address.

    Args:
        host: name or address, resolved at every new connection.
        port: TCP port.

    """

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._idle: deque[Connection] = deque()
        self._loop = asyncio.get_running_loop()
        name = f"[{host}]" if ":" in host else host
        self._host_header = f"{name}:{port}"

    def prepare(self, method: str, path: str, headers: tuple[tuple[str, str], ...] = ()) -> bytes:
        """Return the head of a request, all but its body's length; to be used again and again."""
        lines = [f"{method} {path} HTTP/1.1", f"host: {self._host_header}", *(f"{k}: {v}" for k, v in headers)]
        return "\r\n".join(lines).encode("latin-1") + b"\r\n"

    async def connection(self, timeout: float) -> Connection:
        """Return a connection that is free: an idle one, else a new one.

        Args:
            timeout: seconds for a new connection.

        Raises:
            NotSent: it cannot be made.

        """
        oldest = self._loop.time() - IDLE_SECONDS
        while self._idle:
            connection = self._idle.pop()
            if connection.usable and connection.idle_since >= oldest:
                return connection
            connection.close()
        try:
            async with asyncio.timeout(timeout):
                _, connection = await self._loop.create_connection(
                    lambda: Connection(self._loop), self._host, self._port
                )
        except TimeoutError:
            raise NotSent(f"no connection to {self._host_header} within {timeout:.1f} s") from None
        except (OSError, ValueError) as error:
            raise NotSent(f"no connection to {self._host_header}: {error}") from None
        return connection

    def release(self, connection: Connection) -> None:
        """Give a connection back after its answer."""
        if connection.usable:
            connection.idle_since = self._loop.time()
            self._idle.append(connection)
        else:
            connection.close()

    async def request(self, head: bytes, body: bytes = b"", *, connect_timeout: float, timeout: float) -> Answer:
        """Send one request and return its answer.

        Args:
            head: from ``prepare``.
            body: the body, if any.
            connect_timeout: seconds for a new connection.
            timeout: seconds from then to the complete answer.

        Raises:
            NotSent: no byte has left.
            Lost: no complete answer came.

        """
        connection = await self.connection(connect_timeout)
        waiter = connection.send(b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body))
        timer = self._loop.call_later(timeout, connection._fail, f"no answer within {timeout:.1f} s")  # noqa: SLF001 - its owner
        try:
            answer = await waiter
        except asyncio.CancelledError:
            connection.close()
            raise
        finally:
            timer.cancel()
        self.release(connection)
        return answer

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().close()
