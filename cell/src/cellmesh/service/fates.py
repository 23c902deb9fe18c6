"""What becomes of queued messages after an attempt: pure decisions."""

from __future__ import annotations

from typing import NamedTuple

from cellmesh.outbox.parcels import DEAD, DELIVERED, QUEUED, UNCONFIRMED
from cellmesh.service.routing import Meaning, read_answer, retry_after
from cellmesh.transport.link import Receipt

#: Bounds of the pause before another attempt, seconds: exponential backoff, of which a random part is waited.
BASE_PAUSE = 0.1
MAX_PAUSE = 30.0
#: Refusals of these statuses say nothing about the message; elsewhere a 4xx is for good.
_TRANSIENT = frozenset({408, 425})
#: How often a message that an instance fails to take holds up those behind it; then it waits by itself.
PATIENT_FAILURES = 4


class Fate(NamedTuple):
    """What is known of a message now.

    Attributes:
        state: of ``parcels``; ``QUEUED`` if it is to be tried again.
        pinned: whether its instance may have it.
        code, error: why it is not delivered.
        holds_up: whether nothing may go to the instance before it, if it is to be tried again.
        elsewhere: whether the instance is not where it is thought to be.
        pause: seconds in which the instance does not want to be asked, if it says so.

    """

    state: int
    pinned: bool = False
    code: str = ""
    error: str = ""
    holds_up: bool = False
    elsewhere: bool = False
    pause: float | None = None


ACKNOWLEDGED = Fate(DELIVERED)


def judge(receipt: Receipt, *, maybe: bool) -> Fate:
    """Return what an answer means for a message.

    Args:
        receipt: the answer.
        maybe: whether an earlier attempt at this instance has ended without an answer. Then only that it is full
            proves that it has nothing: it would recognise a repeat before it looks for room.

    """
    meaning, code, error = read_answer(receipt.status, receipt.body)
    if meaning is Meaning.ACKNOWLEDGED:
        return ACKNOWLEDGED
    code = code or "target_error"
    error = error or f"it answered {receipt.status}"
    if meaning is Meaning.FULL:
        return Fate(QUEUED, code=code, error=error, holds_up=True, pause=retry_after(receipt))
    if meaning in {Meaning.MISDIRECTED, Meaning.DRAINING}:
        pause = retry_after(receipt)
        return Fate(QUEUED, pinned=maybe, code=code, error=error, holds_up=True, elsewhere=True, pause=pause)
    if meaning is Meaning.REFUSED and receipt.status not in _TRANSIENT:
        # Under this id it has another message: certainly not this one.
        unclear = maybe and code != "id_conflict"
        return Fate(UNCONFIRMED if unclear else DEAD, pinned=unclear, code=code, error=error)
    return Fate(QUEUED, pinned=True, code=code, error=error, pause=retry_after(receipt))


def lost(why: str) -> Fate:
    """Return the fate of a message whose answer has not come."""
    return Fate(QUEUED, pinned=True, code="outcome_unknown", error=why[:300], holds_up=True, elsewhere=True)


def unsent(why: Fate, *, maybe: bool) -> Fate:
    """Return the fate of a message that has not left because of what one before it met with."""
    return Fate(QUEUED, pinned=maybe, code=why.code, error=why.error, holds_up=True)


def ends_shipment(receipt: Receipt) -> bool:
    """Tell whether nothing more is to be sent after this answer, lest it overtake the message."""
    fate = judge(receipt, maybe=False)
    return fate.state == QUEUED


def backoff(failures: int, random: float, wanted: float | None = None) -> float:
    """Return seconds until the next attempt after so many failures in a row.

    Args:
        failures: at least 1.
        random: 0 to 1.
        wanted: what the instance has asked for.

    """
    pause = random * min(MAX_PAUSE, BASE_PAUSE * 2.0 ** min(failures - 1, 20))
    if wanted is None:
        return pause
    # Not all at the same moment.
    return wanted + min(pause, wanted / 4)
