"""Every endpoint of a cell, as a FastAPI app with its documentation."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, cast

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.routing import Route as StarletteRoute

from cellmesh import __version__
from cellmesh.api import openapi
from cellmesh.api.bulk import add_bulk
from cellmesh.api.consumers import Route, add_consumers
from cellmesh.api.exchange import Disconnected, Guard, Receive, Scope, Send, answer, write
from cellmesh.api.hot_path import endpoints
from cellmesh.api.metrics import Metrics
from cellmesh.api.sent import add_sent
from cellmesh.protocol.fields import MAX_ID, Name
from cellmesh.protocol.handover import Handover, HandoverAnswer
from cellmesh.protocol.messages import CellMessage, LegacyMessage, encode
from cellmesh.protocol.problems import Problem, invalid
from cellmesh.protocol.receipts import (
    STATES,
    BatchItem,
    LegacyReceipt,
    MessagePage,
    MessageWithHistory,
    Receipt,
)
from cellmesh.protocol.sends import SendRequest
from cellmesh.service.cell import Cell
from cellmesh.service.reply import Endpoint, Reply, refuse

__all__ = ["Name", "build"]

log = logging.getLogger(__name__)

MAX_LIMIT = 1000
#: Bytes that a hand-over may have besides its longest message.
HANDOVER_MARGIN = 8 * 1024 * 1024
MAX_SEQ = 2**63 - 1
_OBJECT = {"type": "object"}


class GuardMiddleware:
    """ASGI middleware: refuses requests from where none should come, except where the endpoint itself does."""

    def __init__(self, app: Any, guard: Guard, itself: frozenset[str]) -> None:
        self._app = app
        self._guard = guard
        self._itself = itself

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request pass or refuse it (ASGI)."""
        if scope["type"] == "http" and not (scope["method"] == "POST" and scope["path"] in self._itself):
            problem = self._guard.refuse_origin(scope["headers"])
            if problem is not None:
                await write(refuse(problem), send)
                return
        await self._app(scope, receive, send)


def build(cell: Cell, guard: Guard) -> FastAPI:
    """Return the ASGI app of a cell: every endpoint. ``hot_path`` answers three of them before it."""
    app = FastAPI(
        title="CellMesh cell",
        version=__version__,
        description=(
            "The messaging API of one cell: messages in, messages out, and what it knows. "
            "An answer with `acknowledged: true` says that the message is on disk."
        ),
        redirect_slashes=False,
        separate_input_output_schemas=False,
    )
    _add_errors(app)
    route = _routes(cell, guard)
    _add_messages(app, cell, route)
    add_bulk(app, cell)
    add_consumers(app, cell, route)
    _add_reading(app, cell)
    add_sent(app, cell)
    _add_operations(app, cell)
    openapi.describe(app)
    app.add_middleware(cast("Any", GuardMiddleware), guard=guard, itself=frozenset(endpoints(cell)))
    return app


def _response(reply: Reply) -> Response:
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in reply.headers}
    return Response(reply.body, reply.status, headers, media_type="application/json")


def _ok(value: Any) -> Response:
    return Response(encode(value), media_type="application/json")


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(Problem)
    async def problem(_: Request, error: Exception) -> Response:
        return _response(refuse(cast("Problem", error)))

    @app.exception_handler(RequestValidationError)
    async def wrong_parameter(_: Request, error: Exception) -> Response:
        first = cast("RequestValidationError", error).errors()[0]
        field = str(first["loc"][-1])
        return _response(refuse(invalid(field, str(first["msg"]).lower())))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: Exception) -> Response:
        status = cast("HTTPException", error).status_code
        if status == 405:
            allowed = _allowed(request)
            reply = refuse(Problem("method_not_allowed", f"{request.method} is not possible here; use {allowed}"))
            return _response(Reply(reply.status, reply.body, ((b"allow", allowed.encode()),)))
        if status == 404:
            return _response(refuse(Problem("not_found", f"there is no {request.url.path[:200]}; see /docs")))
        return _response(refuse(Problem("bad_request", "the request cannot be understood")))

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        log.error("%s %s failed: %s", request.method, request.url.path, type(error).__name__)
        return _response(refuse(Problem("internal", "the request failed; see the log of the cell")))


def _allowed(request: Request) -> str:
    """Return the methods that there are for the path of a request; each may have a route of its own."""
    routes = [route for route in request.app.routes if isinstance(route, StarletteRoute)]
    first = next(route.path for route in routes if route.matches(request.scope)[0] is not Match.NONE)
    return ", ".join(sorted({method for route in routes if route.path == first for method in route.methods or ()}))


def _routes(cell: Cell, guard: Guard) -> Route:
    """Return what makes a route of an endpoint that takes a JSON body."""

    def route(asked: Endpoint) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            cell.in_flight += 1
            try:
                return _response(await answer(guard, asked, request.scope, request.receive))
            except Disconnected:
                return Response(status_code=400)
            finally:
                cell.in_flight -= 1

        return endpoint

    return route


