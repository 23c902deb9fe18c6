"""The message: one definition for the codec, the checks and the OpenAPI schema.

``CellMessage`` is the current form, ``LegacyMessage`` the older one with ``content``; ``POST /message``
takes either. ``accept`` turns a decoded body into a checked message.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Raw

from cellmesh.protocol.decoding import check_object, decode
from cellmesh.protocol.deduplication import dedupe_key, fingerprint
from cellmesh.protocol.fields import (
    DEFAULT_TTL,
    DEFAULT_TYPE,
    ForInstance,
    MessageId,
    MessageType,
    Name,
    NotBefore,
    Priority,
    Seconds,
    Timestamp,
    TraceState,
    Ttl,
    check_timestamp,
)
from cellmesh.protocol.problems import Problem, invalid

#: Raw text of an optional field that is not there, or null.
ABSENT = (b"", b"null")


class CellMessage(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A message as it travels between cells.

    ``payload`` is kept as the JSON text it came as. The six fields from ``from_namespace`` on are set by
    cells that send; a receiver checks those that are there.
    """

    message_id: MessageId
    from_cell: Name
    to_cell: Name | None = None
    message_type: MessageType | None = None
    payload: Raw
    timestamp: Timestamp | None = None
    priority: Priority | None = None
    ttl: Ttl | None = None
    acknowledged: bool | None = None
    reply_to: MessageId | None = None
    conversation_id: MessageId | None = None
    not_before: NotBefore | None = None
    traceparent: Name | None = None
    tracestate: TraceState | None = None
    for_instance: ForInstance | None = None
    from_namespace: Name | None = None
    from_instance: Name | None = None
    to_namespace: Name | None = None
    to_instance: Name | None = None
    to_uid: Name | None = None
    ttl_remaining: Seconds | None = None


class LegacyMessage(msgspec.Struct, omit_defaults=True, kw_only=True):
    """The older form of a message: ``content`` instead of ``payload``; an id is made if there is none."""

    from_cell: Name
    content: Raw
    to_cell: Name | None = None
    message_id: MessageId | None = None
    type: MessageType | None = None
    message_type: MessageType | None = None
    priority: Priority | None = None
    reply_to: MessageId | None = None
    metadata: Raw = msgspec.field(default_factory=Raw)


class _Form(msgspec.Struct):
    """Just enough of a body to tell which form it is."""

    content: Raw = msgspec.field(default_factory=Raw)
    payload: Raw = msgspec.field(default_factory=Raw)


class Extra(msgspec.Struct, omit_defaults=True):
    """Optional fields of a message that an inbox keeps and gives back, apart from its columns."""

    reply_to: str | None = None
    conversation_id: str | None = None
    traceparent: str | None = None
    tracestate: str | None = None
    from_namespace: str | None = None
    from_instance: str | None = None
    not_before: float | None = None
    for_instance: str | None = None


class Special(msgspec.Struct, frozen=True):
    """How a message is stored that is not simply pending from now on.

    ``delay`` seconds until it may be handed out; ``consumed`` if it ends as it arrives, because somebody
    waits for it; ``moving_to`` the sibling instance that it is kept for. One that a sibling has handed over
    (``handed_by``) brings its age, how often it was delivered, and its log with it.
    """

    delay: float = 0.0
    consumed: bool = False
    moving_to: str | None = None
    handed_by: str | None = None
    age_ms: int = 0
    delivery_count: int = 0
    log: str | None = None


class Checked(msgspec.Struct):
    """A message that has passed every check and is ready to be stored."""

    message_id: str
    from_cell: str
    to_cell: str
    message_type: str
    priority: str
    ttl: float
    lifetime: float
    timestamp: str | None
    payload: bytes
    extra: bytes | None
    key: bytes
    fingerprint: bytes
    special: Special | None = None


class Identity(msgspec.Struct, frozen=True):
    """Who the receiving instance is; messages for another are misdirected."""

    cell_id: str
    namespace: str
    instance: str
    uid: str


_message_decoder = msgspec.json.Decoder(CellMessage)
_batch_decoder: msgspec.json.Decoder[list[CellMessage]] = msgspec.json.Decoder(list[CellMessage])
_items_decoder = msgspec.json.Decoder(list[Raw])
_legacy_decoder = msgspec.json.Decoder(LegacyMessage)
_form_decoder = msgspec.json.Decoder(_Form)
encode: Callable[[Any], bytes] = msgspec.json.Encoder().encode


def decode_message(body: bytes, new_id: Callable[[], str]) -> CellMessage:
    """Decode the body of ``POST /message``, in either form.

    Raises:
        Problem: the body is not JSON, or a field is missing or wrong.

    """
    try:
        return decode(_message_decoder, body)
    except Problem as problem:
        # The ordinary form never pays for the question which form it is.
        if problem.code == "invalid_field" and _is_legacy(body):
            return decode_legacy(body, new_id)
        raise


