"""``POST /send/batch``: many messages at once, as an array or as a stream of lines."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request, Response
from msgspec import Raw
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from cellmesh.api import exchange, openapi
from cellmesh.protocol.guard import check_json, media_type
from cellmesh.protocol.messages import decode_many, encode
from cellmesh.protocol.problems import Problem, invalid
from cellmesh.protocol.receipts import BatchItem
from cellmesh.protocol.sends import SendRequest
from cellmesh.service.bulk import Bulk, pieces
from cellmesh.service.cell import Cell
from cellmesh.service.letters import not_begun

#: Messages in an array at most; a stream has no end.
MAX_MESSAGES = 1000
LINES = "application/x-ndjson"


def add_bulk(app: FastAPI, cell: Cell) -> None:
    """Add the endpoint to an app."""
    bulk = Bulk(cell.sender, cell.outbox, cell.settings.max_body)
    limit = max(cell.settings.max_batch_bytes, cell.settings.max_body + 2)

    @app.post(
        "/send/batch",
        tags=["messages"],
        summary="Send many messages",
        description="A JSON array (at most 1,000), or with `Content-Type: application/x-ndjson` one message a line, "
        "as many as there are. Each is answered as `POST /send` would have answered it, in order: in an array, or in "
        "lines as the messages are done. All queued messages of an array share one commit, as do those lines that come "
        "in together.",
        responses=_responses(),
        openapi_extra=openapi.body(
            {"type": "array", "items": openapi.ref(SendRequest), "minItems": 1, "maxItems": MAX_MESSAGES}
        ),
    )
    async def send_batch(request: Request) -> Response:
        content_type = request.headers.get("content-type")
        if media_type(content_type) == LINES:
            return _Stream(_lines(cell, bulk, request))
        problem = check_json(content_type)
        if problem is not None:
            raise Problem(problem.code, f"{problem.message}, or {LINES} for a stream", field=problem.field)
        cell.in_flight += 1
        try:
            bodies = decode_many(await _body(request, limit))
            if not 1 <= len(bodies) <= MAX_MESSAGES:
                raise invalid("body", f"{len(bodies)} messages; send 1 to {MAX_MESSAGES}, or a stream of lines")
            return Response(encode(await bulk.send(bodies)), media_type="application/json")
        finally:
            cell.in_flight -= 1


class _Stream(Response):
    """An answer that is given while the request is still coming in.

    Starlette's own would listen for the client's going meanwhile, and take pieces of the request for it.
    """

    def __init__(self, lines: AsyncIterator[bytes]) -> None:
        super().__init__(media_type=LINES)
        del self.headers["content-length"]
        self._lines = lines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's
        """Write the answer (ASGI)."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for lines in self._lines:
            await send({"type": "http.response.body", "body": lines, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def _lines(cell: Cell, bulk: Bulk, request: Request) -> AsyncIterator[bytes]:
    cell.in_flight += 1
    try:
        async for lines in bulk.lines(pieces(request.stream(), exchange.BODY_TIMEOUT)):
            yield lines
    except TimeoutError:
        late = not_begun(exchange.late_body())
        yield encode(BatchItem(late.status, Raw(late.body))) + b"\n"
    except ClientDisconnect:
        return  # what has come in is sent; nobody hears of it
    finally:
        cell.in_flight -= 1


async def _body(request: Request, limit: int) -> bytes:
    parts, size = [], 0
    try:
        async for part in pieces(request.stream(), exchange.BODY_TIMEOUT):
            size += len(part)
            if size > limit:
                raise Problem("body_too_large", f"body: longer than {limit} bytes; send less at once", field="body")
            parts.append(part)
    except TimeoutError:
        raise exchange.late_body() from None
    return b"".join(parts)


def _responses() -> dict[int | str, dict[str, Any]]:
    responses = openapi.responses({"type": "array", "items": openapi.ref(BatchItem)}, *openapi.WRITE)
    responses[200]["content"][LINES] = {"schema": {"type": "string"}}
    return responses
