"""Messages that go to a sibling, another instance of the cell, and those that come from one: statements of the writer.

A message that is meant for a sibling has ``moving_to``. From when it begins to be sent it has ``moving_since`` as
well: it may be there now, so that only this sibling is asked about it, and it is deleted here only once that sibling
has said that it has it. The records by which repeats are recognised stay; the sibling gets some of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import apsw
import msgspec
from msgspec import Raw

from cellmesh.inbox import rows
from cellmesh.inbox.clock import iso
from cellmesh.inbox.leasing import Leasing
from cellmesh.inbox.ready import Position
from cellmesh.inbox.statements import LOG, entry, filled, marks
from cellmesh.inbox.store import CONSUMED, PENDING, PRIORITIES, Outcome, Store, Verdict
from cellmesh.inbox.transaction import Transaction
from cellmesh.protocol.fields import Priority
from cellmesh.protocol.handover import HandedMessage, HandedRecord
from cellmesh.protocol.messages import CellMessage, Checked, Extra
from cellmesh.protocol.receipts import Transition

#: Rows that are looked at for one lot of messages at most, and one lot of records.
MAX_LOT = 256
MAX_RECORDS = 1000
#: Siblings that are looked at at the same time at most: anybody may send messages for instances of any name.
MAX_NAMES = 1000
#: Bytes that a record takes in the files, about.
RECORD_BYTES = 200
#: A position after all others.
NEWEST = 2**62

_SELECT = (
    f"SELECT {rows.COLUMNS}, m.expires_at FROM messages m JOIN payloads p ON p.seq = m.seq WHERE m.state = {PENDING}"
)
_EXPIRES_AT = -1
_decode_log = msgspec.json.Decoder(list[Transition]).decode


class Moving(NamedTuple):
    """A message on its way to a sibling: its position here, its size in bytes, and what is sent."""

    seq: int
    size: int
    handed: HandedMessage


@dataclass
class Lot:
    """Messages that go to one sibling together.

    ``maybe`` says that an attempt was begun before: the sibling may have them.
    """

    sibling: str
    messages: list[Moving] = field(default_factory=list)
    maybe: bool = False


class Records(NamedTuple):
    """Records of messages that are no longer here, and before which position to go on; None: at none."""

    records: list[HandedRecord]
    before: int | None


class Siblings:
    """What an inbox passes to the siblings of its instance, and takes from them.

    Args:
        store: the inbox.
        leasing: its leases, which hand out what comes back.

    """

    def __init__(self, store: Store, leasing: Leasing) -> None:
        self._store = store
        self._leasing = leasing
        #: Where the next pending messages are looked for, by priority.
        self._cursors: dict[int, int] = {}

    def waited_for(self, tx: Transaction) -> dict[str, int]:
        """Return siblings that messages here are for, with their number; not all of them where they are very many."""
        found = tx.execute(
            f"SELECT moving_to, count(*) FROM messages WHERE moving_to IS NOT NULL AND state = {PENDING}"
            " GROUP BY moving_to LIMIT ?",
            (MAX_NAMES,),
        )
        return {str(name): int(str(count)) for name, count in found}

    def begun(self, tx: Transaction, sibling: str, size: int, after: int = 0) -> Lot:
        """Return messages that a sibling may have, up to so many bytes, behind a position."""
        found = tx.execute(
            f"{_SELECT} AND m.moving_to = ? AND m.moving_since IS NOT NULL AND m.seq > ? ORDER BY m.seq LIMIT ?",
            (sibling, after, MAX_LOT),
        )
        lot = Lot(sibling, maybe=True)
        self._fill(lot, found, size)
        return lot

    def kept(self, tx: Transaction, sibling: str, size: int) -> Lot:
        """Begin to send messages that are kept for a sibling, up to so many bytes."""
        found = tx.execute(
            f"{_SELECT} AND m.moving_to = ? AND m.moving_since IS NULL AND (m.expires_at IS NULL OR m.expires_at > ?)"
            " ORDER BY m.seq LIMIT ?",
            (sibling, self._store.clock.now_ms(), MAX_LOT),
        )
        lot = Lot(sibling)
        self._fill(lot, found, size)
        self._begin(tx, lot)
        return lot

    def pending(self, tx: Transaction, sibling: str, size: int, ready: Sequence[str], stuck: Sequence[int]) -> Lot:
        """Begin to send any pending messages to a sibling, up to so many bytes: highest priority first.

        Args:
            tx: the transaction.
            sibling: who gets them.
            size: bytes at most, but for one message.
            ready: siblings that are ready: what is kept for one of them is its own.
            stuck: positions of messages that no sibling takes.

        """
        lot = Lot(sibling)
        names = ",".join("?" * len(ready))
        for priority in sorted(PRIORITIES.values(), reverse=True):
            found = tx.execute(
                f"{_SELECT} AND m.priority = ? AND m.seq > ? AND m.moving_since IS NULL"
                f" AND (m.moving_to IS NULL OR m.moving_to NOT IN ({names}))"
                " AND (m.expires_at IS NULL OR m.expires_at > ?) ORDER BY m.seq LIMIT ?",
                (priority, self._cursors.get(priority, 0), *ready, self._store.clock.now_ms(), MAX_LOT + len(stuck)),
            )
            last = self._fill(lot, found, size, stuck)
            if lot.messages:
                self._cursors[priority] = last
                break
        else:
            # From the first one again: some may have come back meanwhile.
            self._cursors.clear()
        self._begin(tx, lot)
        return lot

    def arrived(self, tx: Transaction, seqs: Sequence[int]) -> None:
        """Delete messages that a sibling has."""
        if not seqs:
            return
        gone = tx.execute(
            f"DELETE FROM messages WHERE seq IN ({marks(seqs)}) AND state = {PENDING} AND moving_since IS NOT NULL"
            " RETURNING seq",
            filled(seqs),
        ).fetchall()
        if gone:
            found = [int(str(row[0])) for row in gone]
            tx.execute(f"DELETE FROM payloads WHERE seq IN ({marks(found)})", filled(found))
        self._store.gauges.pending -= len(gone)

    def returned(self, tx: Transaction, lot: Lot, seqs: Sequence[int], here: str | None) -> None:
        """Take back messages that a sibling certainly does not have.

        Args:
            tx: the transaction.
            lot: where they belong to.
            seqs: their positions.
            here: this instance: those that are for another are kept for it, as before; None: all are pending.

        """
        chosen = set(seqs)
        free: list[int] = []
        for moving in lot.messages:
            if moving.seq not in chosen:
                continue
            meant = moving.handed.message.for_instance
            if here is None or meant is None or meant == here:
                free.append(moving.seq)
            else:
                tx.execute(
                    f"UPDATE messages SET moving_to = ?, moving_since = NULL WHERE seq = ? AND state = {PENDING}",
                    (meant, moving.seq),
                )
        self._free(tx, free, None)

    def given_up(self, tx: Transaction, sibling: str, why: str) -> int:
        """Make messages for a sibling that will not come again pending here; return how many there were."""
        found = tx.execute(
            f"SELECT seq FROM messages WHERE moving_to = ? AND state = {PENDING} ORDER BY seq LIMIT ?",
            (sibling, MAX_LOT),
        ).fetchall()
        self._free(tx, [int(str(row[0])) for row in found], why)
        return len(found)

    def records(self, tx: Transaction, before: int = NEWEST) -> Records:
        """Return records of messages that are no longer waiting here, before a position, newest first."""
        now = self._store.clock.now_ms()
        window = self._store.limits.dedupe_window_ms
        found: list[tuple[Any, ...]] = tx.execute(
            "SELECT r.seq, r.key, r.fingerprint, r.received_at, coalesce(r.expires_at, r.received_at + ?)"
            " FROM receipts r WHERE r.seq < ? AND NOT EXISTS"
            f" (SELECT 1 FROM messages m WHERE m.seq = r.seq AND m.state < {CONSUMED}) ORDER BY r.seq DESC LIMIT ?",
            (window, before, MAX_RECORDS),
        ).fetchall()
        records = [_record(row, now) for row in found if row[4] > now]
        return Records(records, int(str(found[-1][0])) if len(found) == MAX_RECORDS else None)

    def take(self, tx: Transaction, items: Sequence[Checked], from_instance: str, here: str) -> list[Outcome]:
        """Store messages that a sibling hands over to this instance; say of each what became of it."""
        self._forget_moved(tx, [item for item in items if _was_handed_over(item, here)])
        outcomes = self._store.append(items)
        back = [outcome.seq for outcome in outcomes if outcome.verdict is Verdict.DUPLICATE and outcome.seq > 0]
        tx.on_commit(partial(self._leasing.arrived, list(items), outcomes))
        if back:
            # What was on its way to that sibling is known to have been there, and is back.
            found = tx.execute(
                f"SELECT seq FROM messages WHERE seq IN ({marks(back)}) AND state = {PENDING} AND moving_to = ?"
                " AND moving_since IS NOT NULL",
                (*filled(back), from_instance),
            ).fetchall()
            self._free(tx, [int(str(row[0])) for row in found], f"came back from {from_instance}")
        return outcomes

    def _forget_moved(self, tx: Transaction, items: Sequence[Checked]) -> None:
        """Forget messages that were here, were handed over and come back: they are not duplicates of anything."""
        for item in items:
            tx.execute(
                "DELETE FROM receipts WHERE key = ? AND fingerprint = ? AND seq > 0"
                " AND seq NOT IN (SELECT seq FROM messages)",
                (item.key, item.fingerprint),
            )

    def take_records(self, tx: Transaction, records: Sequence[HandedRecord]) -> Verdict | None:
        """Keep records that a sibling hands over, below all positions; return why there is no room, if there is none.

        A message of theirs is not here: should it be handed over by somebody, it takes the place of its record.
        """
        refusal = self._store.space(RECORD_BYTES * len(records))
        if refusal is not None:
            return refusal
        now = self._store.clock.now_ms()
        lowest = min(0, int(str(tx.execute("SELECT min(seq) FROM receipts").get or 0)))
        for start in range(0, len(records), MAX_LOT):
            part = records[start : start + MAX_LOT]
            values: list[Any] = []
            for number, record in enumerate(part, start + 1):
                key = record.message_id.encode() + b"\0" + bytes.fromhex(record.sender)
                fingerprint = bytes.fromhex(record.fingerprint)
                values += (lowest - number, key, fingerprint, now - int(record.age_ms), now + int(record.keep_ms))
            tx.execute(
                "INSERT OR IGNORE INTO receipts (seq, key, fingerprint, received_at, expires_at) VALUES "
                + ",".join(["(?,?,?,?,?)"] * len(part)),
                values,
            )
        return None

    def _fill(self, lot: Lot, found: apsw.Cursor, size: int, stuck: Sequence[int] = ()) -> int:
        """Put rows into a lot until it has so many bytes; return the position of the last one."""
        now = self._store.clock.now_ms()
        total = last = 0
        for row in found:
            if row[rows.SEQ] in stuck:
                continue
            length = len(row[rows.PAYLOAD])
            if lot.messages and (total + length > size or len(lot.messages) >= MAX_LOT):
                break
            total += length
            last = row[rows.SEQ]
            lot.messages.append(Moving(last, length, _handed(row, now)))
        # What was not read is read no more: the same rows are about to be changed.
        found.close()
        return last

    def _begin(self, tx: Transaction, lot: Lot) -> None:
        """Note that messages may be with a sibling from now on: before their first byte leaves."""
        seqs = [moving.seq for moving in lot.messages]
        if seqs:
            tx.execute(
                f"UPDATE messages SET moving_to = ?, moving_since = ? WHERE seq IN ({marks(seqs)})",
                (lot.sibling, self._store.clock.now_ms(), *filled(seqs)),
            )

    def _free(self, tx: Transaction, seqs: Sequence[int], why: str | None) -> None:
        """Make messages pending for anybody again."""
        if not seqs:
            return
        log, values = ("", ()) if why is None else (f", {LOG}", (entry("pending", self._store.clock.now_ms(), why),))
        found = tx.execute(
            "UPDATE messages SET moving_to = NULL, moving_since = NULL"
            f"{log} WHERE seq IN (SELECT value FROM json_each(?)) AND state = {PENDING}"
            " RETURNING seq, priority, message_type, coalesce(available_at, 0)",
            (*values, msgspec.json.encode(seqs).decode()),
        ).fetchall()
        for seq, priority, message_type, available_at in sorted(found):
            position = Position(int(str(seq)), int(str(priority)), str(message_type))
            tx.on_commit(partial(self._leasing.made_pending, position, int(str(available_at))))


def _handed(row: tuple[Any, ...], now: int) -> HandedMessage:
    """Return a row as it is handed over."""
    extra = rows.decode_extra(row[rows.EXTRA]) if row[rows.EXTRA] is not None else Extra()
    expires_at, available_at, log = row[_EXPIRES_AT], row[rows.AVAILABLE_AT], row[rows.LOG]
    message = CellMessage(
        message_id=row[rows.MESSAGE_ID],
        from_cell=row[rows.FROM_CELL],
        to_cell=row[rows.TO_CELL],
        message_type=row[rows.MESSAGE_TYPE],
        payload=Raw(row[rows.PAYLOAD]),
        timestamp=row[rows.TIMESTAMP],
        priority=Priority(rows.PRIORITY_NAMES[row[rows.PRIORITY]]),
        ttl=row[rows.TTL],
        ttl_remaining=max(0, expires_at - now) / 1000 if expires_at is not None else None,
        **msgspec.structs.asdict(extra),
    )
    return HandedMessage(
        message=message,
        age_ms=max(0, now - row[rows.RECEIVED_AT]),
        delay_ms=max(0, available_at - now) if available_at is not None else 0,
        delivery_count=row[rows.DELIVERIES],
        log=_decode_log(log.encode()) if log else [],
    )


def _record(row: tuple[Any, ...], now: int) -> HandedRecord:
    _, key, fingerprint, received_at, keep_until = row
    return HandedRecord(
        message_id=key[:-17].decode(),
        sender=key[-16:].hex(),
        fingerprint=fingerprint.hex(),
        age_ms=max(0, now - received_at),
        keep_ms=keep_until - now,
    )


def _was_handed_over(item: Checked, here: str) -> bool:
    """Tell whether this instance has handed a message over before: its log says so."""
    log = item.special.log if item.special is not None else None
    return log is not None and any(step.reason == _reason(here) for step in _decode_log(log.encode()))


def _reason(instance: str) -> str:
    return f"handed over by {instance}"


def handed_over(from_instance: str, now: int) -> Transition:
    """Return the entry in the log of a message that was handed over by a sibling."""
    return Transition("pending", iso(now), _reason(from_instance))
