"""What becomes of a leased message: decisions, apart from the statements that carry them out."""

from __future__ import annotations

from dataclasses import dataclass

from cellmesh.inbox.leases import Settlement, Verb
from cellmesh.inbox.ready import Position
from cellmesh.inbox.statements import entry
from cellmesh.inbox.store import CONSUMED, DEAD, LEASED, PENDING


@dataclass
class Row:
    """What settling looks at, and how it leaves it."""

    seq: int
    message_id: str
    priority: int
    message_type: str
    state: int
    lease: str | None
    lease_until: int
    deliveries: int


class Changes:
    """What settling changes, collected so that few statements carry it out."""

    def __init__(self) -> None:
        self.acked: list[int] = []
        self.extended: list[tuple[int, int, int]] = []
        self.dead: list[tuple[str, str | None, str, int]] = []
        self.pending: list[tuple[int | None, int, str | None, str, int]] = []
        self.positions: list[tuple[Position, int]] = []
        self.running: list[tuple[int, int]] = []

    @property
    def ended(self) -> list[int]:
        """Positions of the messages whose lease has ended."""
        return [*self.acked, *(one[-1] for one in self.dead), *(one[-1] for one in self.pending)]


def judge(row: Row, item: Settlement, now: int, max_deliveries: int, changes: Changes) -> str:
    """Decide on one message and note what changes; return the code of a refusal, or nothing."""
    ours = row.lease is not None and row.lease == item.lease_token
    if not ours:
        return "lease_lost"
    if row.state != LEASED:
        return "" if _repeated(row, item) else "lease_lost"
    if row.lease_until <= now:
        return "lease_lost"
    if item.verb is Verb.ACK:
        row.state = CONSUMED
        changes.acked.append(row.seq)
    elif item.verb is Verb.EXTEND:
        row.lease_until = now + item.lease_ms
        changes.extended.append((now, row.lease_until, row.seq))
        changes.running.append((row.lease_until, row.seq))
    elif item.reject:
        row.state = DEAD
        changes.dead.append(("rejected", row.lease, entry("pending", now, item.reason or "rejected"), row.seq))
    else:
        if item.release:
            row.deliveries -= 1
        put_back(
            row,
            changes,
            item.reason or ("handed back" if item.release else "nack"),
            now,
            delay_until=now + item.delay_ms if item.delay_ms else 0,
            max_deliveries=None if item.release else max_deliveries,
            keep_token=True,
        )
    return ""


def _repeated(row: Row, item: Settlement) -> bool:
    """Tell whether the same has been said before, which is no error: its first answer may have been lost."""
    if item.verb is Verb.ACK:
        return row.state == CONSUMED
    return item.verb is Verb.NACK and (row.state == DEAD or (row.state == PENDING and not item.reject))


def put_back(
    row: Row,
    changes: Changes,
    why: str,
    now: int,
    *,
    delay_until: int,
    max_deliveries: int | None,
    keep_token: bool = False,
) -> None:
    """Note that a leased message is pending again, or a dead letter if it was handed out often enough.

    Args:
        row: the message.
        changes: where it is noted.
        why: the reason, for its log.
        now: ms.
        delay_until: when it may be handed out again, ms; 0: at once.
        max_deliveries: after how many it is dead; None: never.
        keep_token: so that the same said again is recognised.

    """
    if not keep_token:
        row.lease = None
    if max_deliveries is not None and row.deliveries >= max_deliveries:
        row.state = DEAD
        changes.dead.append(("max_deliveries", row.lease, entry("pending", now, why), row.seq))
        return
    row.state = PENDING
    changes.pending.append((delay_until or None, row.deliveries, row.lease, entry("pending", now, why), row.seq))
    changes.positions.append((Position(row.seq, row.priority, row.message_type), delay_until))
