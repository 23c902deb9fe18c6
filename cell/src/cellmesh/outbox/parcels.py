"""A queued message: as it lies in the file, and as it waits in memory for its turn."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import Raw

from cellmesh.inbox.store import PRIORITIES
from cellmesh.protocol.fields import DEFAULT_TTL, DEFAULT_TYPE, Priority
from cellmesh.protocol.messages import CellMessage, Extra, Identity, encode

QUEUED, DELIVERED, EXPIRED, UNCONFIRMED, DEAD, CANCELLED = range(6)
#: Bits of ``sent.flags``: the caller has given the id; it is one of several copies.
GIVEN, COPY = 1, 2

PRIORITY_NAMES = {number: Priority(name) for name, number in PRIORITIES.items()}
decode_extra = msgspec.json.Decoder(Extra).decode
#: Bytes that a message takes besides its payload, about.
OVERHEAD = 512


class Parcel:
    """A queued message.

    Args:
        message: as it will travel; where to is filled in at each attempt.
        wanted: the only instance it may go to; empty: any.
        queued_at: when it was queued, ms of the inbox's clock.
        given: whether the caller has given its id.
        copy: whether it is one of several copies of one message.

    """

    __slots__ = (
        "attempts", "copy", "data", "expires_at", "failures", "fingerprint", "free", "given", "home", "instance",
        "kept_until", "maybe", "message", "not_before", "payload", "pinned_at", "placed", "position", "priority",
        "queued_at", "rests_until", "size", "tried", "uid", "wanted",
    )  # fmt: skip

    def __init__(
        self, message: CellMessage, wanted: str, queued_at: int, *, given: bool = False, copy: bool = False
    ) -> None:
        self.message = message
        self.wanted = wanted
        self.queued_at = queued_at
        self.given = given
        self.copy = copy
        self.position = 0
        self.priority = PRIORITIES[message.priority or "normal"]
        ttl = DEFAULT_TTL if message.ttl is None else message.ttl
        self.expires_at: int | None = queued_at + int(ttl * 1000) if ttl else None
        self.not_before = message.not_before
        #: The instance a reply is for; it goes to another only while that one is not expected.
        self.home = message.for_instance
        #: What chooses the instance, so that what belongs together, and repeats, come to the same.
        self.placed = message.conversation_id or (message.message_id if given else None)
        #: A copy: the raw one keeps the whole request in memory.
        self.payload = bytes(message.payload)
        message.payload = Raw(self.payload)
        self.size = len(self.payload) + OVERHEAD
        self.fingerprint = b""
        #: The instance that may have it, and the life of it where that counts; no other may be tried.
        self.instance: str | None = None
        self.uid: str | None = None
        self.pinned_at: int | None = None
        #: Whether an attempt at ``instance`` has ended without anything being known.
        self.maybe = False
        self.attempts = 0
        # From here on known in memory only: see service/lanes.
        self.data = b""
        self.tried: str | None = None
        self.kept_until = 0
        self.rests_until = 0
        self.free = False
        self.failures = 0

    @property
    def ttl(self) -> float:
        """Seconds from when it was queued until it expires; 0: never."""
        return DEFAULT_TTL if self.message.ttl is None else self.message.ttl

    def key(self) -> bytes:
        """Return what tells it from others: its id, then where it is to go."""
        return queue_key(self.message.message_id, self.message.to_cell or "", self.wanted)

    def row(self, position: int) -> tuple[Any, ...]:
        """Return the values of ``store.COLUMNS`` at a position of the outbox."""
        message = self.message
        extra = None
        if (
            message.reply_to is not None
            or message.conversation_id is not None
            or message.traceparent is not None
            or message.tracestate is not None
            or self.not_before is not None
            or self.home is not None
        ):
            extra = encode(
                Extra(
                    message.reply_to,
                    message.conversation_id,
                    message.traceparent,
                    message.tracestate,
                    not_before=self.not_before,
                    for_instance=self.home,
                )
            )
        return (
            position,
            message.message_id,
            message.to_cell,
            self.wanted,
            message.message_type or DEFAULT_TYPE,
            self.priority,
            self.ttl,
            self.queued_at,
            self.expires_at,
            extra,
            GIVEN * self.given | COPY * self.copy,
            self.payload,
            self.key(),
            self.fingerprint,
        )

    def encoded(self, instance: str | None, uid: str | None, now: int) -> bytes:
        """Return the message as it travels to an instance now (ms)."""
        message = self.message
        message.to_instance = instance
        message.to_uid = uid
        message.for_instance = self.home if self.home != instance else None
        held = max(0, now - self.queued_at) / 1000
        if self.ttl:
            message.ttl_remaining = max(0.001, round(self.ttl - held, 3))
        if self.not_before is not None:
            message.not_before = max(0.0, round(self.not_before - held, 3)) or None
        return encode(message)


def queue_key(message_id: str, to_cell: str, wanted: str) -> bytes:
    """Return the key of a queued message; keys of one id are neighbours (``messages.id_range``)."""
    return message_id.encode() + b"\0" + _receiver(to_cell, wanted)


@lru_cache(maxsize=1024)
def _receiver(to_cell: str, wanted: str) -> bytes:
    return hashlib.blake2b(f"{to_cell}\0{wanted}".encode(), digest_size=16).digest()


class Loaded(msgspec.Struct, array_like=True):
    """A queued message as it is read from the file, with what is needed to send it."""

    position: int
    message_id: str
    wanted: str
    message_type: str
    priority: int
    ttl: int | float
    queued_at: int
    expires_at: int | None
    extra: str | None
    flags: int
    instance: str | None
    uid: str | None
    pinned_at: int | None
    attempts: int
    payload: str

    def parcel(self, to_cell: str, here: Identity, timestamp: str) -> Parcel:
        """Return it as it waits for its turn."""
        extra = decode_extra(self.extra) if self.extra is not None else Extra()
        message = CellMessage(
            message_id=self.message_id,
            from_cell=here.cell_id,
            to_cell=to_cell,
            message_type=self.message_type,
            payload=Raw(self.payload.encode()),
            timestamp=timestamp,
            priority=PRIORITY_NAMES[self.priority],
            ttl=self.ttl,
            reply_to=extra.reply_to,
            conversation_id=extra.conversation_id,
            traceparent=extra.traceparent,
            tracestate=extra.tracestate,
            not_before=extra.not_before,
            for_instance=extra.for_instance,
            from_namespace=here.namespace,
            from_instance=here.instance,
            to_namespace=here.namespace,
        )
        parcel = Parcel(
            message, self.wanted, self.queued_at, given=bool(self.flags & GIVEN), copy=bool(self.flags & COPY)
        )
        parcel.position = self.position
        parcel.expires_at = self.expires_at
        parcel.instance, parcel.uid, parcel.pinned_at = self.instance, self.uid, self.pinned_at
        parcel.maybe = self.instance is not None
        parcel.attempts = self.attempts
        return parcel
