"""What is written to the outbox, statement by statement; runs in the writer thread only.

As in the inbox: few statements with many rows, and totals kept beside them. Totals are changed with the
statements and taken back if the transaction is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache, partial
from itertools import chain
from typing import Any

import apsw
import msgspec

from cellmesh.inbox.clock import SteadyClock
from cellmesh.inbox.statements import filled, marks
from cellmesh.inbox.store import MAX_ROWS, Store, Verdict
from cellmesh.inbox.transaction import Transaction
from cellmesh.outbox.outcomes import Outcome, Queued, Refused
from cellmesh.outbox.parcels import DELIVERED, GIVEN, QUEUED, Loaded, Parcel
from cellmesh.protocol.deduplication import id_range
from cellmesh.protocol.queueing import SENT_STATES

COLUMNS = (
    "position", "message_id", "to_cell", "to_instance", "message_type", "priority", "ttl", "queued_at", "expires_at",
    "extra", "flags", "payload", "key", "fingerprint",
)  # fmt: skip
#: A view whose trigger spreads each row over the three tables, as that of the inbox does (inbox/store).
_VIEW = f"""
    CREATE TEMP VIEW queueing AS SELECT {", ".join(f"NULL AS {name}" for name in COLUMNS)};
    CREATE TEMP TRIGGER queue INSTEAD OF INSERT ON queueing WHEN NEW.position IS NOT NULL BEGIN
        INSERT INTO sent_ids (position, key, fingerprint, queued_at)
            VALUES (NEW.position, NEW.key, NEW.fingerprint, NEW.queued_at);
        INSERT INTO sent ({", ".join(COLUMNS[:11])}) VALUES ({", ".join(f"NEW.{name}" for name in COLUMNS[:11])});
        INSERT INTO sent_payloads (position, payload) VALUES (NEW.position, NEW.payload);
    END;
