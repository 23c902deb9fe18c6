"""Handing messages out and settling them: statements of the writer thread.

A lease (token, deadline, count) is on disk before its messages are handed out. Only in memory is the order in
which they go (``ready``), and when the next lease or delay ends.
"""

from __future__ import annotations

import heapq
import secrets
from collections.abc import Sequence
from functools import partial
from sys import intern
from typing import Any

from cellmesh.inbox import rows
from cellmesh.inbox.clock import iso
from cellmesh.inbox.leases import Holder, Leased, LeaseRequest, Settled, Settlement
from cellmesh.inbox.ready import Position, Ready
from cellmesh.inbox.settling import Changes, Row, judge, put_back
from cellmesh.inbox.statements import LOG, entry, filled, marks
from cellmesh.inbox.store import CONSUMED, DEAD, LEASED, PENDING, PRIORITIES, Outcome, Store, Verdict
from cellmesh.inbox.transaction import Transaction
from cellmesh.protocol.consuming import LeasedMessage
from cellmesh.protocol.deduplication import id_range
from cellmesh.protocol.messages import Checked
from cellmesh.protocol.receipts import STATES

#: Bytes of payloads handed out by one lease at most; at least one message is handed out.
MAX_LEASE_BYTES = 16 * 1024 * 1024
#: Rows that one step changes at most.
ROWS = 256
#: Positions that are looked at in one statement at most, where many have ended.
LOOK = 1024
#: In how many processes that were killed a message must have been in hand to be suspect; fewer if it would be dead.
SUSPECT_AFTER = 2
#: How long after the start messages are suspect at most.
SUSPICION_MS = 60_000
#: What may stand in memory although it is over, besides as much again as there is.
SLACK = 4096

_SIZE = len(rows.COLUMNS.split(","))
#: A message with its payload, unless that is longer than the first value, and the payload's length.
_SELECT = rows.SELECT.replace(
    rows.COLUMNS,
    rows.COLUMNS.replace("p.payload", "iif(length(p.payload) <= ?, p.payload, NULL)") + ", length(p.payload)",
)
_COLUMNS = "seq, message_id, priority, message_type, state, lease, coalesce(lease_until, 0), deliveries"


