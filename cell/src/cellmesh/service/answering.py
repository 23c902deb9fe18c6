"""What a handler returns, sent to whoever asked."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from msgspec import Raw

from cellmesh.protocol.ids import derived_id
from cellmesh.protocol.messages import Identity, encode
from cellmesh.protocol.receipts import StoredMessage
from cellmesh.service.outcomes import Backoff
from cellmesh.service.reply import Reply

log = logging.getLogger(__name__)

#: Type of the messages that answer others.
REPLY_TYPE = "reply"
#: Between two tries to have a reply taken for sending.
BACKOFF = Backoff(first=0.2, most=5.0)


class Answers:
    """Sends the answers of handlers.

    Args:
        here: who this instance is.
        send: does what ``POST /send`` does with a body.

    """

    def __init__(self, here: Identity, send: Callable[[bytes], Awaitable[Reply]]) -> None:
        self._here = here
        self._send = send

    async def answer(self, message: StoredMessage, payload: bytes) -> str:
        """Queue the answer to a message; return once that is durable, with the code of a refusal or nothing.

        A message that is handled again is answered with the same id, and the first answer stands. What may
        pass, such as a full outbox, is waited for.
        """
        if message.from_namespace not in {None, self._here.namespace}:
            # In this mesh its name may be somebody else's.
            log.info("a message from mesh %r is not answered: replies stay in the mesh", message.from_namespace)
            return ""
        body = encode(self._request(message, payload))
        tries = 0
        while True:
            reply = await self._send(body)
            if reply.status < 300:
                return ""
            code = _code(reply)
            if code == "id_conflict":
                return ""
            if code == "unknown_cell":
                # Whoever sent it is no cell; there is nobody to answer, and the work is done.
                log.info("a message from %r is not answered: no cell can have that name", message.from_cell[:80])
                return ""
            if reply.status < 500 and reply.status != 429:
                return code
            tries += 1
            after = BACKOFF.after(tries)
            log.warning("the answer to a message from %s is not taken yet: %s", message.from_cell[:80], code)
            await asyncio.sleep(after)

    def _request(self, message: StoredMessage, payload: bytes) -> dict[str, Any]:
        here = self._here
        sender = (message.from_namespace or "", message.from_cell)
        request = {
            "to_cell": message.from_cell,
            "mode": "queued",
            "message_type": REPLY_TYPE,
            "payload": Raw(payload),
            "message_id": derived_id(message.message_id, *sender, here.namespace, here.cell_id, REPLY_TYPE),
            "reply_to": message.message_id,
            "conversation_id": message.conversation_id,
            "priority": message.priority,
            "ttl": message.ttl,
            "traceparent": message.traceparent,
            "tracestate": message.tracestate,
        }
        return {name: value for name, value in request.items() if value is not None}


def _code(reply: Reply) -> str:
    try:
        return str(msgspec.json.decode(reply.body)["code"])
    except (msgspec.MsgspecError, KeyError, TypeError):
        return f"status {reply.status}"
