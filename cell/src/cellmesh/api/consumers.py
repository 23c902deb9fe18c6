"""Endpoints of consumers: leases and dead letters."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response

from cellmesh.api import openapi
from cellmesh.protocol.consuming import (
    AckBody,
    DeadAnswer,
    DeadBody,
    ExtendBody,
    LeaseAnswer,
    LeaseBody,
    NackBody,
    SettledAnswer,
)
from cellmesh.protocol.fields import MAX_ID
from cellmesh.protocol.messages import encode
from cellmesh.protocol.receipts import MessagePage
from cellmesh.service.cell import Cell
from cellmesh.service.reply import Answer, Endpoint, Reply, later, refuse

#: Makes a route of an endpoint that takes a JSON body.
Route = Callable[[Endpoint], Callable[[Request], Awaitable[Response]]]
#: Longest body of a request that names messages, bytes.
MAX_BODY = 1024 * 1024
MAX_SEQ = 2**63 - 1


_DESCRIPTIONS = {
    "/messages/lease": "Highest priority first, oldest first within one: messages of a lower priority may wait until "
    "their ttl is over. The lease is on disk before the answer. When it runs out, the message is handed out again; "
    "after `maxDeliveries` it is a dead letter. With `wait_seconds` the answer waits for a message.",
    "/messages/ack": "Saying it again is no error. `lease_lost` if the lease is over.",
    "/messages/nack": "They are handed out again after `delay` seconds; `reject` makes a dead letter at once; "
    "`release` does not count as a delivery.",
    "/messages/extend": "The lease ends `lease_seconds` from now.",
}


def consumer_endpoints(cell: Cell) -> dict[str, Endpoint]:
    """Return the endpoints of the hot path that consumers use, by their paths."""
    consumers = cell.consumers
    return {
        "/messages/lease": Endpoint(consumers.lease, MAX_BODY, refuse),
        "/messages/ack": Endpoint(consumers.ack, MAX_BODY, refuse),
        "/messages/nack": Endpoint(consumers.nack, MAX_BODY, refuse),
        "/messages/extend": Endpoint(consumers.extend, MAX_BODY, refuse),
    }


def add_consumers(app: FastAPI, cell: Cell, route: Route) -> None:
    """Add the endpoints of leases and dead letters.

    Args:
        app: where to.
        cell: whose.
        route: makes a route of an endpoint.

    """
    hot = consumer_endpoints(cell)

    for path, body, answer, summary in (
        ("/messages/lease", LeaseBody, LeaseAnswer, "Take messages to work on"),
        ("/messages/ack", AckBody, SettledAnswer, "Say that messages are done"),
        ("/messages/nack", NackBody, SettledAnswer, "Give messages back"),
        ("/messages/extend", ExtendBody, SettledAnswer, "Keep messages longer"),
    ):
        app.add_api_route(
            path,
            route(hot[path]),
            methods=["POST"],
            tags=["consumers"],
            summary=summary,
            description=_DESCRIPTIONS[path],
            responses=openapi.responses(openapi.ref(answer), *openapi.WRITE, "draining", "disk_full"),
            openapi_extra=openapi.body(openapi.ref(body)),
        )
    _add_dead(app, cell, route)


def _add_dead(app: FastAPI, cell: Cell, route: Route) -> None:
    @app.get(
        "/dead",
        tags=["consumers"],
        summary="List dead letters",
        description="As `GET /messages?state=dead`, and of one `reason`: `expired`, `max_deliveries` or `rejected`.",
        responses=openapi.responses(openapi.ref(MessagePage), *openapi.READ),
    )
    async def dead(
        limit: Annotated[int, Query(ge=1, le=1000)] = 20,
        reason: Annotated[str | None, Query(min_length=1, max_length=100)] = None,
        from_cell: Annotated[str | None, Query(min_length=1, max_length=MAX_ID)] = None,
        after: Annotated[int | None, Query(ge=0, le=MAX_SEQ)] = None,
    ) -> Response:
        page = await cell.inbox.page(limit, from_cell=from_cell, state="dead", reason=reason, after=after)
        last = page[-1].seq if page else after
        body = encode(MessagePage(page, cell.inbox.gauges.dead, cell.here.cell_id, last))
        return Response(body, media_type="application/json")

    def change(*, purge: bool) -> Endpoint:
        return Endpoint(lambda body, answer: _keep(_dead(cell, body, purge=purge), answer), MAX_BODY, refuse)

    for path, purge, summary, description in (
        (
            "/dead/retry",
            False,
            "Make dead letters pending again",
            "Delivered anew, with their whole ttl before them. Those that the inbox has no room for stay dead.",
        ),
        ("/dead/purge", True, "Delete dead letters", "A repeat of such a message is still recognised."),
    ):
        app.add_api_route(
            path,
            route(change(purge=purge)),
            methods=["POST"],
            tags=["consumers"],
            summary=summary,
            description=description,
            responses=openapi.responses(openapi.ref(DeadAnswer), *openapi.WRITE, "disk_full"),
            openapi_extra=openapi.body(openapi.ref(DeadBody)),
        )


_running: set[asyncio.Task[Reply]] = set()


def _keep(work: Coroutine[Any, Any, Reply], answer: Answer) -> None:
    task = later(work, answer, "a change of dead letters")
    _running.add(task)
    task.add_done_callback(_running.discard)


async def _dead(cell: Cell, body: bytes, *, purge: bool) -> Reply:
    return Reply(200, encode(await cell.consumers.dead(body, purge=purge)))
