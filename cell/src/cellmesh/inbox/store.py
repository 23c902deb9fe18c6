"""What is written to the inbox, statement by statement; runs in the writer thread only."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from itertools import chain
from pathlib import Path

import apsw
import msgspec

from cellmesh.inbox.clock import SteadyClock
from cellmesh.inbox.files import DATABASE
from cellmesh.protocol.messages import Checked

PENDING, LEASED, CONSUMED, DEAD = range(4)
PRIORITIES = {"low": 0, "normal": 1, "high": 2, "critical": 3}

#: Rows that one step of upkeep changes at most: short steps, so that messages never wait long for them.
UPKEEP_ROWS = 256
#: How long a deduplication record that is due lives on while its message is still there.
EXTENSION_MS = 3_600_000
PAGE = 4096
#: Pages of the write-ahead log after which it is copied into the file and written from its start again.
LOG_PAGES = 1000


#: Bytes that a byte of payload may take in the files: once in the log, once in the database, and pages.
MAX_GROWTH = 4
#: Bytes that a group may take besides.
GROUP_GROWTH = 64 * 1024
#: Others write to the disk too: it is asked again at the latest after so many bytes of ours.
MAX_HEADROOM = 8 * 1024 * 1024
#: Rows that one INSERT carries at most.
MAX_ROWS = 64
_MESSAGES = (
    "messages (seq, message_id, from_cell, to_cell, message_type, priority, ttl, timestamp,"
    " received_at, expires_at, extra)"
)
_PAYLOADS = "payloads (seq, payload)"
_RECEIPTS = "receipts (seq, key, fingerprint, received_at, expires_at)"


@lru_cache(maxsize=3 * MAX_ROWS)
def _values(table: str, width: int, size: int) -> str:
    row = f"({','.join('?' * width)})"
    return f"INSERT INTO {table} VALUES {','.join([row] * size)}"  # noqa: S608 - our own text


@lru_cache(maxsize=32)
def _lookup_text(size: int) -> str:
    return f"SELECT key, fingerprint, seq, received_at FROM receipts WHERE key IN ({','.join('?' * size)})"  # noqa: S608 - only question marks


def _lookup(keys: list[bytes]) -> tuple[str, list[bytes]]:
    """Return the query for deduplication records, filled up to a power of two: few are ever prepared."""
    size = 1 << (len(keys) - 1).bit_length()
    return _lookup_text(size), keys + keys[-1:] * (size - len(keys))


class Verdict(Enum):
    """What became of a message that was to be stored."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    INBOX_FULL = "inbox_full"
    DISK_FULL = "disk_full"
    FAILED = "failed"


class Outcome(msgspec.Struct, frozen=True):
    """Verdict on one message; ``seq`` and ``received_at`` (ms) where it is in the inbox."""

    verdict: Verdict
    seq: int = 0
    received_at: int = 0


@dataclass(frozen=True, kw_only=True)
class InboxLimits:
    """Bounds of an inbox; see the settings of the same names."""

    max_messages: int
    max_bytes: int
    history: int
    history_ms: int
    dedupe_window_ms: int
    disk_reserve: int


@dataclass
class Gauges:
    """Totals of the inbox, as the last commit left them."""

    received: int = 0
    pending: int = 0
    leased: int = 0
    consumed: int = 0
    dead: int = 0

    @property
    def total(self) -> int:
        """Messages in the inbox, whatever their state."""
        return self.pending + self.leased + self.consumed + self.dead


