"""Answers of a cell: receipts, the outcome of a send, messages as an inbox shows them."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

import msgspec
from msgspec import Raw

from cellmesh.protocol.fields import Priority
from cellmesh.protocol.problems import ErrorBody

Durability = Literal["volume", "ephemeral"]
#: States of a message in an inbox, in the order of their stored numbers.
STATES = ("pending", "leased", "consumed", "dead")
State = Literal["pending", "leased", "consumed", "dead"]


class Receipt(msgspec.Struct, omit_defaults=True):
    """The answer to a message that is in the inbox, on disk."""

    status: str
    message_id: str
    acknowledged: bool
    timestamp: str
    cell_id: str
    instance: str
    durability: Durability
    duplicate: bool = False


class LegacyReceipt(msgspec.Struct):
    """The answer of ``POST /message/legacy``."""

    status: str
    message_id: str
    timestamp: str
    cell_id: str


class BatchItem(msgspec.Struct):
    """The outcome of one message of a batch: what ``POST /message`` would have answered."""

    status: int
    body: Raw


class SendErrorBody(ErrorBody, omit_defaults=True, kw_only=True):
    """The JSON body of every error of ``POST /send``: enough to send again safely, with the same ``message_id``.

    ``origin`` says who found the fault; ``maybe_delivered`` whether the receiver may have the message, and
    ``delivered`` that it has, where only the reply is missing.
    """

    message_id: str | None
    to_cell: str | None
    origin: Literal["self", "target"]
    maybe_delivered: bool
    delivered: bool | None = None
    target_url: str | None = None
    available_cells: list[str] | None = None
    response: Any = None


class StoredMessage(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A message as ``GET /messages`` shows it."""

    message_id: str
    from_cell: str
    to_cell: str
    message_type: str
    payload: Raw
    timestamp: str
    priority: str
    ttl: int | float
    acknowledged: Literal[True]
    seq: int
    received_at: str
    state: State
    reason: str | None = None
    reply_to: str | None = None
    conversation_id: str | None = None
    traceparent: str | None = None
    tracestate: str | None = None
    from_namespace: str | None = None
    from_instance: str | None = None
    not_before: float | None = None
    for_instance: str | None = None
    delivery_count: int = 0
    available_at: str | None = None
    leased_until: str | None = None


class Delivered(msgspec.Struct, omit_defaults=True):
    """The answer of ``POST /send`` once the receiver has acknowledged; with the reply, if one was awaited."""

    status: str
    message_id: str
    to_cell: str
    target_url: str
    response: Raw
    timestamp: str
    reply: StoredMessage | None = None


class BroadcastStatus(StrEnum):
    """How many of several receivers have a message: all, some, none."""

    DELIVERED = "delivered"
    PARTIAL = "partial"
    FAILED = "failed"


class BroadcastResult(msgspec.Struct, omit_defaults=True):
    """What became of one copy of a message: what ``POST /send`` would have answered for it alone."""

    to_cell: str
    status: int
    body: Raw
    instance: str | None = None


class BroadcastAnswer(msgspec.Struct):
    """The answer of ``POST /send`` for several receivers: 200 if all have it, 207 if some, 502 if none has."""

    status: BroadcastStatus
    message_id: str
    results: list[BroadcastResult]
    count: int
    delivered: int


class Transition(msgspec.Struct, omit_defaults=True):
    """One step in the life of a message."""

    state: State
    at: str
    reason: str | None = None


class MessageWithHistory(StoredMessage, omit_defaults=True, kw_only=True):
    """A message as ``GET /messages/{message_id}`` shows it."""

    history: list[Transition]


class MessagePage(msgspec.Struct):
    """The answer of ``GET /messages``; ``next`` is the position to ask ``after``, null in an empty inbox."""

    messages: list[StoredMessage]
    total: int
    cell_id: str
    next: int | None


def components(types: list[Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the JSON schemas of types and their named components, for an OpenAPI document."""
    schemas, named = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    return list(schemas), dict(named)


__all__ = ["STATES", "Priority", "Receipt", "State"]
