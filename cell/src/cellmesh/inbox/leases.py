"""What a lease is asked for with, what it gives, and how it is settled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import msgspec

from cellmesh.inbox.store import PENDING
from cellmesh.protocol.consuming import LeasedMessage


class Holder(Enum):
    """Who holds a lease: decides what becomes of it when the process starts again."""

    #: A client: the lease runs its full length anew.
    CLIENT = 0
    #: A handler inside this process: it died with it, the lease ends.
    HANDLER = 1


@dataclass(eq=False)
class LeaseRequest:
    """What a consumer asks for: how many at most, for how long (ms), of which types, as whom.

    ``wait_until`` (ms, of the inbox's clock) is how long it waits if there are none. ``cancelled`` is set by
    whoever asked and is gone.
    """

    most: int
    lease_ms: int
    types: Sequence[str] | None = None
    holder: Holder = Holder.CLIENT
    wait_until: int = 0
    cancelled: bool = False


class Leased(msgspec.Struct, frozen=True):
    """A message that was handed out, and the token that settles it."""

    message: LeasedMessage
    lease_token: str


class Verb(Enum):
    """What is to become of a leased message."""

    ACK = "ack"
    NACK = "nack"
    EXTEND = "extend"


class Settlement(msgspec.Struct, frozen=True, kw_only=True):
    """One message to be settled, named by ``seq`` or ``message_id``.

    ``delay_ms`` until it is handed out again, ``reason``, ``reject`` (a dead letter at once) and ``release``
    (not counted as a delivery) are for a nack, ``lease_ms`` for an extension.
    """

    verb: Verb
    lease_token: str
    seq: int | None = None
    message_id: str | None = None
    delay_ms: int = 0
    reason: str | None = None
    reject: bool = False
    release: bool = False
    lease_ms: int = 0


class Settled(msgspec.Struct, frozen=True):
    """What became of it: ``code`` is empty, or a key of ``problems.CODES``."""

    code: str
    seq: int | None = None
    message_id: str | None = None
    state: int = PENDING
    delivery_count: int = 0
    leased_until: int = 0
