"""HTTP around the routes: bodies in, errors out, and the guard in front."""

from __future__ import annotations

import asyncio
import functools
import logging
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cellmesh.protocol.guard import check_json, check_origin
from cellmesh.protocol.problems import Problem
from cellmesh_operator.discovery.registration import MAX_BODY

#: Seconds within which a body must have come.
BODY_TIMEOUT = 10.0
_CODES = {400: "bad_request", 404: "not_found", 405: "method_not_allowed"}
_log = logging.getLogger(__name__)

Handler = Callable[[Request], Awaitable[Response]]


def json_response(body: Any, status: int = 200) -> Response:
    """Return a JSON answer of a msgspec type or plain values."""
    return Response(msgspec.json.encode(body), status, media_type="application/json")


def problem_response(problem: Problem) -> Response:
    """Return the answer that tells a problem."""
    response = json_response(problem.body(), problem.http_status)
    response.raw_headers.extend(problem.headers())
    if problem.http_status == 408:
        response.headers["connection"] = "close"
    return response


def answering(handler: Handler) -> Handler:
    """Turn what a handler raises into an answer; of an error of ours the client learns only that it is one."""

    @functools.wraps(handler)
    async def run(request: Request) -> Response:
        try:
            return await handler(request)
        except Problem as problem:
            return problem_response(problem)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        except Exception as error:  # the boundary: nothing may reach a client as it is
            _log_failure(handler.__name__, error)
            return problem_response(Problem("internal", "internal error; see the log of discovery"))

    return run


def draining() -> Problem:
    """Return the problem of a server that is shutting down."""
    return Problem("draining", "discovery is shutting down; ask another replica, or again soon", retry_after=1)


async def http_error(_request: Request, error: Exception) -> Response:
    """Answer what the router refuses (no such path, wrong method) in our form, with its headers."""
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for nothing else
    code = _CODES.get(error.status_code, "bad_request")
    text = {
        "not_found": "no such path; see /docs for those there are",
        "method_not_allowed": "this path takes another method; see the Allow header",
    }.get(code, str(error.detail))
    response = problem_response(Problem(code, text))
    response.headers.update(error.headers or {})
    return response


async def read_json(request: Request) -> bytes:
    """Return the body of a request that must be JSON.

    Raises:
        Problem: ``unsupported_media_type`` (415), ``body_too_large`` (413), ``request_timeout`` (408).

    """
    wrong = check_json(request.headers.get("content-type"))
    if wrong is not None:
        # A new one: the one at hand is cached, and a raised exception keeps its frames alive.
        raise Problem(wrong.code, wrong.message, field=wrong.field)
    length = request.headers.get("content-length", "")
    if length.isascii() and length.isdigit() and int(length[:20]) > MAX_BODY:
        raise _too_large()
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY:
                    raise _too_large()
    except TimeoutError:
        raise Problem("request_timeout", f"the body did not come within {BODY_TIMEOUT:g} s") from None
    return bytes(body)


async def disconnected(request: Request) -> None:
    """Return when the client has gone away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


class Guard:
    """ASGI middleware in front of everything: refuses foreign ``Host`` and ``Origin``, counts answers.

    Args:
        app: what comes behind.
        hosts: names under which this server may be addressed, besides addresses and single labels.
        origins: web origins whose pages may use it.
        draining: tells whether the server is shutting down; requests cut off then are answered, not logged.
        count: called with the endpoint's name (``other`` where none was reached) and the status.

    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: frozenset[str],
        origins: frozenset[str],
        count: Callable[[str, int], None],
        draining: Callable[[], bool],
    ) -> None:
        self._app = app
        self._hosts = hosts
        self._origins = origins
        self._count = count
        self._draining = draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def counting(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                self._count(getattr(scope.get("endpoint"), "__name__", "other"), message["status"])
            await send(message)

        refused = self._check(scope["headers"])
        if refused is not None:
            await problem_response(refused)(scope, receive, counting)
            return
        try:
            await self._app(scope, receive, counting)
        except asyncio.CancelledError:
            if started or not self._draining():
                raise
            await problem_response(draining())(scope, receive, counting)

    def _check(self, headers: list[tuple[bytes, bytes]]) -> Problem | None:
        for host in _values(headers, b"host"):
            for origin in _values(headers, b"origin"):
                problem = check_origin(host, origin, self._hosts, self._origins)
                if problem is not None:
                    return problem
        return None


def _values(headers: list[tuple[bytes, bytes]], wanted: bytes) -> list[str | None]:
    """Return every value of a header, so that a second one cannot hide behind the first; None if absent."""
    return [value.decode("latin-1") for name, value in headers if name == wanted] or [None]


def _too_large() -> Problem:
    return Problem("body_too_large", f"body: larger than {MAX_BODY} bytes")


def _log_failure(endpoint: str, error: Exception) -> None:
    """Log where it happened and the error's type; its text might quote what the client sent."""
    frames = traceback.extract_tb(error.__traceback__)[-5:]
    where = " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(frames))
    _log.error("%s failed: %s at %s", endpoint, type(error).__name__, where)