def _add_messages(app: FastAPI, cell: Cell, route: Route) -> None:
    hot = endpoints(cell)

    def add(path: str, asked: Endpoint, **documentation: Any) -> None:
        app.add_api_route(path, route(asked), methods=["POST"], tags=["messages"], **documentation)

    add(
        "/message",
        hot["/message"],
        summary="Receive a message",
        description="Takes the current form, or the legacy one (`content` and no `payload`). "
        "200 says that the message is in the inbox, on disk; a repeat says `duplicate`.",
        responses=openapi.responses(openapi.ref(Receipt), *openapi.RECEIVE),
        openapi_extra=openapi.body(openapi.MESSAGE_BODY),
    )
    add(
        "/message/legacy",
        Endpoint(cell.receiver.legacy, cell.settings.max_body, refuse),
        summary="Receive a message in the legacy form",
        responses=openapi.responses(openapi.ref(LegacyReceipt), *openapi.RECEIVE),
        openapi_extra=openapi.body(openapi.ref(LegacyMessage)),
    )
    add(
        "/message/batch",
        hot["/message/batch"],
        summary="Receive several messages",
        description="One outcome per message, in order; a bad message does not fail the others. With "
        "`CellMesh-Ordered: true` no new one is stored behind one of its priority that finds no room (429, 507): a "
        "sender that sends what was refused again keeps its order.",
        responses=openapi.responses({"type": "array", "items": openapi.ref(BatchItem)}, *openapi.RECEIVE),
        openapi_extra=openapi.body(
            {
                "type": "array",
                "items": openapi.ref(CellMessage),
                "minItems": 1,
                "maxItems": cell.settings.max_batch_messages,
            }
        ),
    )
    add(
        "/handover",
        Endpoint(cell.taking_over.handover, cell.settings.max_body + HANDOVER_MARGIN, refuse),
        summary="Take messages over from another instance of this cell",
        description="What instances of a cell say to each other: one hands over what it has because it ends, or what "
        "it has kept for this one. One outcome per message, in order; what is taken is on disk. For programs there is "
        "nothing here: a message that is posted here is not sent.",
        responses=openapi.responses(openapi.ref(HandoverAnswer), *openapi.HANDOVER),
        openapi_extra=openapi.body(openapi.ref(Handover)),
    )
    add(
        "/send",
        hot["/send"],
        summary="Send a message to another cell",
        description="Finds the cell through discovery and answers once it has acknowledged. "
        "Every error says whether the message may have been delivered. With `await_reply` it waits for the reply. "
        "To several receivers (`to_cell` a list or `*`, or `instances: all`) each copy has a result of its own: "
        "200 if all have it, 207 if some, 502 if none has. With `mode: queued` it answers 202 once the message is on "
        "disk here, and goes on by itself until it is delivered or its `ttl` is over; `GET /sent` tells.",
        responses=openapi.send_responses(),
        openapi_extra=openapi.body(openapi.ref(SendRequest)),
    )


def _add_reading(app: FastAPI, cell: Cell) -> None:
    @app.get(
        "/messages",
        tags=["messages"],
        summary="List messages of the inbox",
        description="The newest `limit`, oldest of them first; with `after`, the first ones behind that position. "
        "`total` counts all messages kept. A page ends at 16 MiB of payloads even if `limit` allows more.",
        responses=openapi.responses(openapi.ref(MessagePage), *openapi.READ),
    )
    async def messages(
        limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = 20,
        from_cell: Annotated[str | None, Query(min_length=1, max_length=MAX_ID)] = None,
        state: Annotated[str | None, Query(json_schema_extra={"enum": list(STATES)})] = None,
        after: Annotated[int | None, Query(ge=0, le=MAX_SEQ)] = None,
    ) -> Response:
        if state is not None and state not in STATES:
            raise invalid("state", f"must be one of {', '.join(STATES)}")
        page = await cell.inbox.page(limit, from_cell=from_cell, state=state, after=after)
        last = page[-1].seq if page else after
        return _ok(MessagePage(page, cell.inbox.gauges.total, cell.here.cell_id, last))

    @app.get(
        "/messages/{message_id:path}",
        tags=["messages"],
        summary="Show one message with its history",
        responses=openapi.responses(openapi.ref(MessageWithHistory), "unknown_message", *openapi.READ),
    )
    async def message(message_id: str) -> Response:
        found = await cell.inbox.find(message_id)
        if found is None:
            raise Problem("unknown_message", "message_id: no message with this id is kept here", field="message_id")
        return _ok(found)


def _add_operations(app: FastAPI, cell: Cell) -> None:
    metrics = Metrics(cell)
    plain = openapi.responses(_OBJECT)

    @app.get("/peers", tags=["operations"], summary="What this cell knows of others, with ages", responses=plain)
    async def peers() -> Response:
        return _ok(cell.peers())

    @app.get("/health", tags=["operations"], summary="State and totals", responses=plain)
    async def health() -> Response:
        return _ok(await cell.health())

    @app.get("/livez", tags=["operations"], summary="The process lives", responses=plain)
    async def livez() -> Response:
        return _ok({"status": "ok"})

    @app.get(
        "/readyz",
        tags=["operations"],
        summary="The cell takes messages",
        responses=openapi.responses(_OBJECT, "draining"),
    )
    async def readyz() -> Response:
        if not cell.ready:
            raise Problem("draining", "this instance is starting or stopping", retry_after=1)
        return _ok({"status": "ready"})

    @app.get(
        "/metrics",
        tags=["operations"],
        summary="Metrics for Prometheus",
        response_class=Response,
        responses={200: {"description": "Prometheus text format", "content": {"text/plain": {}}}},
    )
    async def show_metrics() -> Response:
        return Response(await metrics.render(), media_type="text/plain; version=0.0.4")
