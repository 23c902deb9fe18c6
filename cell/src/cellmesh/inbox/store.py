"""What is written to the inbox, statement by statement; runs in the writer thread only."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import apsw
import msgspec

from cellmesh.inbox.clock import SteadyClock
from cellmesh.inbox.files import DATABASE
from cellmesh.protocol.messages import Checked, Special

PENDING, LEASED, CONSUMED, DEAD = range(4)
PRIORITIES = {"low": 0, "normal": 1, "high": 2, "critical": 3}

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
MAX_ROWS = 256
#: Where messages arrive: a view of this connection whose trigger spreads each row over the three tables.
#: One statement then stores a whole group. Each statement gives the interpreter's lock away and must get
#: it back against a busy event loop, which costs more than the statement; and a statement outside a
#: transaction is one, so that no BEGIN and COMMIT are needed.
_COLUMNS = (
    "seq", "message_id", "from_cell", "to_cell", "message_type", "priority", "ttl", "timestamp", "received_at",
    "expires_at", "extra", "payload", "key", "fingerprint", "forgotten_at",
)  # fmt: skip
_ARRIVALS = f"""
    CREATE TEMP VIEW arrivals AS SELECT {", ".join(f"NULL AS {name}" for name in _COLUMNS)};
    CREATE TEMP TRIGGER arrive INSTEAD OF INSERT ON arrivals WHEN NEW.seq IS NOT NULL BEGIN
        INSERT INTO receipts (seq, key, fingerprint, received_at, expires_at)
            VALUES (NEW.seq, NEW.key, NEW.fingerprint, NEW.received_at, NEW.forgotten_at);
        INSERT INTO messages ({", ".join(_COLUMNS[:11])}) VALUES ({", ".join(f"NEW.{name}" for name in _COLUMNS[:11])});
        INSERT INTO payloads (seq, payload) VALUES (NEW.seq, NEW.payload);
    END;
