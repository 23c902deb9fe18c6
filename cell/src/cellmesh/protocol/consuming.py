"""What consumers send and get: leases, and how leased messages and dead letters are settled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, UnsetType

from cellmesh.protocol.decoding import decode
from cellmesh.protocol.fields import MAX_SECONDS, MessageId, MessageType
from cellmesh.protocol.problems import Problem, invalid
from cellmesh.protocol.receipts import State, StoredMessage

#: Messages in one lease, or settled by one request, at most.
MAX_ITEMS = 1000
MAX_LEASE_SECONDS = 43_200
MAX_WAIT_SECONDS = 60
DEFAULT_LEASE_SECONDS = 30

_LEASE = msgspec.Meta(gt=0, le=MAX_LEASE_SECONDS, description="How long the messages are the consumer's, seconds.")
LeaseSeconds = Annotated[int, _LEASE] | Annotated[float, _LEASE]
_WAIT = msgspec.Meta(ge=0, le=MAX_WAIT_SECONDS, description="How long to wait for a message if there is none, seconds.")
WaitSeconds = Annotated[int, _WAIT] | Annotated[float, _WAIT]
_DELAY = msgspec.Meta(ge=0, le=MAX_SECONDS, description="Seconds until it may be handed out again.")
Delay = Annotated[int, _DELAY] | Annotated[float, _DELAY]
# To JSON 7.0 is an integer (JSON Schema, 4.2.3); programs in languages without integers may write that.
_SEQ = msgspec.Meta(ge=1, le=2**53 - 1, description="Position of a message in this inbox.")
Seq = Annotated[int, _SEQ] | Annotated[float, _SEQ, msgspec.Meta(multiple_of=1)]
_MAX = msgspec.Meta(ge=1, le=MAX_ITEMS, description="How many messages at most.")
Count = Annotated[int, _MAX] | Annotated[float, _MAX, msgspec.Meta(multiple_of=1)]
Token = Annotated[str, msgspec.Meta(min_length=1, max_length=64, description="The token that came with the lease.")]
Reason = Annotated[str, msgspec.Meta(max_length=500, description="Why, for the history of the message.")]
Items = msgspec.Meta(min_length=1, max_length=MAX_ITEMS)


class LeaseBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of ``POST /messages/lease``."""

    max: Count = 1
    lease_seconds: LeaseSeconds = DEFAULT_LEASE_SECONDS
    wait_seconds: WaitSeconds = 0
    types: Annotated[list[MessageType], msgspec.Meta(min_length=1, max_length=100)] | None = None


class LeasedMessage(StoredMessage, omit_defaults=True, kw_only=True):
    """A message that was handed out, with the token that settles it."""

    lease_token: str
    lease_seconds: float


class LeaseAnswer(msgspec.Struct):
    """The answer of ``POST /messages/lease``: highest priority first, oldest first within one."""

    messages: list[LeasedMessage]
    count: int
    cell_id: str
    instance: str


