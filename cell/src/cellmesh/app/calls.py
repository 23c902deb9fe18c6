"""What a cell's code asks its cell to send, as the requests of ``POST /send``, and their answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

from cellmesh.app.errors import SendError
from cellmesh.app.message import Message, current
from cellmesh.protocol.messages import encode
from cellmesh.service.reply import Reply


@dataclass(frozen=True, kw_only=True)
class Sent:
    """A message that the receiver has on disk or, if ``queued``, that the outbox has."""

    message_id: str
    to_cell: str
    queued: bool
    instance: str | None = None
    """The instance that has it."""
    target_url: str | None = None
    """Where it was posted to."""
    duplicate: bool = False
    """Whether it was there already."""


@dataclass(frozen=True, kw_only=True)
class Receiver:
    """What became of the copy of a message for one receiver; ``error`` is None where it was taken."""

    to_cell: str
    instance: str | None = None
    error: SendError | None = None


@dataclass(frozen=True, kw_only=True)
class Broadcast:
    """What became of a message to several cells."""

    message_id: str
    results: tuple[Receiver, ...] = field(default=())
    queued: bool = False

    @property
    def failed(self) -> tuple[Receiver, ...]:
        """The receivers that have not got it, as far as is known."""
        return tuple(result for result in self.results if result.error is not None)


class _Receipt(msgspec.Struct):
    instance: str | None = None
    duplicate: bool = False


class _Body(msgspec.Struct):
    """Whatever ``POST /send`` answers."""

    status: str = ""
    message_id: str | None = None
    to_cell: Any = None
    target_url: str | None = None
    instance: str | None = None
    duplicate: bool = False
    code: str = ""
    error: str = ""
    maybe_delivered: bool = False
    delivered: bool | int = False
    response: Raw | UnsetType = UNSET
    reply: Raw | UnsetType = UNSET
    results: list[_Result] | UnsetType = UNSET


class _Result(msgspec.Struct):
    """One receiver of a broadcast."""

    to_cell: str
    status: int = 0
    instance: str | None = None
    to_instance: str | None = None
    body: Raw | UnsetType = UNSET


class _Replied(msgspec.Struct):
    """A message that answers."""

    message_id: str
    from_cell: str
    payload: Raw
    to_cell: str = ""
    message_type: str = ""
    priority: str = "normal"
    ttl: float = 0.0
    timestamp: str = ""
    received_at: str = ""
    seq: int = 0
    reply_to: str | None = None
    conversation_id: str | None = None
    traceparent: str | None = None
    tracestate: str | None = None
    from_namespace: str | None = None
    from_instance: str | None = None


_decode = msgspec.json.Decoder(_Body).decode
_receipt = msgspec.json.Decoder(_Receipt).decode
_replied = msgspec.json.Decoder(_Replied).decode


def request(to: str | Sequence[str], message_type: str, payload: Any, options: dict[str, Any]) -> bytes:
    """Return the body of a ``POST /send``; options that are None are left out.

    Raises:
        TypeError: the payload is not a JSON object.

    """
    fields: dict[str, Any] = {"to_cell": to if isinstance(to, str) else list(to), "message_type": message_type}
    if payload is not None:
        fields["payload"] = Raw(object_of(payload, "payload"))
    return encode(fields | {name: value for name, value in options.items() if value is not None})


def trace() -> dict[str, Any]:
    """Return the trace context of the message that is being handled, if any: what is sent now belongs to it."""
    message = current.get()
    return {} if message is None else {"traceparent": message.traceparent, "tracestate": message.tracestate}


def object_of(value: Any, what: str) -> bytes:
    """Return a dict, dataclass, ``msgspec.Struct`` or pydantic model as the JSON object it is.

    Raises:
        TypeError: it is none of these; says what it is.

    """
    dump = getattr(value, "model_dump_json", None)
    raw = str(dump()).encode() if dump is not None else encode(value)
    if raw[:1] != b"{":
        raise TypeError(f"{what} must be a JSON object, for example a dict; got {type(value).__name__}")
    return raw


def sent(reply: Reply) -> Sent:
    """Read the answer to one message.

    Raises:
        SendError: it was not delivered, or not taken.

    """
    body = _read(reply)
    receipt = _receipt(body.response) if not isinstance(body.response, UnsetType) else _Receipt()
    return Sent(
        message_id=body.message_id or "",
        to_cell=str(body.to_cell),
        queued=body.status == "queued",
        instance=receipt.instance,
        target_url=body.target_url,
        duplicate=body.duplicate or receipt.duplicate,
    )


def answered(reply: Reply) -> Message:
    """Read the answer to a message whose reply was waited for.

    Raises:
        SendError: it was not delivered, or no reply came in time.

    """
    body = _read(reply)
    if isinstance(body.reply, UnsetType):
        raise SendError("the answer has no reply", code="bad_answer", status=502, message_id=body.message_id)
    said = _replied(body.reply)
    raw = bytes(said.payload)
    fields = msgspec.structs.asdict(said) | {"payload": msgspec.json.decode(raw), "raw": raw}
    return Message(id=fields.pop("message_id"), type=fields.pop("message_type"), **fields)


def broadcast(reply: Reply) -> Broadcast:
    """Read the answer to a message to several cells.

    Raises:
        SendError: there was nobody to send to, or the request was wrong.

    """
    body = _decode(reply.body)
    if isinstance(body.results, UnsetType):
        _read(reply)
        return Broadcast(message_id=body.message_id or "", queued=True)
    results = tuple(_received(result, body.message_id) for result in body.results)
    return Broadcast(message_id=body.message_id or "", results=results, queued=body.status == "queued")


def _received(result: _Result, message_id: str | None) -> Receiver:
    body = _decode(result.body) if not isinstance(result.body, UnsetType) else _Body()
    error = None if result.status < 300 else _error(result.status, body, message_id)
    return Receiver(to_cell=result.to_cell, instance=result.instance or result.to_instance, error=error)


def _read(reply: Reply) -> _Body:
    body = _decode(reply.body)
    if reply.status >= 300:
        after = next((value for name, value in reply.headers if name == b"retry-after"), None)
        raise _error(reply.status, body, body.message_id, float(after) if after is not None else None)
    return body


def _error(status: int, body: _Body, message_id: str | None, retry_after: float | None = None) -> SendError:
    return SendError(
        body.error or f"answered {status}",
        code=body.code,
        status=status,
        message_id=message_id,
        to_cell=body.to_cell if isinstance(body.to_cell, str) else None,
        maybe_delivered=body.maybe_delivered,
        delivered=bool(body.delivered),
        retry_after=retry_after,
    )
