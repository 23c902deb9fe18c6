"""Dead letters: put back or purged. Statements of the writer thread."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec

from cellmesh.inbox.leasing import Leasing
from cellmesh.inbox.ready import Position
from cellmesh.inbox.statements import LOG, entry, filled, marks
from cellmesh.inbox.store import DEAD, PENDING, Store
from cellmesh.inbox.transaction import Transaction
from cellmesh.protocol.deduplication import id_range

#: Dead letters that one transaction changes at most.
CHUNK = 1000


class Named(msgspec.Struct, frozen=True):
    """One message, named by its position or its id."""

    seq: int | None = None
    message_id: str | None = None


class DeadLetters:
    """What can be done with dead letters.

    Args:
        store: the inbox.
        leasing: its leases, which get what is put back.

    """

    def __init__(self, store: Store, leasing: Leasing) -> None:
        self._store = store
        self._leasing = leasing

    def of_reason(self, tx: Transaction, reason: str | None, most: int = CHUNK, after: int = 0) -> list[int]:
        """Return positions of dead letters, oldest first; of one reason, or of any."""
        condition, values = ("", ()) if reason is None else (" AND reason = ?", (reason,))
        found = tx.execute(
            # +seq: by the index of what has ended, not through all that is pending.
            f"SELECT seq FROM messages WHERE state >= 2 AND state = {DEAD} AND +seq > ?{condition}"
            " ORDER BY seq LIMIT ?",
            (after, *values, most),
        )
        return [int(str(row[0])) for row in found]

    def named(self, tx: Transaction, items: Sequence[Named]) -> list[tuple[int | None, str]]:
        """Return the position of each message named, None if there is none, and what is wrong with it if anything.

        That is a code: ``unknown_message`` or ``not_dead``.
        """
        seqs = [self._seq_of(tx, item) for item in items]
        known = sorted({seq for seq in seqs if seq is not None})
        rows: dict[Any, tuple[Any, Any]] = {}
        if known:
            found = tx.execute(
                f"SELECT seq, message_id, state FROM messages WHERE seq IN ({marks(known)})", filled(known)
            )
            rows = {seq: (message_id, state) for seq, message_id, state in found}
        named: list[tuple[int | None, str]] = []
        for item, seq in zip(items, seqs, strict=True):
            message_id, state = rows.get(seq, (None, None))
            if state is None or item.message_id not in {None, message_id}:
                named.append((None, "unknown_message"))
            else:
                named.append((seq, "" if state == DEAD else "not_dead"))
        return named

    def put_back(self, tx: Transaction, seqs: Sequence[int]) -> int:
        """Make dead letters pending again: not delivered yet, with their whole ttl before them.

        Returns:
            how many were; fewer than asked for if the inbox has no room for more.

        """
        gauges, now = self._store.gauges, self._store.clock.now_ms()
        room = self._store.limits.max_messages - gauges.pending - gauges.leased
        seqs = seqs[: max(0, room)]
        if not seqs:
            return 0
        rows = tx.execute(
            f"UPDATE messages SET state = {PENDING}, deliveries = 0, lease = NULL, available_at = NULL,"
            " ended_at = NULL, reason = NULL, moving_to = NULL,"
            f" expires_at = CASE WHEN ttl > 0 THEN ?2 + CAST(ttl * 1000 AS INTEGER) END, {LOG}"
            f" WHERE state = {DEAD} AND seq IN (SELECT value FROM json_each(?3))"
            " RETURNING seq, priority, message_type",
            (entry("pending", now, "put back"), now, msgspec.json.encode(seqs).decode()),
        ).fetchall()
        gauges.dead -= len(rows)
        gauges.pending += len(rows)
        for seq, priority, message_type in sorted(rows):
            tx.on_commit(
                partial(self._leasing.made_pending, Position(int(str(seq)), int(str(priority)), str(message_type)))
            )
        return len(rows)

    def purge(self, tx: Transaction, seqs: Sequence[int]) -> int:
        """Delete dead letters; return how many. Their deduplication records stay as long as they would have."""
        if not seqs:
            return 0
        chosen = msgspec.json.encode(seqs).decode()
        gone = tx.execute(
            f"DELETE FROM messages WHERE state = {DEAD} AND seq IN (SELECT value FROM json_each(?)) RETURNING seq",
            (chosen,),
        ).fetchall()
        tx.execute(
            "DELETE FROM payloads WHERE seq IN (SELECT value FROM json_each(?))",
            (msgspec.json.encode([row[0] for row in gone]).decode(),),
        )
        self._store.gauges.dead -= len(gone)
        return len(gone)

    def _seq_of(self, tx: Transaction, item: Named) -> int | None:
        if item.seq is not None:
            return item.seq
        if item.message_id is None:
            return None
        found: Any = tx.execute(
            "SELECT m.seq FROM receipts r JOIN messages m ON m.seq = r.seq WHERE r.key >= ? AND r.key < ?"
            " AND m.message_id = ? ORDER BY m.state DESC, m.seq DESC LIMIT 1",
            (*id_range(item.message_id), item.message_id),
        ).get
        return None if found is None else int(found)