class NamedItem(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A message, named by its position or its id."""

    seq: Seq | UnsetType = UNSET
    message_id: MessageId | UnsetType = UNSET


class AckItem(NamedItem, kw_only=True, forbid_unknown_fields=True):
    """A leased message that is done."""

    lease_token: Token


class NackItem(AckItem, kw_only=True, forbid_unknown_fields=True):
    """A leased message that was not handled.

    ``reject`` makes it a dead letter at once; ``release`` hands it back without counting it as a delivery.
    """

    delay: Delay = 0
    reason: Reason | None = None
    reject: bool = False
    release: bool = False


class ExtendItem(AckItem, kw_only=True, forbid_unknown_fields=True):
    """A leased message that takes longer: its lease ends ``lease_seconds`` from now."""

    lease_seconds: LeaseSeconds = DEFAULT_LEASE_SECONDS


class AckBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``POST /messages/ack``."""

    items: Annotated[list[AckItem], Items]


class NackBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``POST /messages/nack``."""

    items: Annotated[list[NackItem], Items]


class ExtendBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``POST /messages/extend``."""

    items: Annotated[list[ExtendItem], Items]


class SettledItem(msgspec.Struct, omit_defaults=True, kw_only=True):
    """What became of one item; ``http_status`` is what it would have been answered alone."""

    status: Literal["ok", "error"]
    http_status: int
    seq: int | None = None
    message_id: str | None = None
    state: State | None = None
    delivery_count: int | None = None
    leased_until: str | None = None
    code: str | None = None
    error: str | None = None


class SettledAnswer(msgspec.Struct):
    """The answer to a request that settles messages: one result per item, in order."""

    results: list[SettledItem]
    cell_id: str
    instance: str


class DeadBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of ``POST /dead/retry`` and ``POST /dead/purge``: some dead letters, or all, of one reason or of any."""

    items: Annotated[list[NamedItem], Items] | UnsetType = UNSET
    all: Literal[True] | UnsetType = UNSET
    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=100)] | UnsetType = UNSET


class DeadAnswer(msgspec.Struct):
    """The answer to it: how many were changed, and of each item that was named what became of it."""

    changed: int
    dead: int
    results: list[SettledItem]


_lease = msgspec.json.Decoder(LeaseBody)
_ack = msgspec.json.Decoder(AckBody)
_nack = msgspec.json.Decoder(NackBody)
_extend = msgspec.json.Decoder(ExtendBody)
_dead = msgspec.json.Decoder(DeadBody)


def decode_lease(body: bytes) -> LeaseBody:
    """Decode the body of ``POST /messages/lease``; an empty one asks for one message.

    Raises:
        Problem: the body is not JSON, or a field is wrong.

    """
    return decode(_lease, body or b"{}")


def decode_ack(body: bytes) -> list[AckItem]:
    """Decode the body of ``POST /messages/ack``.

    Raises:
        Problem: the body is not JSON, or a field is missing or wrong.

    """
    items = decode(_ack, body).items
    check_named(items)
    return items


def decode_nack(body: bytes) -> list[NackItem]:
    """Decode the body of ``POST /messages/nack``.

    Raises:
        Problem: the body is not JSON, or a field is missing or wrong.

    """
    items = decode(_nack, body).items
    check_named(items)
    return items


def decode_extend(body: bytes) -> list[ExtendItem]:
    """Decode the body of ``POST /messages/extend``.

    Raises:
        Problem: the body is not JSON, or a field is missing or wrong.

    """
    items = decode(_extend, body).items
    check_named(items)
    return items


def decode_dead(body: bytes) -> DeadBody:
    """Decode the body of ``POST /dead/retry`` or ``/dead/purge``.

    Raises:
        Problem: the body is not JSON, or a field is missing or wrong.

    """
    asked = decode(_dead, body)
    if isinstance(asked.items, UnsetType) == isinstance(asked.all, UnsetType):
        raise invalid("items", "name the dead letters in items, or send all: true; one of the two")
    if not isinstance(asked.items, UnsetType):
        if not isinstance(asked.reason, UnsetType):
            raise invalid("reason", "goes with all: true; leave it out where items are named")
        check_named(asked.items)
    return asked


def check_named(items: Sequence[NamedItem]) -> None:
    """Check that each item names a message.

    Raises:
        Problem: ``invalid_field`` naming the item.

    """
    for number, item in enumerate(items):
        if isinstance(item.seq, UnsetType) and isinstance(item.message_id, UnsetType):
            raise invalid(f"items[{number}].seq", "required and absent; send seq or message_id")


def settled_error(code: str, seq: int | None, message_id: str | None) -> SettledItem:
    """Return the result of an item that could not be settled."""
    problem = Problem(code, _TEXTS[code])
    return SettledItem(
        status="error",
        http_status=problem.http_status,
        seq=seq,
        message_id=message_id,
        code=code,
        error=problem.message,
    )


_TEXTS = {
    "lease_lost": "lease_token: this lease is over; the message may have been handed out again",
    "unknown_message": "no message of this position or id is kept here",
    "not_dead": "this message is no dead letter",
    "inbox_full": "the inbox has no room for it; try again later",
}
