"""What an outbox does besides sending: expire, trim, forget; runs in the writer thread only, in small steps."""

from __future__ import annotations

import time
from functools import partial

from cellmesh.inbox.rate import DrainRate
from cellmesh.inbox.statements import filled, marks
from cellmesh.inbox.transaction import Transaction
from cellmesh.outbox.parcels import DELIVERED, EXPIRED, QUEUED, UNCONFIRMED
from cellmesh.outbox.store import Sent
from cellmesh.protocol.queueing import SENT_STATES

#: Rows that one step changes at most.
ROWS = 256
#: How many of them are looked at, as some are being sent.
LOOK = 4 * ROWS
#: Least seconds between two looks for what is too old.
OLD_INTERVAL = 60.0


class Keeping:
    """The statements that keep an outbox within its bounds."""

    def __init__(self, sent: Sent) -> None:
        self._sent = sent
        self._limits = sent.store.limits
        self.drain = DrainRate()
        self._next_old = 0.0
        self._forgotten = 0

    def step(self, tx: Transaction) -> bool:
        """Expire, trim and forget, at most ``ROWS`` rows of each; return whether more is due."""
        now = self._sent.clock.now_ms()
        self.drain.observe(self._sent.ended.total(), time.monotonic())
        more = self._expire(tx, now)
        more |= self._trim(tx, now)
        more |= self._forget(tx, now)
        return more

    def reclaim(self, tx: Transaction) -> None:
        """Make room: history goes."""
        for state in range(QUEUED + 1, len(SENT_STATES)):
            self._drop(tx, state, "", (), 10 * ROWS)

    def _expire(self, tx: Transaction, now: int) -> bool:
        if not self._sent.kept[QUEUED]:
            return False
        found = tx.execute(
            f"SELECT position, instance IS NOT NULL FROM sent WHERE state = {QUEUED} AND expires_at IS NOT NULL"
            " AND expires_at <= ? ORDER BY expires_at LIMIT ?",
            (now, LOOK),
        ).fetchall()
        # Those that are being sent now end when that is known.
        due = [(int(str(position)), bool(maybe)) for position, maybe in found if position not in self._sent.under_way]
        due = due[:ROWS]
        for state, maybe in ((EXPIRED, False), (UNCONFIRMED, True)):
            self._sent.end(tx, state, [position for position, pinned in due if pinned is maybe])
        return len(due) >= ROWS

    def _trim(self, tx: Transaction, now: int) -> bool:
        more = False
        for state in range(DELIVERED, len(SENT_STATES)):
            surplus = min(self._sent.kept[state] - self._limits.history, ROWS)
            if surplus > 0:
                more |= self._drop(tx, state, "", (), surplus) >= ROWS
        if time.monotonic() >= self._next_old:
            oldest = now - self._limits.history_ms
            old = max(
                self._drop(tx, state, " AND ended_at <= ?", (oldest,), ROWS)
                for state in range(DELIVERED, len(SENT_STATES))
            )
            more |= old >= ROWS
            if old < ROWS:
                self._next_old = time.monotonic() + min(OLD_INTERVAL, max(1.0, self._limits.history_ms / 10_000))
        return more

    def _drop(self, tx: Transaction, state: int, condition: str, values: tuple[int, ...], limit: int) -> int:
        positions = [
            int(row[0])
            for row in tx.execute(
                # The index holds ended messages only, and SQLite wants to be told that these are.
                f"SELECT position FROM sent WHERE state >= 1 AND state = ?{condition} ORDER BY ended_at LIMIT ?",
                (state, *values, limit),
            )
        ]
        for start in range(0, len(positions), ROWS):
            self._sent.drop(tx, state, positions[start : start + ROWS])
        return len(positions)

    def _forget(self, tx: Transaction, now: int) -> bool:
        """Drop the ids that are due and whose message is gone; a cursor walks over them by position."""
        due = now - self._sent.window
        tx.on_rollback(partial(setattr, self, "_forgotten", self._forgotten))
        gone: list[int] = []
        walked = 0
        for position, kept, queued_at in tx.execute(
            "SELECT i.position, EXISTS (SELECT 1 FROM sent s WHERE s.position = i.position), i.queued_at"
            " FROM sent_ids i WHERE i.position > ? ORDER BY i.position LIMIT ?",
            (self._forgotten, ROWS),
        ):
            if int(str(queued_at)) > due:
                break
            walked += 1
            self._forgotten = int(str(position))
            if not kept:
                gone.append(int(str(position)))
        if gone:
            tx.execute(f"DELETE FROM sent_ids WHERE position IN ({marks(gone)})", filled(gone))
        return walked >= ROWS
