"""Queued messages as a cell's API shows them: what ``POST /send`` answers, and what became of each."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Raw

#: States of a queued message, in the order of their stored numbers.
SENT_STATES = ("queued", "delivered", "expired", "unconfirmed", "dead", "cancelled")
SentState = Literal["queued", "delivered", "expired", "unconfirmed", "dead", "cancelled"]
#: Of several copies together.
OverallState = Literal["queued", "delivered", "expired", "unconfirmed", "dead", "cancelled", "partial"]


class Queued(msgspec.Struct, omit_defaults=True):
    """The answer of ``POST /send`` with ``mode: queued``: the message is on disk and will be delivered.

    Of a repeat, ``duplicate`` is true and ``state`` what has become of the message, unless that is forgotten.
    """

    status: Literal["queued"]
    message_id: str
    to_cell: str
    timestamp: str
    duplicate: bool = False
    state: SentState | None = None


class QueuedCopy(msgspec.Struct, omit_defaults=True):
    """One receiver of a message that was queued to several; of a repeat, what has become of its copy."""

    to_cell: str
    to_instance: str | None = None
    state: SentState | None = None


class QueuedCopies(msgspec.Struct, omit_defaults=True, kw_only=True):
    """The answer of ``POST /send`` with ``mode: queued`` to several receivers: a copy for each is on disk.

    Who they are is found out once: a repeat (``duplicate``) changes nothing.
    """

    status: Literal["queued"]
    message_id: str
    to_cell: list[str]
    timestamp: str
    results: list[QueuedCopy]
    count: int
    duplicate: bool = False
    state: OverallState | None = None


class SentMessage(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A queued message as ``GET /sent`` shows it.

    ``code`` and ``error`` say why it is not delivered (yet); ``instance`` has it or, unless it is delivered, may
    have it; ``next_attempt_in`` is in seconds.
    """

    message_id: str
    seq: int
    to_cell: str
    message_type: str
    priority: str
    ttl: int | float
    timestamp: str
    state: SentState
    attempts: int
    to_instance: str | None = None
    instance: str | None = None
    target_url: str | None = None
    code: str | None = None
    error: str | None = None
    next_attempt_in: float | None = None
    expires_at: str | None = None
    attempted_at: str | None = None
    ended_at: str | None = None
    reply_to: str | None = None
    conversation_id: str | None = None
    not_before: float | None = None
    traceparent: str | None = None
    tracestate: str | None = None
    payload: Raw | None = None


class SentCopies(msgspec.Struct, kw_only=True):
    """A message that was queued to several receivers; ``state`` is ``partial`` where they ended differently."""

    message_id: str
    state: OverallState
    results: list[SentMessage]
    count: int
    delivered: int


class SentPage(msgspec.Struct):
    """The answer of ``GET /sent``; ``next`` is the position to ask ``after``, null if there is nothing."""

    messages: list[SentMessage]
    total: int
    cell_id: str
    next: int | None


def overall(results: list[SentMessage]) -> SentCopies:
    """Return the copies of one message together."""
    states: set[SentState] = {result.state for result in results}
    state: OverallState = "queued" if "queued" in states else states.pop() if len(states) == 1 else "partial"
    return SentCopies(
        message_id=results[0].message_id,
        state=state,
        results=results,
        count=len(results),
        delivered=sum(result.state == "delivered" for result in results),
    )
