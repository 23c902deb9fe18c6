"""Judging a request, reading it and replying to it: what the hot path and FastAPI's routes share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from cellmesh.protocol.guard import check_json, check_origin
from cellmesh.protocol.problems import Problem
from cellmesh.service.reply import Endpoint, Reply, failure
from cellmesh.settings import Settings

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

#: How long a body may take to come in, seconds; a slow client costs a connection, not a worker.
BODY_TIMEOUT = 30.0

#: Different headers that are remembered as good, at most.
MAX_REMEMBERED = 256


class Disconnected(Exception):  # noqa: N818 - an event
    """The client went away before its body was complete."""


class Guard:
    """The checks before a body is read: Host, Origin, media type, size.

    Args:
        settings: names and origins allowed, and the cell's own names.

    """

    def __init__(self, settings: Settings) -> None:
        cell, namespace = settings.cell_id.lower(), settings.namespace.lower()
        own = {
            f"{name}.{namespace}{suffix}"
            for name in (cell, f"{settings.instance.lower()}.{cell}")
            for suffix in ("", ".svc", ".svc.cluster.local")
        }
        hosts = own | {settings.host.lower(), settings.advertise_host.lower()}
        self.hosts = frozenset({*hosts, *map(str.lower, settings.allowed_hosts)} - {""})
        self.origins = frozenset(settings.allowed_origins)
        #: Headers that were found good: clients send the same ones again and again.
        self._good: set[tuple[bytes | None, bytes | None, bytes | None]] = set()

    def check(self, host: bytes | None, origin: bytes | None, content_type: bytes | None) -> Problem | None:
        """Return the problem with the headers of a request that carries JSON, or None."""
        key = (host, origin, content_type)
        if key in self._good:
            return None
        texts = [None if value is None else value.decode("latin-1") for value in key]
        problem = check_origin(texts[0], texts[1], self.hosts, self.origins) or check_json(texts[2])
        if problem is None and len(self._good) < MAX_REMEMBERED:
            self._good.add(key)
        return problem

    def refuse_origin(self, headers: list[tuple[bytes, bytes]]) -> Problem | None:
        """Return the problem with where a request comes from, or None."""
        host = origin = None
        for name, value in headers:
            if name == b"host":
                host = value.decode("latin-1")
            elif name == b"origin":
                origin = value.decode("latin-1")
        return check_origin(host, origin, self.hosts, self.origins)


async def answer(guard: Guard, endpoint: Endpoint, scope: Scope, receive: Receive) -> Reply:
    """Check a request, read its body and return the endpoint's reply.

    Args:
        guard: the checks on headers.
        endpoint: what is asked.
        scope: the ASGI scope.
        receive: the ASGI channel the body comes from.

    Raises:
        Disconnected: the client went away.

    """
    problem = headers_problem(guard, scope["headers"])
    if problem is not None:
        return endpoint.refuse(problem)
    length = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    if int(length) > endpoint.limit:
        return endpoint.refuse(_too_large(endpoint.limit))
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            body = await _read(endpoint.limit, receive)
    except TimeoutError:
        late = endpoint.refuse(late_body())
        return Reply(late.status, late.body, (*late.headers, (b"connection", b"close")))
    except Problem as too_large:
        return endpoint.refuse(too_large)
    client = _Client(receive)
    try:
        endpoint.answering(scope["headers"])(body, client)
        return await client.replied
    except Exception as error:
        return failure(f"{scope['method']} {scope['path']}", error)
    finally:
        client.answered()


class _Client:
    """Who gets the reply to a request, and whether it is still there."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._loop = asyncio.get_running_loop()
        self._watch: asyncio.Task[None] | None = None
        self._gone = False
        self.replied: asyncio.Future[Reply] = self._loop.create_future()

    def __call__(self, reply: Reply) -> bool:
        """Take the reply; return whether the client is still there."""
        if self.replied.done():
            return False
        self.replied.set_result(reply)
        return not self._gone

    def when_gone(self, effect: Callable[[], None]) -> None:
        """Have ``effect`` called if the client goes away before."""
        self._watch = self._loop.create_task(self._watching(effect))

    async def _watching(self, effect: Callable[[], None]) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        effect()

    def answered(self) -> None:
        """Watch no longer."""
        if self._watch is not None:
            self._watch.cancel()


def headers_problem(guard: Guard, headers: Sequence[tuple[bytes, bytes]]) -> Problem | None:
    """Return the problem with the headers of a request that carries JSON, or None; names are lower case."""
    host = origin = content_type = None
    for name, value in headers:
        if name == b"content-type":
            content_type = value
        elif name == b"host":
            host = value
        elif name == b"origin":
            origin = value
    return guard.check(host, origin, content_type)


def late_body() -> Problem:
    """Return what is said to a client whose body took too long."""
    return Problem("request_timeout", f"the body was not complete within {BODY_TIMEOUT:.0f} s")


async def write(reply: Reply, send: Send) -> None:
    """Write a reply to an ASGI channel."""
    await send(
        {
            "type": "http.response.start",
            "status": reply.status,
            "headers": [
                (b"content-type", b"application/json"),
                (b"content-length", b"%d" % len(reply.body)),
                *reply.headers,
            ],
        }
    )
    await send({"type": "http.response.body", "body": reply.body})


async def _next(receive: Receive) -> MutableMapping[str, Any]:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise Disconnected
    return message


async def _read(limit: int, receive: Receive) -> bytes:
    parts, size, more = [], 0, True
    while more:
        message = await _next(receive)
        part = message.get("body", b"")
        parts.append(part)
        size += len(part)
        if size > limit:
            raise _too_large(limit)
        more = message.get("more_body", False)
    return b"".join(parts)


def _too_large(limit: int) -> Problem:
    return Problem("body_too_large", f"body: longer than {limit} bytes; send less at once", field="body")