class Store:
    """The statements of the writer, and the totals that go with them.

    Every method that changes something runs inside a transaction of the caller; after a rollback the
    caller calls ``reload``.
    """

    def __init__(self, connection: apsw.Connection, directory: Path, limits: InboxLimits, clock: SteadyClock) -> None:
        self.connection = connection
        self.limits = limits
        self.clock = clock
        self._directory = directory
        self._files = (str(directory / DATABASE), str(directory / f"{DATABASE}-wal"))
        self._execute = connection.execute
        self._executemany = connection.executemany
        self._next_seq = 0
        self._next_reclaim = 0.0
        self._next_old = 0.0
        self._forgotten = 0
        #: Bytes that may be written before the file system is asked again how much room there is.
        self._headroom = 0
        self.gauges = Gauges()
        # A small inbox must not be filled by its write-ahead log.
        pages = max(50, min(LOG_PAGES, limits.max_bytes // 16 // PAGE))
        connection.pragma("wal_autocheckpoint", pages)
        connection.pragma("journal_size_limit", pages * PAGE * 4)
        self._fill_log(pages)
        self._clamp_deadlines()
        self.reload()
        # Only now: the start reads whole tables, and an idle cell need not keep them in memory.
        connection.pragma("shrink_memory")
        connection.pragma("cache_size", -16_000)

    def reload(self) -> None:
        """Bring the totals and the next position to what is on disk; the only place that counts rows."""
        counts = dict(self._execute("SELECT state, count(*) FROM messages GROUP BY state"))
        last = int(str(self._execute("SELECT max(seq) FROM sqlite_sequence WHERE name = 'messages'").get or 0))
        self._next_seq = last + 1
        self.gauges = Gauges(
            last, counts.get(PENDING, 0), counts.get(LEASED, 0), counts.get(CONSUMED, 0), counts.get(DEAD, 0)
        )

    def restore(self, gauges: Gauges) -> None:
        """Take the totals back to what they were before a transaction that was rolled back."""
        self.gauges = gauges
        self._next_seq = gauges.received + 1
        self._forgotten = 0

    def append(self, items: Sequence[Checked]) -> list[Outcome]:
        """Store messages that are new and have room; say of each what became of it."""
        if not items:
            return []
        known: dict[bytes, tuple[bytes, int, int]] = {
            key: (fingerprint, seq, received_at)
            for key, fingerprint, seq, received_at in self._execute(*_lookup([item.key for item in items]))
        }
        outcomes: list[Outcome] = []
        messages: list[tuple[object, ...]] = []
        payloads: list[tuple[int, bytes]] = []
        receipts: list[tuple[int, bytes, bytes, int, int | None]] = []
        now = self.clock.now_ms()
        window = self.limits.dedupe_window_ms
        seq = self._next_seq
        room, refusal = self._room(items)
        for item in items:
            seen = known.get(item.key)
            if seen is not None:
                same = seen[0] == item.fingerprint
                outcomes.append(Outcome(Verdict.DUPLICATE if same else Verdict.CONFLICT, seen[1], seen[2]))
                continue
            if room <= 0:
                outcomes.append(Outcome(refusal))
                continue
            room -= 1
            lifetime = int(item.lifetime * 1000)
            messages.append(
                (
                    seq,
                    item.message_id,
                    item.from_cell,
                    item.to_cell,
                    item.message_type,
                    PRIORITIES[item.priority],
                    item.ttl,
                    item.timestamp,
                    now,
                    now + lifetime if item.ttl else None,
                    item.extra,
                )
            )
            payloads.append((seq, item.payload))
            receipts.append((seq, item.key, item.fingerprint, now, now + lifetime if lifetime > window else None))
            known[item.key] = (item.fingerprint, seq, now)
            outcomes.append(Outcome(Verdict.STORED, seq, now))
            seq += 1
        if messages:
            self._insert(_MESSAGES, messages)
            self._insert(_PAYLOADS, payloads)
            self._insert(_RECEIPTS, receipts)
            self._next_seq = seq
            self.gauges.received += len(messages)
            self.gauges.pending += len(messages)
        return outcomes

    def _insert(self, table: str, rows: Sequence[tuple[object, ...]]) -> None:
        """Insert rows, many with one statement.

        Each statement gives the interpreter's lock away and must get it back, against a busy event loop;
        so a group takes one statement a table, not one a row.
        """
        width = len(rows[0])
        position = 0
        while position < len(rows):
            size = min(MAX_ROWS, len(rows) - position)
            values = tuple(chain.from_iterable(rows[position : position + size]))
            self._execute(_values(table, width, size), values)
            position += size

    def upkeep(self) -> bool:
        """Expire, trim and forget, at most ``UPKEEP_ROWS`` rows of each; return whether more is due."""
        now = self.clock.now_ms()
        more = self._expire(now) >= UPKEEP_ROWS
        more |= self._trim(now) >= UPKEEP_ROWS
        more |= self._forget(now) >= UPKEEP_ROWS
        return more

    def shrink(self) -> None:
        """Give free pages back to the file system, some at a time, when many are free. Not in a transaction."""
        free = int(self.connection.pragma("freelist_count"))
        if free > 4 * LOG_PAGES and free * 4 > int(self.connection.pragma("page_count")):
            self._execute("PRAGMA incremental_vacuum(500)").fetchall()

    def reclaim(self, size: int) -> None:
        """Make room when ``size`` bytes more would pass the bound: history goes first. Not in a transaction.

        At most once a second: while an inbox is full, every refused message would ask for it.
        """
        if self._headroom > MAX_GROWTH * size + GROUP_GROWTH or time.monotonic() < self._next_reclaim:
            return
        if self.file_bytes() + size <= self.limits.max_bytes:
            return
        self._next_reclaim = time.monotonic() + 1.0
        with self.connection:
            for state in (DEAD, CONSUMED):
                self._drop(state, "", (), 10 * UPKEEP_ROWS)
        self._execute("PRAGMA incremental_vacuum").fetchall()
        self.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)

    def file_bytes(self) -> int:
        """Return the size of the inbox's files, the write-ahead log included."""
        size = 0
        for path in self._files:
            try:
                size += os.stat(path).st_size  # noqa: PTH116 - on the message path
            except FileNotFoundError:
                continue
        return size

    def _room(self, items: Sequence[Checked]) -> tuple[int, Verdict]:
        """Return how many new messages may be stored, and the verdict on those beyond."""
        size = sum([len(item.payload) for item in items])
        # Far from every bound the file system need not be asked for every group: each question costs the
        # interpreter's lock. What may have been written since the last one is counted instead.
        self._headroom -= MAX_GROWTH * size + GROUP_GROWTH
        if self._headroom > 0:
            return self.limits.max_messages - self.gauges.pending - self.gauges.leased, Verdict.INBOX_FULL
        disk = os.statvfs(self._directory)
        left = disk.f_bavail * disk.f_frsize - self.limits.disk_reserve - size
        if left < 0:
            return 0, Verdict.DISK_FULL
        used = self.file_bytes() + size
        self._headroom = min(left, self.limits.max_bytes - used, MAX_HEADROOM)
        if used > self.limits.max_bytes:
            # Pages that are free inside the file are room as well.
            free = int(self.connection.pragma("freelist_count")) * PAGE
            if used - free > self.limits.max_bytes:
                return 0, Verdict.INBOX_FULL
        return self.limits.max_messages - self.gauges.pending - self.gauges.leased, Verdict.INBOX_FULL

    def _expire(self, now: int) -> int:
        if not self.gauges.pending:
            return 0
        self._execute(
            "UPDATE messages SET state = ?, reason = 'expired', ended_at = ? WHERE seq IN (SELECT seq FROM messages"
            " WHERE state = 0 AND expires_at IS NOT NULL AND expires_at <= ? ORDER BY expires_at LIMIT ?)",
            (DEAD, now, now, UPKEEP_ROWS),
        )
        count = self.connection.changes()
        if count:
            self.gauges.pending -= count
            self.gauges.dead += count
        return count

    def _trim(self, now: int) -> int:
        dropped = 0
        for state, kept in ((DEAD, self.gauges.dead), (CONSUMED, self.gauges.consumed)):
            surplus = min(kept - self.limits.history, UPKEEP_ROWS)
            if surplus > 0:
                dropped += self._drop(state, "", (), surplus)
        if time.monotonic() >= self._next_old:
            # Age is looked at once a minute: it means walking the history, which has no index by age.
            old = sum(
                self._drop(state, " AND ended_at <= ?", (now - self.limits.history_ms,), UPKEEP_ROWS)
                for state in (DEAD, CONSUMED)
            )
            if old < UPKEEP_ROWS:
                self._next_old = time.monotonic() + min(60.0, max(1.0, self.limits.history_ms / 10_000))
            dropped += old
        return dropped

    def _drop(self, state: int, condition: str, values: tuple[int, ...], limit: int) -> int:
        seqs = [
            row[0]
            for row in self._execute(
                # The index holds finished messages only, and SQLite wants to be told that these are.
                f"SELECT seq FROM messages WHERE state >= 2 AND state = ?{condition} ORDER BY seq LIMIT ?",  # noqa: S608 - our own text
                (state, *values, limit),
            )
        ]
        rows = [(seq,) for seq in seqs]
        if rows:
            self._executemany("DELETE FROM messages WHERE seq = ?", rows)
            self._executemany("DELETE FROM payloads WHERE seq = ?", rows)
            if state == DEAD:
                self.gauges.dead -= len(rows)
            else:
                self.gauges.consumed -= len(rows)
        return len(rows)

    def _forget(self, now: int) -> int:
        """Drop deduplication records that are due and whose message is gone.

        Those that live for the window are due in the order of their positions: a cursor walks over them
        and stays where a message is still kept. Those with a longer ttl have an index by their expiry.
        """
        there = "EXISTS (SELECT 1 FROM messages m WHERE m.seq = r.seq)"
        due = now - self.limits.dedupe_window_ms
        gone = []
        later = []
        walked = 0
        # Read lazily: the first record that is not due yet ends the walk, so an idle inbox reads one row.
        for seq, kept, longer_lived, received_at in self._execute(
            f"SELECT r.seq, {there}, r.expires_at IS NOT NULL, r.received_at FROM receipts r"  # noqa: S608 - our own text
            " WHERE r.seq > ? ORDER BY r.seq LIMIT ?",
            (self._forgotten, UPKEEP_ROWS),
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
            f"SELECT r.seq, {there} FROM receipts r WHERE r.expires_at <= ? ORDER BY r.expires_at LIMIT ?",  # noqa: S608 - our own text
            (now, UPKEEP_ROWS),
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

    def _fill_log(self, pages: int) -> None:
        """Bring the write-ahead log to its full length once, before the first message.

        A file that grows makes each fsync write its new length as well; one that is overwritten does not.
        """
        if Path(self._files[1]).exists() and Path(self._files[1]).stat().st_size >= pages * PAGE:
            return
        try:
            with self.connection:
                self._execute("CREATE TABLE filler (filler BLOB)")
                self._execute("INSERT INTO filler VALUES (zeroblob(?))", (pages * PAGE,))
                self._execute("DROP TABLE filler")
            self.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_RESTART)
        except (apsw.FullError, apsw.BusyError):
            return  # it grows as it is used instead

    def _clamp_deadlines(self) -> None:
        # The wall clock may have been set back while no process ran: nothing may live longer than it was given.
        now = self.clock.now_ms()
        with self.connection:
            # The receipt moves along with the deadline: else the next start would take the same step off again.
            for table in ("messages", "receipts"):
                self._execute(
                    f"UPDATE {table} SET expires_at = ? + (expires_at - received_at), received_at = ?"  # noqa: S608 - our own names
                    " WHERE received_at > ?",
                    (now, now, now),
                )
            self._execute("UPDATE messages SET ended_at = ? WHERE ended_at > ?", (now, now))
