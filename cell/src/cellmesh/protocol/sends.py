"""What a program asks its own cell to send: the body of ``POST /send``."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Raw

from cellmesh.protocol.decoding import check_object, decode
from cellmesh.protocol.fields import (
    MAX_ID,
    MessageId,
    MessageType,
    Name,
    NotBefore,
    Priority,
    Timestamp,
    TraceState,
    Ttl,
    check_timestamp,
)
from cellmesh.protocol.messages import ABSENT, check_delay
from cellmesh.protocol.problems import invalid

EMPTY_OBJECT = Raw(b"{}")
#: Longest ``timeout`` of a /send, seconds.
MAX_TIMEOUT = 300
DEFAULT_TIMEOUT = 10
Timeout = Annotated[int, msgspec.Meta(gt=0, le=MAX_TIMEOUT)] | Annotated[float, msgspec.Meta(gt=0, le=MAX_TIMEOUT)]

#: As ``to_cell`` of a /send: every other cell of the mesh.
EVERYONE = "*"
#: Names in ``to_cell`` at most.
MAX_RECEIVERS = 1000
Receivers = (
    Annotated[
        str,
        msgspec.Meta(
            min_length=1,
            max_length=MAX_ID,
            description="A cell's name; `*` is every other cell of the mesh that has a ready instance now.",
        ),
    ]
    | Annotated[list[Name], msgspec.Meta(min_length=1, max_length=MAX_RECEIVERS, description="Names of cells.")]
)
_AWAIT_REPLY = msgspec.Meta(
    gt=0,
    le=MAX_TIMEOUT,
    description="Seconds to wait for a message from the cell asked whose `reply_to` is this message's id; they "
    "begin when the message has been acknowledged.",
)
AwaitReply = Annotated[int, _AWAIT_REPLY] | Annotated[float, _AWAIT_REPLY]


class SendRequest(msgspec.Struct, omit_defaults=True, kw_only=True, forbid_unknown_fields=True):
    """What a program asks its cell to send.

    ``from_cell``, ``timestamp`` and ``acknowledged`` are taken from programs that post a whole CellMessage
    and have no effect: the sender is always the cell that was asked.
    """

    to_cell: Receivers
    instances: Literal["one", "all"] | None = None
    message_type: MessageType | None = None
    payload: Raw = msgspec.field(default_factory=Raw)
    priority: Priority | None = None
    ttl: Ttl | None = None
    message_id: MessageId | None = None
    timeout: Timeout | None = None
    mode: Literal["direct", "queued"] | None = None
    not_before: NotBefore | None = None
    await_reply: AwaitReply | None = None
    reply_to: MessageId | None = None
    conversation_id: MessageId | None = None
    traceparent: Name | None = None
    tracestate: TraceState | None = None
    to_instance: Name | None = None
    from_cell: str | None = None
    timestamp: Timestamp | None = None
    acknowledged: bool | None = None

    @property
    def several(self) -> bool:
        """Whether it may have more than one receiver: it is then answered with the outcome of each."""
        return type(self.to_cell) is not str or self.to_cell == EVERYONE or self.instances == "all"


_send_decoder = msgspec.json.Decoder(SendRequest)


def decode_send(body: bytes) -> SendRequest:
    """Decode and check the body of ``POST /send``.

    Raises:
        Problem: the body is not JSON, or a field is missing or wrong.

    """
    request = decode(_send_decoder, body)
    payload = bytes(request.payload)
    if payload in ABSENT:
        request.payload = EMPTY_OBJECT
    else:
        check_object("payload", payload)
    if request.timestamp is not None:
        check_timestamp("timestamp", request.timestamp)
    if request.not_before:
        check_delay(request.not_before, request.ttl)
    if request.several:
        _check_several(request)
    return request


def _check_several(request: SendRequest) -> None:
    if request.await_reply is not None:
        raise invalid("await_reply", "a message to several receivers has no one reply; ask each cell by itself")
    if request.to_instance is not None:
        raise invalid("to_instance", "a message to several receivers has no one instance; name a single cell")
    if isinstance(request.to_cell, list) and EVERYONE in request.to_cell:
        raise invalid("to_cell", f"{EVERYONE!r} stands alone, not in a list")
