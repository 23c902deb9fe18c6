"""The hot path: POST /message, /message/batch and /send, answered before FastAPI sees them.

FastAPI's routing and request objects cost more than storing the message. The routes in ``app`` answer
the same three endpoints through the same ``exchange.answer``; they document them, and tests compare both.
"""

from __future__ import annotations

from cellmesh.api.exchange import Disconnected, Guard, Handler, Receive, Scope, Send, answer, write
from cellmesh.service.cell import Cell


def handlers(cell: Cell) -> dict[str, tuple[Handler, int]]:
    """Return the endpoints of the hot path: path to handler and longest body."""
    settings = cell.settings
    return {
        "/message": (cell.receiver.message, settings.max_body),
        "/message/batch": (cell.receiver.batch, max(settings.max_batch_bytes, settings.max_body + 2)),
        "/send": (cell.sender.send, settings.max_body),
    }


class HotPath:
    """ASGI app: answers the hot endpoints and hands everything else on.

    Args:
        app: the app behind.
        cell: the cell.
        guard: the checks on headers.

    """

    def __init__(self, app: object, cell: Cell, guard: Guard) -> None:
        self._app = app
        self._cell = cell
        self._guard = guard
        self._handlers = handlers(cell)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        if scope["type"] == "http" and scope["method"] == "POST":
            found = self._handlers.get(scope["path"])
            if found is not None:
                self._cell.in_flight += 1
                try:
                    await write(await answer(self._guard, found[1], found[0], scope, receive), send)
                except Disconnected:
                    pass
                finally:
                    self._cell.in_flight -= 1
                return
        await self._app(scope, receive, send)  # type: ignore[operator] # an ASGI app