"""
_ROW = f"({','.join('?' * len(_COLUMNS))})"
_NO_ROW = (None,) * len(_COLUMNS)
_PAYLOAD = _COLUMNS.index("payload")
#: Gives messages that were just stored another state or another past than that of one which arrives.
_SPECIAL = ("state", "ended_at", "available_at", "moving_to", "received_at", "deliveries", "log")
_SET_APART = (
    "UPDATE messages SET "
    + ", ".join(f"{name} = json_extract(j.value, '$[{number}]')" for number, name in enumerate(_SPECIAL, 1))
    + " FROM json_each(?) AS j WHERE messages.seq = json_extract(j.value, '$[0]')"
)
#: Bytes of payloads above which a statement is prepared anew each time: beside them that is nothing.
MAX_KEPT = 256 * 1024


@lru_cache(maxsize=MAX_ROWS)
def _insert_text(size: int) -> str:
    return f"INSERT INTO arrivals VALUES {','.join([_ROW] * size)}"


@lru_cache(maxsize=32)
def _lookup_text(size: int) -> str:
    return f"SELECT key, fingerprint, seq, received_at FROM receipts WHERE key IN ({','.join('?' * size)})"


def _lookup(keys: list[bytes]) -> tuple[str, list[bytes]]:
    """Return the query for deduplication records, filled up to a power of two: few are ever prepared."""
    size = 1 << (len(keys) - 1).bit_length()
    return _lookup_text(size), keys + keys[-1:] * (size - len(keys))


def _brings_itself(item: Checked) -> bool:
    """Tell whether a message is handed over by a sibling: a mere record of it does not stand for it."""
    return item.special is not None and item.special.handed_by is not None


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
    max_deliveries: int = 5


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

    Every method that changes something runs inside a transaction of the caller, unless it says otherwise;
    after a rollback the caller calls ``restore``.
    """

    def __init__(self, connection: apsw.Connection, directory: Path, limits: InboxLimits, clock: SteadyClock) -> None:
        self.connection = connection
        self.limits = limits
        self.clock = clock
        self._directory = directory
        self._files = (str(directory / DATABASE), str(directory / f"{DATABASE}-wal"))
        self._execute = connection.execute
        self._next_seq = 0
        #: Bytes that may be written before the file system is asked again how much room there is.
        self.headroom = 0
        self.gauges = Gauges()
        # A small inbox must not be filled by its write-ahead log.
        pages = max(50, min(LOG_PAGES, limits.max_bytes // 16 // PAGE))
        connection.pragma("wal_autocheckpoint", pages)
        connection.pragma("journal_size_limit", pages * PAGE * 4)
        # The view below is in the temporary schema: in memory, for the root file system may be read-only.
        connection.pragma("temp_store", 2)
        connection.execute(_ARRIVALS)
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

    def append_new(self, items: Sequence[Checked]) -> list[Outcome] | None:
        """Store messages with one statement, which is a transaction of its own; None if that cannot be.

        It cannot if there is not room for all, or one of them is known already, which is rare: ``append``
        then finds out which.
        """
        if not 0 < len(items) <= MAX_ROWS or self._room(items)[0] < len(items):
            return None
        now = self.clock.now_ms()
        values: list[Any] = []
        for seq, item in enumerate(items, self._next_seq):
            if item.special is not None:
                return None
            values += self._row(item, seq, now)
        try:
            self._insert(values, len(items))
        except apsw.ConstraintError:
            return None
        first = self._next_seq
        self._stored(len(items))
        return [Outcome(Verdict.STORED, seq, now) for seq in range(first, self._next_seq)]

    def repeat(self, item: Checked) -> Outcome | None:
        """Return what is said of a message that is known already; None if it is not."""
        for _, fingerprint, seq, received_at in self._execute(*_lookup([item.key])):
            verdict = Verdict.DUPLICATE if fingerprint == item.fingerprint else Verdict.CONFLICT
            return Outcome(verdict, int(str(seq)), int(str(received_at)))
        return None

    def append(self, items: Sequence[Checked]) -> list[Outcome]:
        """Store messages that are new and have room, in order up to that; say of each what became of it."""
        if not items:
            return []
        known: dict[bytes, tuple[bytes, int, int]] = {
            key: (fingerprint, seq, received_at)
            for key, fingerprint, seq, received_at in self._execute(*_lookup([item.key for item in items]))
        }
        outcomes: list[Outcome] = []
        rows: list[tuple[object, ...]] = []
        special: list[tuple[int, Special]] = []
        replaced: list[bytes] = []
        now = self.clock.now_ms()
        seq = self._next_seq
        room, refusal = self._room(items)
        for item in items:
            seen = known.get(item.key)
            if seen is not None:
                same = seen[0] == item.fingerprint
                if not (same and seen[1] < 0 and _brings_itself(item)):
                    outcomes.append(Outcome(Verdict.DUPLICATE if same else Verdict.CONFLICT, seen[1], seen[2]))
                    continue
            if room <= 0:
                outcomes.append(Outcome(refusal))
                continue
            room -= 1
            if seen is not None:
                replaced.append(item.key)
            rows.append(self._row(item, seq, now))
            known[item.key] = (item.fingerprint, seq, now)
            outcomes.append(Outcome(Verdict.STORED, seq, now - (item.special.age_ms if item.special else 0)))
            if item.special is not None:
                special.append((seq, item.special))
            seq += 1
        if replaced:
            self._execute(f"DELETE FROM receipts WHERE key IN ({','.join('?' * len(replaced))})", replaced)
        for start in range(0, len(rows), MAX_ROWS):
            part = rows[start : start + MAX_ROWS]
            self._insert(list(chain.from_iterable(part)), len(part))
        self._stored(len(rows))
        if special:
            self._set_apart(special, now)
        return outcomes

    def _set_apart(self, special: Sequence[tuple[int, Special]], now: int) -> None:
        """Change messages that have just been stored into what they are to be."""
        changes = []
        for seq, how in special:
            held = how.delay and not how.consumed
            changes.append(
                (
                    seq,
                    CONSUMED if how.consumed else PENDING,
                    now if how.consumed else None,
                    now + int(how.delay * 1000) if held else None,
                    None if how.consumed else how.moving_to,
                    now - how.age_ms,
                    how.delivery_count,
                    how.log,
                )
            )
        self._execute(_SET_APART, (msgspec.json.encode(changes).decode(),))
        consumed = sum(how.consumed for _, how in special)
        self.gauges.pending -= consumed
        self.gauges.consumed += consumed

    def _row(self, item: Checked, seq: int, now: int) -> tuple[object, ...]:
        """Return the values of ``_COLUMNS`` for a message."""
        lifetime = int(item.lifetime * 1000)
        return (
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
            item.payload,
            item.key,
            item.fingerprint,
            now + lifetime if lifetime > self.limits.dedupe_window_ms else None,
        )

    def _insert(self, values: list[Any], rows: int) -> None:
        # A statement that is kept keeps what was bound to it last.
        small = sum(map(len, values[_PAYLOAD :: len(_COLUMNS)])) <= MAX_KEPT
        # Rounded up with rows that the trigger passes over: few different statements are ever prepared.
        size = rows if rows <= 8 else -(-rows // 8) * 8
        for _ in range(size - rows):
            values += _NO_ROW
        self._execute(_insert_text(size), values, can_cache=small)

    def _stored(self, count: int) -> None:
        self._next_seq += count
        self.gauges.received += count
        self.gauges.pending += count

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
        refusal = self.space(sum([len(item.payload) for item in items]))
        if refusal is not None:
            return 0, refusal
        return self.limits.max_messages - self.gauges.pending - self.gauges.leased, Verdict.INBOX_FULL

    def space(self, size: int) -> Verdict | None:
        """Return why there is no room for ``size`` bytes more in the files, or None if there is."""
        # Far from every bound the file system need not be asked for every group: each question costs the
        # interpreter's lock. What may have been written since the last one is counted instead.
        self.headroom -= MAX_GROWTH * size + GROUP_GROWTH
        if self.headroom > 0:
            return None
        disk = os.statvfs(self._directory)
        left = disk.f_bavail * disk.f_frsize - self.limits.disk_reserve - size
        if left < 0:
            return Verdict.DISK_FULL
        used = self.file_bytes() + size
        self.headroom = min(left, self.limits.max_bytes - used, MAX_HEADROOM)
        if used > self.limits.max_bytes:
            # Pages that are free inside the file are room as well.
            free = int(self.connection.pragma("freelist_count")) * PAGE
            if used - free > self.limits.max_bytes:
                return Verdict.INBOX_FULL
        return None

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
            self._execute(
                "UPDATE messages SET available_at = ?1 + (available_at - max(coalesce(leased_at, 0), received_at))"
                " WHERE available_at IS NOT NULL AND max(coalesce(leased_at, 0), received_at) > ?1",
                (now,),
            )
            # The receipt moves along with the deadline: else the next start would take the same step off again.
            # A dead letter that was put back had its whole ttl from then, not from its receipt.
            self._execute(
                "UPDATE messages SET received_at = min(received_at, ?1),"
                " expires_at = min(expires_at - max(received_at - ?1, 0), ?1 + CAST(ttl * 1000 AS INTEGER))"
                " WHERE received_at > ?1 OR expires_at > ?1 + CAST(ttl * 1000 AS INTEGER)",
                (now,),
            )
            self._execute(
                "UPDATE receipts SET expires_at = ?1 + (expires_at - received_at), received_at = ?1"
                " WHERE received_at > ?1",
                (now,),
            )
            self._execute("UPDATE messages SET ended_at = ? WHERE ended_at > ?", (now, now))
