"""Taking queued messages back, and sending again what has ended; runs in the writer thread only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from cellmesh.inbox.store import Verdict
from cellmesh.inbox.transaction import Transaction
from cellmesh.outbox.parcels import CANCELLED, DELIVERED, OVERHEAD, QUEUED
from cellmesh.outbox.store import Sent
from cellmesh.protocol.deduplication import id_range


class Requeued(NamedTuple):
    """A message that is queued again: to whom, and where it is now."""

    to_cell: str
    priority: int
    position: int


class Changed(NamedTuple):
    """What became of the copies of one message: how many there are, how many of them were changed.

    ``refusal`` says why none could be, where that is for want of room.
    """

    known: int
    changed: int
    requeued: Sequence[Requeued] = ()
    refusal: Verdict | None = None


class Changing:
    """The statements that change what was queued."""

    def __init__(self, sent: Sent) -> None:
        self._sent = sent

    def cancel(self, tx: Transaction, message_id: str) -> Changed:
        """Cancel those copies of a message that are queued and cannot have been stored anywhere."""
        copies = self._copies(tx, message_id)
        free = [position for position, state, instance, *_ in copies if state == QUEUED and instance is None]
        self._sent.end(tx, CANCELLED, free)
        return Changed(len(copies), len(free))

    def retry(self, tx: Transaction, message_id: str) -> Changed:
        """Queue those copies of a message again that have ended undelivered: behind all others, their ttl anew.

        One that may have been stored stays with its instance, the only one to recognise it.
        """
        copies = self._copies(tx, message_id)
        ended = [copy for copy in copies if copy[1] not in {QUEUED, DELIVERED}]
        refusal = self._sent.refusal(len(ended), OVERHEAD * len(ended))
        if ended and refusal is not None:
            return Changed(len(copies), 0, refusal=refusal)
        requeued = []
        for position, state, _, to_cell, priority in ended:
            requeued.append(Requeued(to_cell, priority, self._sent.requeue(tx, position, state)))
        return Changed(len(copies), len(requeued), requeued)

    def _copies(self, tx: Transaction, message_id: str) -> list[tuple[Any, ...]]:
        return tx.execute(
            "SELECT s.position, s.state, s.instance, s.to_cell, s.priority FROM sent_ids i"
            " JOIN sent s ON s.position = i.position WHERE i.key >= ? AND i.key < ? AND s.message_id = ?"
            " ORDER BY s.position",
            (*id_range(message_id), message_id),
        ).fetchall()
