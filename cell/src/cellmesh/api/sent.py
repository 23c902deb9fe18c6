"""Endpoints of the outbox: what became of queued messages."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI, Query, Response

from cellmesh.api import openapi
from cellmesh.protocol.messages import encode
from cellmesh.protocol.problems import invalid
from cellmesh.protocol.queueing import SENT_STATES, SentCopies, SentMessage, SentPage
from cellmesh.service.cell import Cell

MAX_LIMIT = 1000
MAX_SEQ = 2**63 - 1
_ONE = {"anyOf": [openapi.ref(SentMessage), openapi.ref(SentCopies)]}


def add_sent(app: FastAPI, cell: Cell) -> None:
    """Add the endpoints of the outbox."""
    queueing = cell.queueing

    @app.get(
        "/sent",
        tags=["outbox"],
        summary="List queued messages and what became of them",
        description="The newest `limit`, oldest of them first; with `after`, the first ones behind that position. "
        "`total` counts all that are kept, in that `state` if one is asked for.",
        responses=openapi.responses(openapi.ref(SentPage), *openapi.READ),
    )
    async def sent(
        limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = 20,
        state: Annotated[str | None, Query(json_schema_extra={"enum": list(SENT_STATES)})] = None,
        after: Annotated[int | None, Query(ge=0, le=MAX_SEQ)] = None,
    ) -> Response:
        if state is not None and state not in SENT_STATES:
            raise invalid("state", f"must be one of {', '.join(SENT_STATES)}")
        page = await queueing.page(limit, state=state, after=after)
        totals = cell.outbox.totals
        total = totals[state] if state is not None else sum(totals.values())
        return _ok(SentPage(page, total, cell.here.cell_id, page[-1].seq if page else after))

    # Before the one that shows a message: an id may hold slashes.
    @app.post(
        "/sent/{message_id:path}/retry",
        tags=["outbox"],
        summary="Queue a message again that was not delivered",
        description="Under the same id, behind all others, with its whole ttl before it. "
        "One that may have been stored goes to the same instance, which would recognise it.",
        responses=openapi.responses(
            _ONE, "unknown_message", "not_ended", "outbox_full", "disk_full", "internal", *openapi.READ
        ),
    )
    async def retry(message_id: str) -> Response:
        return _ok(await queueing.retry(message_id))

    @app.get(
        "/sent/{message_id:path}",
        tags=["outbox"],
        summary="Show what became of a queued message",
        description="With `results` by receiver if it was queued to several.",
        responses=openapi.responses(_ONE, "unknown_message", *openapi.READ),
    )
    async def show(message_id: str) -> Response:
        return _ok(await queueing.find(message_id))

    @app.delete(
        "/sent/{message_id:path}",
        tags=["outbox"],
        summary="Take a queued message back",
        description="As long as no receiver can have it.",
        responses=openapi.responses(_ONE, "unknown_message", "not_queued", "disk_full", "internal", *openapi.READ),
    )
    async def cancel(message_id: str) -> Response:
        return _ok(await queueing.cancel(message_id))


def _ok(value: Any) -> Response:
    return Response(encode(value), media_type="application/json")