def decode_legacy(body: bytes, new_id: Callable[[], str]) -> CellMessage:
    """Decode the legacy form; ``content`` becomes the payload, with ``metadata`` beside it if there is any.

    Raises:
        Problem: the body is not JSON, or a field is missing or wrong.

    """
    legacy = decode(_legacy_decoder, body)
    content = bytes(legacy.content)
    if bytes(legacy.metadata) not in ABSENT:
        payload = b'{"content":' + content + b',"metadata":' + bytes(legacy.metadata) + b"}"
    else:
        payload = b'{"content":' + content + b"}"
    return CellMessage(
        message_id=legacy.message_id or new_id(),
        from_cell=legacy.from_cell,
        to_cell=legacy.to_cell,
        message_type=legacy.message_type or legacy.type,
        payload=Raw(payload),
        priority=legacy.priority,
        reply_to=legacy.reply_to,
    )


def _is_legacy(body: bytes) -> bool:
    try:
        form = _form_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return bool(bytes(form.content)) and not bytes(form.payload)


def decode_batch(body: bytes, new_id: Callable[[], str]) -> list[CellMessage | Problem]:
    """Decode a JSON array of messages; an item that is wrong becomes its problem, the others are unharmed.

    Raises:
        Problem: the body as a whole is not a JSON array.

    """
    try:
        messages = decode(_batch_decoder, body)
    except Problem as problem:
        if problem.code != "invalid_field":
            raise
    else:
        return [*messages]
    items: list[CellMessage | Problem] = []
    for raw in decode(_items_decoder, body):
        try:
            items.append(decode_message(bytes(raw), new_id))
        except Problem as problem:
            items.append(problem)
    return items


def decode_many(body: bytes) -> list[bytes]:
    """Take a JSON array apart; its items are not looked into.

    Raises:
        Problem: the body is not a JSON array.

    """
    return [bytes(raw) for raw in decode(_items_decoder, body)]


def check_delay(not_before: float, ttl: float | None) -> None:
    """Check that a message can be handed out before it expires.

    Raises:
        Problem: ``invalid_field`` naming ``not_before``.

    """
    ttl = DEFAULT_TTL if ttl is None else ttl
    if ttl and not_before >= ttl:
        raise invalid("not_before", f"{not_before} must be below ttl ({ttl}), or it expires before")


def check_address(message: CellMessage, here: Identity) -> None:
    """Check that a message is for this instance; a pod's address may have been reused.

    Raises:
        Problem: ``misdirected`` (421), naming the field that says so.

    """
    if message.to_cell is not None and message.to_cell != here.cell_id:
        raise _misdirected("to_cell", message.to_cell, here)
    if message.to_uid is not None and message.to_uid != here.uid:
        raise _misdirected("to_uid", message.to_uid, here)
    if message.to_instance is not None and message.to_instance != here.instance:
        raise _misdirected("to_instance", message.to_instance, here)
    if message.to_namespace is not None and message.to_namespace != here.namespace:
        raise _misdirected("to_namespace", message.to_namespace, here)


def _misdirected(field: str, value: str, here: Identity) -> Problem:
    return Problem(
        "misdirected",
        f"{field}: {value[:80]!r} is not here; this is instance {here.instance} of cell {here.cell_id} "
        f"in {here.namespace}; look the receiver up again",
        field=field,
    )


def accept(message: CellMessage, here: Identity) -> Checked:
    """Check a decoded message and make it ready to be stored by the instance ``here``.

    Raises:
        Problem: ``misdirected`` (421) or ``invalid_field`` (422).

    """
    check_address(message, here)
    payload = bytes(message.payload)
    value = check_object("payload", payload)
    if message.timestamp is not None:
        check_timestamp("timestamp", message.timestamp)
    ttl = DEFAULT_TTL if message.ttl is None else message.ttl
    lifetime = ttl if message.ttl_remaining is None or not ttl else min(ttl, message.ttl_remaining)
    message_type = message.message_type or DEFAULT_TYPE
    extra = None
    if (
        message.from_namespace is not None
        or message.from_instance is not None
        or message.reply_to is not None
        or message.conversation_id is not None
        or message.traceparent is not None
        or message.tracestate is not None
        or message.not_before is not None
        or message.for_instance is not None
    ):
        extra = encode(
            Extra(
                message.reply_to,
                message.conversation_id,
                message.traceparent,
                message.tracestate,
                message.from_namespace,
                message.from_instance,
                message.not_before,
                message.for_instance,
            )
        )
    special = None
    if message.not_before:
        check_delay(message.not_before, ttl)
        special = Special(delay=message.not_before)
    if message.for_instance is not None and message.for_instance != here.instance:
        special = Special(delay=message.not_before or 0.0, moving_to=message.for_instance)
    return Checked(
        message.message_id,
        message.from_cell,
        here.cell_id,
        message_type,
        message.priority.value if message.priority is not None else "normal",
        ttl,
        lifetime,
        message.timestamp,
        payload,
        extra,
        dedupe_key(message.from_namespace or "", message.from_cell, message.message_id),
        fingerprint(here.cell_id, message_type, value),
        special,
    )
