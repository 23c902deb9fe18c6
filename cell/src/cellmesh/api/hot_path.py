"""The hot path: messages in, out and to consumers, answered where their bytes come in.

An ASGI application costs more than storing a message does: a scope, a task, an event and two coroutines
for every request. So the connection itself looks whether a request is one of these, and answers it;
every other request, and of these any that comes in an unusual form (chunked, too long, behind
another one that is not answered yet), goes to FastAPI's routes. Those answer the same endpoints through
the same handlers; they document them, and tests compare both.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any, cast

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from cellmesh.api import exchange as exchanges
from cellmesh.api.consumers import consumer_endpoints
from cellmesh.api.exchange import Guard, headers_problem, late_body
from cellmesh.service.cell import Cell
from cellmesh.service.reply import Endpoint, Reply, failure, refuse

#: A request with one of these headers is not in the ordinary form.
_UNUSUAL = frozenset({b"transfer-encoding", b"upgrade"})
#: Of every status that an answer passed on may have, also of those without a name.
_HEADS = {status: STATUS_LINE[status] + b"content-type: application/json\r\n" for status in STATUS_LINE}


def endpoints(cell: Cell) -> dict[str, Endpoint]:
    """Return the endpoints of the hot path by their paths."""
    settings = cell.settings
    return {
        "/message": Endpoint(cell.receiver.message, settings.max_body, refuse),
        "/message/batch": Endpoint(
            cell.receiver.batch,
            max(settings.max_batch_bytes, settings.max_body + 2),
            refuse,
            cell.receiver.ordered_batch,
        ),
        "/send": Endpoint(cell.sender.send, settings.max_body, cell.sender.refuse),
        **consumer_endpoints(cell),
    }


class _Nobody:
    """The event of a request that nobody awaits."""

    def set(self) -> None:
        """Wake nobody."""


class _Exchange:
    """One hot request and its answer. To uvicorn it looks like one of its own cycles."""

    __slots__ = ("disconnected", "endpoint", "gone", "headers", "keep_alive", "parts", "path", "response_complete")

    message_event = _Nobody()

    def __init__(
        self, path: bytes, endpoint: Endpoint, headers: list[tuple[bytes, bytes]], *, keep_alive: bool
    ) -> None:
        self.path = path
        self.endpoint = endpoint
        self.headers = headers
        self.parts: list[bytes] = []
        self.keep_alive = keep_alive
        self.disconnected = False
        self.response_complete = False
        #: What is to be done if the client goes away before it is answered.
        self.gone: Callable[[], None] | None = None


class _Answer(functools.partial[bool]):
    """Gives the answer of an exchange, its first argument."""

    def when_gone(self, effect: Callable[[], None]) -> None:
        """Have ``effect`` called if the client goes away before."""
        self.args[0].gone = effect


class HotProtocol(HttpToolsProtocol):
    """HTTP/1.1 as uvicorn has it, with the hot endpoints answered on the spot.

    Args:
        config: uvicorn's.
        server_state: uvicorn's.
        app_state: uvicorn's.
        cell: the cell whose messages these are.
        guard: the checks on headers.
        _loop: the event loop; default: the running one.

    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        cell: Cell,
        guard: Guard,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._hot = {path.encode(): endpoint for path, endpoint in endpoints(cell).items()}
        self._cell = cell
        self._guard = guard
        #: The hot request whose body is coming in.
        self._incoming: _Exchange | None = None
        self._body_timer: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        """Take bytes from the client (asyncio)."""
        super().data_received(data)
        if self._incoming is not None and self._body_timer is None:
            self._body_timer = self.loop.call_later(exchanges.BODY_TIMEOUT, self._body_is_late, self._incoming)

    def on_message_begin(self) -> None:
        """Begin a request (httptools); what only FastAPI needs is made once it is known to be for it."""
        # It may stand right behind one that has just been answered, and armed the timer.
        self._unset_keepalive_if_required()
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_headers_complete(self) -> None:
        """Decide who answers (httptools)."""
        exchange = self._hot_exchange()
        if exchange is not None:
            self.cycle = cast("Any", exchange)
            self._incoming = exchange
            self._cell.in_flight += 1
            return
        url, headers, expect = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expect
        self.headers.extend(headers)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body (httptools)."""
        exchange = self._incoming
        if exchange is None:
            super().on_body(body)
            return
        if not exchange.response_complete:
            exchange.parts.append(body)

    def on_message_complete(self) -> None:
        """Answer a request that is complete (httptools)."""
        exchange = self._incoming
        if exchange is None:
            super().on_message_complete()
            return
        self._received()
        if exchange.response_complete:
            return  # its body came too late
        # Not kept: the exchange stays until the connection's next one.
        parts, exchange.parts = exchange.parts, []
        answer = _Answer(self._answer, exchange)
        problem = headers_problem(self._guard, exchange.headers)
        if problem is not None:
            answer(exchange.endpoint.refuse(problem))
            return
        try:
            handler = exchange.endpoint.answering(exchange.headers)
            handler(parts[0] if len(parts) == 1 else b"".join(parts), answer)
        except Exception as error:
            answer(failure(f"POST {exchange.path.decode()}", error))

    def connection_lost(self, exc: Exception | None) -> None:
        """End (asyncio); a body that is not complete by now never will be."""
        if self._incoming is not None and not self._incoming.response_complete:
            self._cell.in_flight -= 1
        self._received()
        exchange = cast("Any", self.cycle)
        if isinstance(exchange, _Exchange) and exchange.gone is not None and not exchange.response_complete:
            exchange.gone()
        super().connection_lost(exc)

    def _hot_exchange(self) -> _Exchange | None:
        """Return the exchange of a request that can be answered here, or None."""
        endpoint = self._hot.get(self.url)
        if endpoint is None or self.parser.get_method() != b"POST" or self.expect_100_continue:
            return None
        # A client that does not read its answers is FastAPI's: there, answers wait and reading is paused.
        if self._busy() or self.flow.write_paused:
            return None
        length = -1
        for name, value in self.headers:
            if name == b"content-length":
                length = int(value)
            elif name in _UNUSUAL:
                return None
        if not 0 <= length <= endpoint.limit:
            return None
        keep_alive = self.parser.should_keep_alive() and self.parser.get_http_version() != "1.0"
        return _Exchange(self.url, endpoint, self.headers, keep_alive=keep_alive)

    def _busy(self) -> bool:
        before = cast("RequestResponseCycle | None", self.cycle)
        return before is not None and not before.response_complete

    def _received(self) -> None:
        self._incoming = None
        if self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None

    def _body_is_late(self, exchange: _Exchange) -> None:
        # What is still to come of it is worth nothing to anybody.
        exchange.keep_alive = False
        self._answer(exchange, exchange.endpoint.refuse(late_body()))

    def _answer(self, exchange: _Exchange, reply: Reply) -> bool:
        """Write the answer of a hot request, once; return whether the client is still there."""
        if exchange.response_complete:
            return False
        exchange.response_complete = True
        self._cell.in_flight -= 1
        transport = self.transport
        if transport.is_closing():
            return False
        lines = [_HEADS[reply.status]]
        for name, value in self.server_state.default_headers:
            lines += (name, b": ", value, b"\r\n")
        for name, value in reply.headers:
            lines += (name, b": ", value, b"\r\n")
        if not exchange.keep_alive:
            lines.append(b"connection: close\r\n")
        lines += (b"content-length: %d\r\n\r\n" % len(reply.body), reply.body)
        transport.write(b"".join(lines))
        if not exchange.keep_alive:
            transport.close()
        self.on_response_complete()
        return True


def protocol(cell: Cell, guard: Guard) -> Callable[..., HotProtocol]:
    """Return what makes the protocol of each connection, for uvicorn's ``http`` setting."""
    return functools.partial(HotProtocol, cell=cell, guard=guard)
