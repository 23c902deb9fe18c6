"""A message as a handler gets it."""

from __future__ import annotations

import builtins
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import msgspec

from cellmesh.app.errors import Reject
from cellmesh.protocol.decoding import decode
from cellmesh.protocol.ids import derived_id
from cellmesh.protocol.problems import Problem
from cellmesh.protocol.receipts import StoredMessage

T = TypeVar("T")

#: The message that is being handled, where one is.
current: ContextVar[Message | None] = ContextVar("cellmesh_message", default=None)


@dataclass(frozen=True, kw_only=True)
class Message:
    """One message. Times are ISO 8601 in UTC, durations seconds."""

    id: str
    """The sender's id of the message. The same message handed out again has the same one."""
    from_cell: str
    """Whom it is from."""
    to_cell: str
    """Whom it is for: this cell."""
    type: str
    """Its ``message_type``."""
    payload: dict[str, Any] = field(repr=False)
    """What it says."""
    raw: bytes = field(repr=False)
    """The payload as the JSON text it came as."""
    priority: str = "normal"
    """low, normal, high or critical."""
    ttl: float = 0.0
    """How long after its receipt it may wait before it expires; 0: for ever."""
    timestamp: str = ""
    """When the sender says that it sent it."""
    received_at: str = ""
    """When it was put into the inbox."""
    seq: int = 0
    """Its position in the inbox."""
    delivery_count: int = 1
    """How often it has been handed out, this time included; more than 1: it may have been handled in part."""
    reply_to: str | None = None
    """Id of the message that it answers. What a handler returns for such a message is not sent."""
    conversation_id: str | None = None
    """Whatever the sender groups messages by."""
    traceparent: str | None = None
    """W3C trace context; messages sent while this one is handled carry it on."""
    tracestate: str | None = None
    """W3C trace context."""
    from_namespace: str | None = None
    """The mesh it is from, where the sender said so."""
    from_instance: str | None = None
    """The instance it is from, where the sender said so."""

    def decode(self, kind: builtins.type[T]) -> T:
        """Return the payload as a dataclass, a ``TypedDict``, a ``msgspec.Struct`` or a pydantic model.

        Raises:
            Reject: it does not fit; names the field. Left alone, it makes the message a dead letter.

        """
        validate = getattr(kind, "model_validate_json", None)
        if validate is not None:
            return cast("T", _validated(validate, self.raw))
        try:
            return decode(msgspec.json.Decoder(kind), self.raw)
        except Problem as problem:
            raise Reject(_fault(problem)) from None

    def derived_id(self, *parts: str) -> str:
        """Return an id for a message that is sent because of this one: the same each time it is handled.

        With it the receiver recognises the message when a handler that was cut short sends it again.

        Args:
            parts: what tells several messages apart, for example what each is about.

        """
        return derived_id(self.id, self.from_namespace or "", self.from_cell, self.to_cell, *parts)


def of_stored(stored: StoredMessage) -> Message:
    """Return a message of the inbox as a handler gets it."""
    raw = bytes(stored.payload)
    return Message(
        id=stored.message_id,
        from_cell=stored.from_cell,
        to_cell=stored.to_cell,
        type=stored.message_type,
        payload=msgspec.json.decode(raw),
        raw=raw,
        priority=stored.priority,
        ttl=stored.ttl,
        timestamp=stored.timestamp,
        received_at=stored.received_at,
        seq=stored.seq,
        delivery_count=stored.delivery_count,
        reply_to=stored.reply_to,
        conversation_id=stored.conversation_id,
        traceparent=stored.traceparent,
        tracestate=stored.tracestate,
        from_namespace=stored.from_namespace,
        from_instance=stored.from_instance,
    )


def _fault(problem: Problem) -> str:
    field, _, fault = problem.message.partition(": ")
    if problem.field is None:
        return f"payload: {problem.message}"
    if "is none of the values" in fault:
        # That it quotes the value is right for whoever sent it, and not for a log.
        fault = "none of the values allowed here"
    return f"payload: {fault}" if field == "body" else f"payload.{field}: {fault}"


def _validated(validate: Any, raw: bytes) -> Any:
    try:
        return validate(raw)
    except ValueError as error:
        errors = getattr(error, "errors", None)
        if errors is None:
            raise
        first = errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, ("payload", *first["loc"])))
        # The texts of validators that people write may quote the payload.
        own = first["type"] in {"value_error", "assertion_error"}
        raise Reject(f"{where}: {'not valid' if own else str(first['msg']).lower()}") from None