"""
_ROW = f"({','.join('?' * len(COLUMNS))})"
_NO_ROW = (None,) * len(COLUMNS)
_LOADED = (
    "position", "message_id", "to_instance", "message_type", "priority", "ttl", "queued_at", "expires_at",
    "CAST(extra AS TEXT)", "flags", "instance", "uid", "pinned_at", "attempts", "CAST(payload AS TEXT)",
)  # fmt: skip
#: Messages read at a time.
LOAD = 1000

_decode_loaded = msgspec.json.Decoder(list[Loaded]).decode


@lru_cache(maxsize=64)
def _insert_text(size: int) -> str:
    return f"INSERT INTO queueing VALUES {','.join([_ROW] * size)}"


class Sent:
    """The statements of the outbox, and the totals that go with them.

    Args:
        store: of the inbox, whose file it shares.
        max_messages: queued at most.

    """

    def __init__(self, store: Store, max_messages: int) -> None:
        self._store = store
        self.max_messages = max_messages
        self._next_position = 1
        self._opened = False
        #: Messages kept, by state.
        self.kept: list[int] = [0] * len(SENT_STATES)
        #: Messages that ended since the process started, by state.
        self.ended: Counter[int] = Counter()
        #: Attempts since the process started.
        self.attempts = 0
        #: Positions of the messages that are being sent now: they do not expire meanwhile.
        self.under_way: set[int] = set()

    @property
    def clock(self) -> SteadyClock:
        """The clock of the file."""
        return self._store.clock

    @property
    def store(self) -> Store:
        """The inbox's."""
        return self._store

    @property
    def window(self) -> int:
        """How long, ms, a receiver recognises a message that comes again."""
        return self._store.limits.dedupe_window_ms

    def open(self, tx: Transaction) -> list[str]:
        """Prepare, count, and carry what was under way over into this process; return the cells that are sent to.

        Only the first time; a message may be queued before the outbox is opened, which then opens it.
        """
        if not self._opened:
            self._opened = True
            tx.on_rollback(self._close)
            self._prepare(tx)
        return [str(row[0]) for row in tx.execute(f"SELECT DISTINCT to_cell FROM sent WHERE state = {QUEUED}")]

    def _close(self) -> None:
        self._opened = False

    def _prepare(self, tx: Transaction) -> None:
        tx.connection.execute(_VIEW)
        last = tx.execute("SELECT max(seq) FROM sqlite_sequence WHERE name = 'sent'").get
        self._next_position = int(str(last or 0)) + 1
        counts = dict(tx.execute("SELECT state, count(*) FROM sent GROUP BY state"))
        self.kept = [counts.get(state, 0) for state in range(len(SENT_STATES))]
        now = self.clock.now_ms()
        # As in the inbox: nothing may live longer than it was given because the clock was set back.
        tx.execute(
            "UPDATE sent SET queued_at = ?1, expires_at = ?1 + (expires_at - queued_at), pinned_at = min(pinned_at, ?1)"
            " WHERE queued_at > ?1",
            (now,),
        )
        tx.execute("UPDATE sent SET ended_at = ?1 WHERE state >= 1 AND ended_at > ?1", (now,))
        tx.execute("UPDATE sent_ids SET queued_at = ?1 WHERE queued_at > ?1", (now,))
        # What had an instance when the process ended may be there; one that never expires does from now on.
        tx.execute(
            f"UPDATE sent SET expires_at = pinned_at + ?1 WHERE state = {QUEUED} AND instance IS NOT NULL AND ttl = 0"
            " AND expires_at IS NULL",
            (self.window,),
        )

    def refusal(self, messages: int, size: int) -> Verdict | None:
        """Return why so many messages more, of so many bytes, cannot be queued; None if they can."""
        if messages > self.max_messages - self.kept[QUEUED]:
            return Verdict.INBOX_FULL
        return self._store.space(size)

    def put(self, tx: Transaction, units: Sequence[Sequence[Parcel]]) -> list[list[Outcome]]:
        """Queue messages; those of one unit all or none of them, but for repeats."""
        if not self._opened:
            self.open(tx)
        tx.on_rollback(partial(self._restore, self._next_position, list(self.kept)))
        refusal = self._store.space(sum(parcel.size for unit in units for parcel in unit))
        repeats = any(unit[0].copy and unit[0].given for unit in units)
        if refusal is None and not repeats and self.max_messages - self.kept[QUEUED] >= sum(map(len, units)):
            done = self._put_new(tx, units)
            if done is not None:
                return done
        return [self._put_unit(tx, unit, refusal) for unit in units]

    def _put_new(self, tx: Transaction, units: Sequence[Sequence[Parcel]]) -> list[list[Outcome]] | None:
        """Queue messages that are all new; None if one is not."""
        parcels = list(chain.from_iterable(units))
        first = self._next_position
        try:
            for start in range(0, len(parcels), MAX_ROWS):
                self._insert(tx, parcels[start : start + MAX_ROWS])
        except apsw.ConstraintError:
            if self._next_position == first:
                return None  # nothing was inserted
            tx.execute("DELETE FROM sent WHERE position >= ?", (first,))
            tx.execute("DELETE FROM sent_payloads WHERE position >= ?", (first,))
            tx.execute("DELETE FROM sent_ids WHERE position >= ?", (first,))
            self.kept[QUEUED] -= self._next_position - first
            self._next_position = first
            return None
        new = Outcome(Verdict.STORED)
        return [[new] * len(unit) for unit in units]

    def _put_unit(self, tx: Transaction, unit: Sequence[Parcel], refusal: Verdict | None) -> list[Outcome]:
        """Queue one unit; those of it that are known already stay as they are."""
        if unit[0].copy and unit[0].given:
            repeat = self._repeat(tx, unit)
            if repeat is not None:
                return repeat
        known: dict[bytes, tuple[bytes, Outcome]] = {}
        keys = [parcel.key() for parcel in unit]
        for start in range(0, len(keys), MAX_ROWS):
            part = keys[start : start + MAX_ROWS]
            for key, fingerprint, state, queued_at in tx.execute(
                "SELECT i.key, i.fingerprint, s.state, i.queued_at FROM sent_ids i LEFT JOIN sent s"
                f" ON s.position = i.position WHERE i.key IN ({','.join('?' * len(part))})",
                part,
            ):
                known[key] = fingerprint, Outcome(Verdict.DUPLICATE, state, queued_at)
        outcomes: list[Outcome] = []
        new: list[Parcel] = []
        for key, parcel in zip(keys, unit, strict=True):
            if key in known:
                fingerprint, outcome = known[key]
                same = not fingerprint or fingerprint == parcel.fingerprint
                outcomes.append(outcome if same else Outcome(Verdict.CONFLICT))
                continue
            known[key] = parcel.fingerprint, Outcome(Verdict.DUPLICATE, QUEUED, parcel.queued_at)
            outcomes.append(Outcome(Verdict.STORED))
            new.append(parcel)
        if new and refusal is None and len(new) > self.max_messages - self.kept[QUEUED]:
            refusal = Verdict.INBOX_FULL
        if refusal is not None:
            return [Outcome(refusal) if one.verdict is Verdict.STORED else one for one in outcomes]
        for start in range(0, len(new), MAX_ROWS):
            self._insert(tx, new[start : start + MAX_ROWS])
        return outcomes

    def _repeat(self, tx: Transaction, unit: Sequence[Parcel]) -> list[Outcome] | None:
        """Return the outcomes of copies whose id is known; None if it is not.

        Whoever the receivers are now: those of the first time are what counts.
        """
        message_id = unit[0].message.message_id
        known = {
            key: (fingerprint, queued_at)
            for key, fingerprint, queued_at in tx.execute(
                "SELECT key, fingerprint, queued_at FROM sent_ids WHERE key >= ? AND key < ?", id_range(message_id)
            )
            if len(key) == len(unit[0].key())  # others' ids may begin like this one
        }
        if not known:
            return None
        fingerprint = unit[0].fingerprint
        if any(first and first != fingerprint for first, _ in known.values()):
            return [Outcome(Verdict.CONFLICT)] * len(unit)
        queued_at = min(at for _, at in known.values())
        return [Outcome(Verdict.DUPLICATE, None, queued_at)] * len(unit)

    def _insert(self, tx: Transaction, parcels: Sequence[Parcel]) -> None:
        values: list[Any] = []
        position = self._next_position
        for number, parcel in enumerate(parcels):
            values += parcel.row(position + number)
        size = len(parcels) if len(parcels) <= 8 else -(-len(parcels) // 8) * 8
        for _ in range(size - len(parcels)):
            values += _NO_ROW
        small = sum(parcel.size for parcel in parcels) <= MAX_ROWS * 1024
        tx.execute(_insert_text(size), values, can_cache=small)
        for number, parcel in enumerate(parcels):
            parcel.position = position + number
        self._next_position += len(parcels)
        self.kept[QUEUED] += len(parcels)

    def begin(
        self, tx: Transaction, positions: Sequence[int], instance: str, uid: str | None, url: str
    ) -> frozenset[int]:
        """Note that an attempt begins; return the messages that are queued no more."""
        now = self.clock.now_ms()
        tx.execute(
            "UPDATE sent SET instance = ?, uid = ?, target_url = ?, attempted_at = ?, attempts = attempts + 1,"
            f" pinned_at = coalesce(pinned_at, ?) WHERE position IN ({marks(positions)}) AND state = {QUEUED}",
            (instance, uid, url, now, now, *filled(positions)),
        )
        begun = tx.connection.changes()
        tx.on_commit(partial(self._attempted, begun))
        gone: frozenset[int] = frozenset()
        if begun != len(positions):
            still = tx.execute(
                f"SELECT position FROM sent WHERE position IN ({marks(positions)}) AND state = {QUEUED}",
                filled(positions),
            )
            gone = frozenset(positions) - {int(str(row[0])) for row in still}
        begins = [position for position in positions if position not in gone]
        tx.on_commit(partial(self.under_way.update, begins))
        return gone

    def finish(self, tx: Transaction, delivered: Sequence[int], refused: Sequence[Refused]) -> None:
        """Note how attempts ended."""
        tx.on_rollback(partial(self._restore, self._next_position, list(self.kept)))
        now = self.clock.now_ms()
        for start in range(0, len(delivered), MAX_ROWS):
            part = delivered[start : start + MAX_ROWS]
            tx.execute(
                f"UPDATE sent SET state = {DELIVERED}, ended_at = ?, code = NULL, error = NULL"
                f" WHERE position IN ({marks(part)})",
                (now, *filled(part)),
            )
            tx.execute(f"DELETE FROM sent_payloads WHERE position IN ({marks(part)})", filled(part))
        self._ended(tx, DELIVERED, len(delivered))
        for one in refused:
            for start in range(0, len(one.positions), MAX_ROWS):
                part = one.positions[start : start + MAX_ROWS]
                # One that never expires does once it may have been stored: after the time in which that would show.
                tx.execute(
                    "UPDATE sent SET state = ?1, code = ?2, error = ?3, ended_at = ?4,"
                    " expires_at = CASE WHEN ttl != 0 THEN expires_at WHEN ?5 THEN pinned_at + ?6 END,"
                    " instance = CASE WHEN ?5 THEN instance END, uid = CASE WHEN ?5 THEN uid END,"
                    f" pinned_at = CASE WHEN ?5 THEN pinned_at END WHERE position IN ({marks(part)})",
                    (
                        one.state,
                        one.code,
                        one.error,
                        None if one.state == QUEUED else now,
                        one.pinned,
                        self.window,
                        *filled(part),
                    ),
                )
            if one.state != QUEUED:
                self._ended(tx, one.state, len(one.positions))
        tx.on_commit(partial(self.under_way.difference_update, delivered, *(one.positions for one in refused)))

    def load(self, tx: Transaction, cell: str, priority: int, start: int, instances: Sequence[str]) -> Queued:
        """Return what is queued to instances of a cell, from a position on; in one row, see ``inbox/store``."""
        names = ",".join("?" * len(instances))
        rows = str(
            tx.execute(
                f"SELECT json_group_array(json_array({', '.join(_LOADED)})) FROM (SELECT s.*, p.payload FROM sent s"
                f" JOIN sent_payloads p ON p.position = s.position WHERE s.state = {QUEUED} AND s.to_cell = ?"
                f" AND s.priority = ? AND s.position >= ? AND s.to_instance IN ('',{names})"
                f" AND (s.instance IS NULL OR s.instance IN ({names})) ORDER BY s.position LIMIT {LOAD})",
                (cell, priority, start, *instances, *instances),
            ).get
        )
        messages = sorted(_decode_loaded(rows), key=lambda one: one.position)
        return Queued(messages, messages[-1].position + 1 if len(messages) == LOAD else None)

    def waits_for(self, tx: Transaction, cell: str) -> bool:
        """Tell whether anything is queued to a cell."""
        return bool(
            tx.execute(f"SELECT EXISTS (SELECT 1 FROM sent WHERE state = {QUEUED} AND to_cell = ?)", (cell,)).get
        )

    def end(self, tx: Transaction, state: int, positions: Sequence[int]) -> None:
        """Note that queued messages have ended."""
        if not positions:
            return
        tx.on_rollback(partial(self._restore, self._next_position, list(self.kept)))
        tx.execute(
            f"UPDATE sent SET state = ?, ended_at = ? WHERE position IN ({marks(positions)})",
            (state, self.clock.now_ms(), *filled(positions)),
        )
        self._ended(tx, state, len(positions))

    def requeue(self, tx: Transaction, position: int, state: int) -> int:
        """Queue a message again that has ended, behind all others; return its new position."""
        tx.on_rollback(partial(self._restore, self._next_position, list(self.kept)))
        now = self.clock.now_ms()
        new = self._next_position
        tx.execute(
            f"UPDATE sent SET position = ?1, state = {QUEUED}, queued_at = ?2, attempts = 0, ended_at = NULL,"
            " pinned_at = CASE WHEN instance IS NOT NULL THEN ?2 END,"
            " expires_at = CASE WHEN ttl != 0 THEN ?2 + CAST(ttl * 1000 AS INTEGER)"
            " WHEN instance IS NOT NULL THEN ?2 + ?3 END WHERE position = ?4",
            (new, now, self.window, position),
        )
        tx.execute("UPDATE sent_payloads SET position = ? WHERE position = ?", (new, position))
        tx.execute("UPDATE sent_ids SET position = ?, queued_at = ? WHERE position = ?", (new, now, position))
        tx.execute("UPDATE sqlite_sequence SET seq = ? WHERE name = 'sent'", (new,))
        self._next_position += 1
        self.kept[state] -= 1
        self.kept[QUEUED] += 1
        return new

    def drop(self, tx: Transaction, state: int, positions: Sequence[int]) -> None:
        """Forget messages that have ended; what tells a repeat stays where the caller has given the id."""
        if not positions:
            return
        tx.on_rollback(partial(self._restore, self._next_position, list(self.kept)))
        here = f"position IN ({marks(positions)})"
        tx.execute(
            f"DELETE FROM sent_ids WHERE position IN (SELECT position FROM sent WHERE {here}"
            f" AND (NOT flags & {GIVEN} OR queued_at <= ?))",
            (*filled(positions), self.clock.now_ms() - self.window),
        )
        tx.execute(f"DELETE FROM sent WHERE {here}", filled(positions))
        if state != DELIVERED:
            tx.execute(f"DELETE FROM sent_payloads WHERE {here}", filled(positions))
        self.kept[state] -= len(positions)

    def _ended(self, tx: Transaction, state: int, count: int) -> None:
        self.kept[QUEUED] -= count
        self.kept[state] += count
        if count:
            tx.on_commit(partial(self._count, state, count))

    def _attempted(self, count: int) -> None:
        self.attempts += count

    def _count(self, state: int, count: int) -> None:
        self.ended[state] += count

    def _restore(self, position: int, kept: list[int]) -> None:
        self._next_position, self.kept = position, kept
