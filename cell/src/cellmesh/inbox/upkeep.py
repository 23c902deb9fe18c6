"""What an inbox does besides storing: expire, trim, forget, and give room back; runs in the writer thread only."""

from __future__ import annotations

import time
from collections.abc import Callable

import apsw

from cellmesh.inbox.files import BUSY_TIMEOUT
from cellmesh.inbox.store import CONSUMED, DEAD, GROUP_GROWTH, LOG_PAGES, MAX_GROWTH, Store
from cellmesh.inbox.transaction import Transaction

#: Rows that one step changes at most: short steps, so that messages never wait long for them.
ROWS = 256
#: How long a deduplication record that is due lives on while its message is still there.
EXTENSION_MS = 3_600_000


class Upkeep:
    """The statements that keep an inbox within its bounds.

    Every method that changes something runs inside a transaction of the caller, unless it says otherwise;
    after a rollback the caller calls ``restart``.

    Args:
        store: the inbox.

    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._connection = store.connection
        self._execute = store.connection.execute
        self._executemany = store.connection.executemany
        #: What makes room besides, see ``Writer.attend``.
        self.reclaims: list[Callable[[Transaction], None]] = []
        self._next_reclaim = 0.0
        self._forgotten = 0

    def restart(self) -> None:
        """Look at the deduplication records from the first one again."""
        self._forgotten = 0

    def step(self) -> bool:
        """Expire, trim and forget, at most ``ROWS`` rows of each; return whether more is due."""
        now = self._store.clock.now_ms()
        more = self._expire(now) >= ROWS
        more |= self._trim(now) >= ROWS
        more |= self._forget(now) >= ROWS
        return more

    def shrink(self) -> None:
        """Give free pages back to the file system, some at a time, when many are free. Not in a transaction."""
        free = int(self._connection.pragma("freelist_count"))
        if free > 4 * LOG_PAGES and free * 4 > int(self._connection.pragma("page_count")):
            self._execute("PRAGMA incremental_vacuum(500)").fetchall()

    def reclaim(self, size: int) -> bool:
        """Make room when ``size`` bytes more would pass the bound: history goes first. Not in a transaction.

        At most once a second: while an inbox is full, every refused message would ask for it.

        Returns:
            whether something was done, so that ``cut`` is due.

        """
        if self._store.headroom > MAX_GROWTH * size + GROUP_GROWTH or time.monotonic() < self._next_reclaim:
            return False
        if self._store.file_bytes() + size <= self._store.limits.max_bytes:
            return False
        self._next_reclaim = time.monotonic() + 1.0
        tx = Transaction(self._connection)
        try:
            with self._connection:
                for state in (DEAD, CONSUMED):
                    self._drop(state, "", (), 10 * ROWS)
                for reclaim in self.reclaims:
                    reclaim(tx)
        except apsw.Error:
            tx.rolled_back()
            raise
        tx.committed()
        return True

    def cut(self) -> None:
        """Give all free pages and the write-ahead log back to the file system. Not in a transaction."""
        self._execute("PRAGMA incremental_vacuum").fetchall()
        # Whoever reads for long, as a backup does, is not waited for: messages would wait as well.
        self._connection.set_busy_timeout(0)
        try:
            self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        finally:
            self._connection.set_busy_timeout(BUSY_TIMEOUT)

    def _expire(self, now: int) -> int:
        # One that may be with a sibling by now expires there, or here once it is known that it is not.
        if not self._store.gauges.pending:
            return 0
        self._execute(
            "UPDATE messages SET state = ?, reason = 'expired', ended_at = ?, moving_to = NULL"
            " WHERE seq IN (SELECT seq FROM messages WHERE state = 0 AND expires_at IS NOT NULL AND expires_at <= ?"
            " AND moving_since IS NULL ORDER BY expires_at LIMIT ?)",
            (DEAD, now, now, ROWS),
        )
        count = self._connection.changes()
        if count:
            self._store.gauges.pending -= count
            self._store.gauges.dead += count
        return count

    def _trim(self, now: int) -> int:
        dropped = 0
        for state, kept in ((DEAD, self._store.gauges.dead), (CONSUMED, self._store.gauges.consumed)):
            if not kept:
                continue
            surplus = min(kept - self._store.limits.history, ROWS)
            if surplus > 0:
                dropped += self._drop(state, "", (), surplus)
            dropped += self._drop(state, " AND ended_at <= ?", (now - self._store.limits.history_ms,), ROWS)
        return dropped

    def _drop(self, state: int, condition: str, values: tuple[int, ...], limit: int) -> int:
        seqs = [
            row[0]
            for row in self._execute(
                # The index holds finished messages only, and SQLite wants to be told that these are.
                f"SELECT seq FROM messages WHERE state >= 2 AND state = ?{condition} ORDER BY ended_at LIMIT ?",
                (state, *values, limit),
            )
        ]
        rows = [(seq,) for seq in seqs]
        if rows:
            self._executemany("DELETE FROM messages WHERE seq = ?", rows)
            self._executemany("DELETE FROM payloads WHERE seq = ?", rows)
            if state == DEAD:
                self._store.gauges.dead -= len(rows)
            else:
                self._store.gauges.consumed -= len(rows)
        return len(rows)

    def _forget(self, now: int) -> int:
        """Drop deduplication records that are due and whose message is gone.

        Those that live for the window are due in the order of their positions: a cursor walks over them
        and stays where a message is still kept. Those with a longer ttl have an index by their expiry.
        """
        there = "EXISTS (SELECT 1 FROM messages m WHERE m.seq = r.seq)"
        due = now - self._store.limits.dedupe_window_ms
        gone = []
        later = []
        walked = 0
        # Read lazily: the first record that is not due yet ends the walk, so an idle inbox reads one row.
        for seq, kept, longer_lived, received_at in self._execute(
            f"SELECT r.seq, {there}, r.expires_at IS NOT NULL, r.received_at FROM receipts r"
            " WHERE r.seq > ? ORDER BY r.seq LIMIT ?",
            (self._forgotten, ROWS),
        ):
            if int(str(received_at)) > due:
                break
            walked += 1
            self._forgotten = int(str(seq))
            if longer_lived:
                continue
            if kept:
                # From here on it is looked at by its expiry, like one with a long ttl.
                later.append((now + EXTENSION_MS, seq))
            else:
                gone.append((seq,))
        longer = self._execute(
            f"SELECT r.seq, {there} FROM receipts r WHERE r.expires_at <= ? ORDER BY r.expires_at LIMIT ?",
            (now, ROWS),
        ).fetchall()
        for seq, kept in longer:
            if kept:
                later.append((now + EXTENSION_MS, seq))
            else:
                gone.append((seq,))
        if gone:
            self._executemany("DELETE FROM receipts WHERE seq = ?", gone)
        if later:
            self._executemany("UPDATE receipts SET expires_at = ? WHERE seq = ?", later)
        return max(walked, len(longer))