class Leasing:
    """The leases of an inbox.

    Args:
        store: the inbox.

    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.ready = Ready()
        #: Messages held back, by when they may be handed out (ms).
        self._delayed: list[tuple[int, Position]] = []
        #: Messages that may have killed the process that handled them; forgotten as they are handed out.
        self._suspects: set[int] = set()
        self._suspected_until = store.clock.now_ms() + SUSPICION_MS
        #: When the lease of each leased message ends (ms), by its position.
        self._deadlines: dict[int, int] = {}
        #: The same by time, with some that are over or were extended.
        self._running: list[tuple[int, int]] = []
        with store.connection:
            self._start()
        self._load()

    def arrived(self, items: Sequence[Checked], outcomes: Sequence[Outcome]) -> None:
        """Take in messages that have just been committed."""
        add = self.ready.add
        for item, outcome in zip(items, outcomes, strict=True):
            if outcome.verdict is not Verdict.STORED:
                continue
            special = item.special
            if special is None or not (special.delay or special.moving_to or special.consumed):
                add(outcome.seq, PRIORITIES[item.priority], item.message_type)
            elif not special.moving_to and not special.consumed:
                position = Position(outcome.seq, PRIORITIES[item.priority], intern(item.message_type))
                self._delay(outcome.received_at + special.age_ms + int(special.delay * 1000), position)

    def take(self, tx: Transaction, request: LeaseRequest) -> list[Leased]:
        """Hand messages out, highest priority first and oldest first within one."""
        leased: list[Leased] = []
        room = MAX_LEASE_BYTES
        look = 0
        while len(leased) < request.most and room > 0:
            wanted = request.most - len(leased)
            positions = self.ready.take(max(wanted, look), request.types)
            if not positions:
                break
            tx.on_rollback(partial(self._give_back, positions))
            found = self._find(tx, [position.seq for position in positions])
            chosen: list[tuple[Any, ...]] = []
            left: list[Position] = []
            for position in positions:
                # Taken out: a message that was put back may stand here twice.
                row = found.pop(position.seq, None)
                if row is None:
                    continue  # it has ended meanwhile
                if len(chosen) >= wanted or (row[_SIZE] > room and (leased or chosen)):
                    left.append(position)
                    room = 0
                    continue
                room -= row[_SIZE]
                chosen.append(row)
            if left:
                back = set(left)
                positions[:] = [position for position in positions if position not in back]
                self._give_back(left)
            if chosen:
                leased += self._hand_out(tx, request, self._whole(tx, chosen))
            # Where many have ended, not one statement for each of them.
            look = min(max(2 * look, 16), LOOK)
        return leased

    def settle(self, tx: Transaction, items: Sequence[Settlement]) -> list[Settled]:
        """Settle messages; what becomes of one changes nothing for the others."""
        now = self._store.clock.now_ms()
        seqs = [self._seq_of(tx, item) for item in items]
        known = self._rows(tx, sorted({seq for seq in seqs if seq is not None}))
        changes = Changes()
        settled: list[Settled] = []
        for item, seq in zip(items, seqs, strict=True):
            row = known.get(seq) if seq is not None else None
            if row is None or item.message_id not in {None, row.message_id}:
                settled.append(Settled("unknown_message", item.seq, item.message_id))
                continue
            code = judge(row, item, now, self._store.limits.max_deliveries, changes)
            settled.append(Settled(code, row.seq, row.message_id, row.state, row.deliveries, row.lease_until))
        self._carry_out(tx, changes, now)
        return settled

    def consume(self, tx: Transaction, seq: int) -> bool:
        """Have a pending message end as consumed, without a lease; return whether it was pending."""
        tx.execute(
            f"UPDATE messages SET state = {CONSUMED}, ended_at = ? WHERE seq = ? AND state = {PENDING}"
            " AND moving_to IS NULL",
            (self._store.clock.now_ms(), seq),
        )
        count = tx.connection.changes()
        self._moved(PENDING, CONSUMED, count)
        return bool(count)

    def step(self, tx: Transaction) -> bool:
        """End leases and delays that are over; return whether more is due."""
        now = self._store.clock.now_ms()
        while self._delayed and self._delayed[0][0] <= now:
            _, position = heapq.heappop(self._delayed)
            self.ready.give_back(position)
        # What expires stays here until it is asked for: without a consumer it would grow.
        pending, here = self._store.gauges.pending, self.ready.size + len(self._delayed)
        if not pending and here:
            self.ready, self._delayed = Ready(), []
        elif here > 2 * pending + SLACK:
            self._load()
        due: list[tuple[int, int]] = []
        while len(due) < ROWS and (until := self._next_end()) is not None and until <= now:
            due.append(heapq.heappop(self._running))
            del self._deadlines[due[-1][1]]
        if not due:
            return False
        tx.on_rollback(partial(self._run, due))
        changes = Changes()
        most = self._store.limits.max_deliveries
        known = self._rows(tx, sorted(seq for _, seq in due))
        for _, seq in due:
            row = known.get(seq)
            if row is not None and row.state == LEASED and row.lease_until <= now:
                put_back(row, changes, "lease ran out", now, delay_until=0, max_deliveries=most)
        self._carry_out(tx, changes, now)
        return len(due) >= ROWS

    def next_due(self) -> int | None:
        """Return when the next lease or delay ends, ms; None if there is none."""
        until = self._next_end()
        if self._delayed and (until is None or self._delayed[0][0] < until):
            return self._delayed[0][0]
        return until

    def _next_end(self) -> int | None:
        """Return when the first of the running leases ends, ms, and have it at the top; None if there is none."""
        running, deadlines = self._running, self._deadlines
        while running:
            until, seq = running[0]
            if deadlines.get(seq) == until:
                return until
            heapq.heappop(running)  # it was settled or extended
        return None

    @property
    def suspicious(self) -> bool:
        """Whether handlers should be given one message at a time, so that one that kills the process dies alone."""
        return bool(self._suspects) and self._store.clock.now_ms() < self._suspected_until

    def made_pending(self, position: Position, available_at: int = 0) -> None:
        """Take in a message that became pending again in a transaction that is committed."""
        if available_at > self._store.clock.now_ms():
            self._delay(available_at, position)
        else:
            self.ready.give_back(position)

    def _start(self) -> None:
        """Carry the leases of the process before over into this one (issue: leases)."""
        now = self._store.clock.now_ms()
        execute = self._store.connection.execute
        log = entry("pending", now, "the cell was started again")
        execute(
            f"UPDATE messages SET state = {DEAD}, reason = 'max_deliveries', ended_at = ?1"
            f" WHERE state = {LEASED} AND holder = {Holder.HANDLER.value} AND deliveries >= ?2",
            (now, self._store.limits.max_deliveries),
        )
        self._moved(LEASED, DEAD, self._store.connection.changes())
        often = min(SUSPECT_AFTER, self._store.limits.max_deliveries - 1)
        suspects = execute(
            f"SELECT seq FROM messages WHERE state = {LEASED} AND holder = {Holder.HANDLER.value} AND deliveries >= ?",
            (often,),
        )
        self._suspects = {int(str(row[0])) for row in suspects}
        execute(
            f"UPDATE messages SET state = {PENDING}, lease = NULL, {LOG}"
            f" WHERE state = {LEASED} AND holder = {Holder.HANDLER.value}",
            (log,),
        )
        self._moved(LEASED, PENDING, self._store.connection.changes())
        execute(
            f"UPDATE messages SET lease_until = ?1 + max(lease_until - leased_at, 0), leased_at = ?1"
            f" WHERE state = {LEASED} AND holder = {Holder.CLIENT.value}",
            (now,),
        )

    def _load(self) -> None:
        """Bring what is in memory to what is in the file; reads every row that is not finished."""
        self.ready = Ready()
        self._delayed, self._running, self._deadlines = [], [], {}
        now = self._store.clock.now_ms()
        add = self.ready.add
        for seq, priority, message_type, state, available_at, lease_until in self._store.connection.execute(
            "SELECT seq, priority, message_type, state, available_at, lease_until FROM messages"
            f" WHERE state < {CONSUMED} AND moving_to IS NULL ORDER BY seq"
        ):
            if state == LEASED:
                self._running.append((lease_until, seq))
                self._deadlines[seq] = lease_until
            elif available_at is not None and available_at > now:
                self._delayed.append((available_at, Position(seq, priority, intern(message_type))))
            else:
                add(seq, priority, message_type)
        heapq.heapify(self._delayed)
        heapq.heapify(self._running)

    def _find(self, tx: Transaction, seqs: list[int]) -> dict[int, tuple[Any, ...]]:
        """Return the rows of those that can be handed out now; large payloads are left out, for ``_whole``."""
        now = self._store.clock.now_ms()
        return {
            int(row[0]): row
            for row in tx.execute(
                f"{_SELECT} WHERE m.seq IN ({marks(seqs)}) AND m.state = {PENDING}"
                " AND m.moving_to IS NULL AND (m.expires_at IS NULL OR m.expires_at > ?)",
                (MAX_LEASE_BYTES // len(seqs), *filled(seqs), now),
            )
        }

    def _whole(self, tx: Transaction, chosen: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        """Return rows with the payloads that were left out: only those of messages that are handed out are read."""
        seqs = [row[rows.SEQ] for row in chosen if row[rows.PAYLOAD] is None]
        if not seqs:
            return chosen
        found: dict[Any, Any] = dict(
            tx.execute(f"SELECT seq, payload FROM payloads WHERE seq IN ({marks(seqs)})", filled(seqs))
        )
        return [
            row
            if row[rows.PAYLOAD] is not None
            else (*row[: rows.PAYLOAD], found[row[rows.SEQ]], *row[rows.PAYLOAD + 1 :])
            for row in chosen
        ]

    def _hand_out(self, tx: Transaction, request: LeaseRequest, chosen: list[tuple[Any, ...]]) -> list[Leased]:
        now = self._store.clock.now_ms()
        until = now + request.lease_ms
        token = secrets.token_urlsafe(12)
        seqs = [row[rows.SEQ] for row in chosen]
        seconds = request.lease_ms / 1000
        tx.execute(
            f"UPDATE messages SET state = {LEASED}, deliveries = deliveries + 1, lease = ?, leased_at = ?,"
            f" lease_until = ?, holder = ? WHERE seq IN ({marks(seqs)})",
            (token, now, until, request.holder.value, *filled(seqs)),
        )
        self._moved(PENDING, LEASED, len(seqs))

        tx.on_commit(partial(self._run, [(until, seq) for seq in seqs]))
        if self._suspects:
            tx.on_commit(partial(self._suspects.difference_update, seqs))
        leased = []
        for row in chosen:
            fields = rows.fields(row) | {
                "state": "leased",
                "available_at": None,
                "delivery_count": row[rows.DELIVERIES] + 1,
                "leased_until": iso(until),
            }
            leased.append(Leased(LeasedMessage(**fields, lease_token=token, lease_seconds=seconds), token))
        return leased

    def _seq_of(self, tx: Transaction, item: Settlement) -> int | None:
        if item.seq is not None:
            return item.seq
        if item.message_id is None:
            return None
        # Two senders may have used one id: the one that is leased with this token is meant.
        found: Any = tx.execute(
            "SELECT m.seq FROM receipts r JOIN messages m ON m.seq = r.seq WHERE r.key >= ? AND r.key < ?"
            " AND m.message_id = ? ORDER BY m.lease IS ? DESC, m.seq DESC LIMIT 1",
            (*id_range(item.message_id), item.message_id, item.lease_token),
        ).get
        return None if found is None else int(found)

    def _rows(self, tx: Transaction, seqs: list[int]) -> dict[int, Row]:
        if not seqs:
            return {}
        found = tx.execute(f"SELECT {_COLUMNS} FROM messages WHERE seq IN ({marks(seqs)})", filled(seqs))
        return {int(str(row[0])): Row(*row) for row in found}

    def _carry_out(self, tx: Transaction, changes: Changes, now: int) -> None:
        if changes.acked:
            tx.execute(
                f"UPDATE messages SET state = {CONSUMED}, ended_at = ? WHERE seq IN ({marks(changes.acked)})",
                (now, *filled(changes.acked)),
            )
            self._moved(LEASED, CONSUMED, len(changes.acked))
        if changes.extended:
            tx.executemany("UPDATE messages SET leased_at = ?, lease_until = ? WHERE seq = ?", changes.extended)
        if changes.dead:
            tx.executemany(
                f"UPDATE messages SET state = {DEAD}, reason = ?2, ended_at = ?3, lease = ?4, {LOG} WHERE seq = ?5",
                [(log, reason, now, token, seq) for reason, token, log, seq in changes.dead],
            )
            self._moved(LEASED, DEAD, len(changes.dead))
        if changes.pending:
            tx.executemany(
                f"UPDATE messages SET state = {PENDING}, available_at = ?2, deliveries = ?3, lease = ?4, {LOG}"
                " WHERE seq = ?5",
                [(log, until, count, token, seq) for until, count, token, log, seq in changes.pending],
            )
            self._moved(LEASED, PENDING, len(changes.pending))

        def committed() -> None:
            self._run(changes.running)
            for seq in changes.ended:
                self._deadlines.pop(seq, None)
            for position, until in changes.positions:
                self.made_pending(position, until)

        tx.on_commit(committed)

    def _give_back(self, positions: Sequence[Position]) -> None:
        for position in positions:
            self.ready.give_back(position)

    def _run(self, leases: Sequence[tuple[int, int]]) -> None:
        for lease in leases:
            heapq.heappush(self._running, lease)
            self._deadlines[lease[1]] = lease[0]
        # Those settled long before their deadline would fill the memory.
        if len(self._running) > 2 * len(self._deadlines) + SLACK:
            self._running = [(until, seq) for seq, until in self._deadlines.items()]
            heapq.heapify(self._running)

    def _delay(self, until: int, position: Position) -> None:
        heapq.heappush(self._delayed, (until, position))

    def _moved(self, before: int, after: int, count: int) -> None:
        """Count messages that went from one state to another."""
        gauges = self._store.gauges
        setattr(gauges, STATES[before], getattr(gauges, STATES[before]) - count)
        setattr(gauges, STATES[after], getattr(gauges, STATES[after]) + count)
