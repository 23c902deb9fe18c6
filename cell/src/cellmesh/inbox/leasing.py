"""Handing messages out and settling them: statements of the writer thread.

A lease (token, deadline, count) is on disk before its messages are handed out. Only in memory is the order in
which they go (``ready``), and when the next lease or delay ends.
"""

from __future__ import annotations

import heapq
import secrets
from collections.abc import Sequence
from functools import partial
from typing import Any

from cellmesh.inbox import rows
from cellmesh.inbox.clock import iso
from cellmesh.inbox.leases import Holder, Leased, LeaseRequest, Settled, Settlement
from cellmesh.inbox.ready import Position, Ready, fill
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
        #: Leases by their deadline; those settled meanwhile are passed over.
        self._running: list[tuple[int, int, str]] = []
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
            if special is None:
                add(outcome.seq, PRIORITIES[item.priority], item.message_type)
            elif special.delay and not special.moving_to and not special.consumed:
                position = Position(outcome.seq, PRIORITIES[item.priority], item.message_type)
                self._delay(outcome.received_at + int(special.delay * 1000), position)

    def take(self, tx: Transaction, request: LeaseRequest) -> list[Leased]:
        """Hand messages out, highest priority first and oldest first within one."""
        leased: list[Leased] = []
        size = 0
        while len(leased) < request.most and size < MAX_LEASE_BYTES:
            positions = self.ready.take(request.most - len(leased), request.types)
            if not positions:
                break
            tx.on_rollback(partial(self._give_back, positions))
            found = self._find(tx, [position.seq for position in positions])
            chosen: list[tuple[Any, ...]] = []
            left: list[Position] = []
            for position in positions:
                row = found.get(position.seq)
                if row is None:
                    continue  # it has ended meanwhile
                if (leased or chosen) and size + len(row[rows.PAYLOAD]) > MAX_LEASE_BYTES:
                    left.append(position)
                    size = MAX_LEASE_BYTES
                    continue
                size += len(row[rows.PAYLOAD])
                chosen.append(row)
            if left:
                tx.on_commit(partial(self._give_back, left))
            if chosen:
                leased += self._hand_out(tx, request, chosen)
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
            if row is None:
                settled.append(Settled("unknown_message", item.seq, item.message_id))
                continue
            code = judge(row, item, now, self._store.limits.max_deliveries, changes)
            settled.append(Settled(code, row.seq, row.message_id, row.state, row.deliveries, row.lease_until))
        self._carry_out(tx, changes, now)
        return settled

    def step(self, tx: Transaction) -> bool:
        """End leases and delays that are over; return whether more is due."""
        now = self._store.clock.now_ms()
        while self._delayed and self._delayed[0][0] <= now:
            _, position = heapq.heappop(self._delayed)
            self.ready.give_back(position)
        # What expires stays in it until it is asked for: without a consumer it would grow.
        if not self._store.gauges.pending and self.ready.size:
            self.ready = Ready()
        elif self.ready.size > 2 * self._store.gauges.pending + 4096:
            self._load()
        due: list[tuple[int, int, str]] = []
        while self._running and self._running[0][0] <= now and len(due) < ROWS:
            due.append(heapq.heappop(self._running))
        if not due:
            return False
        tx.on_rollback(partial(self._run, due))
        changes = Changes()
        most = self._store.limits.max_deliveries
        known = self._rows(tx, sorted({seq for _, seq, _ in due}))
        for _, seq, token in due:
            row = known.get(seq)
            if row is None or row.state != LEASED or row.lease != token:
                continue
            if row.lease_until > now:
                continue  # it was extended, and stands here again with its new deadline
            put_back(row, changes, "lease ran out", now, delay_until=0, max_deliveries=most)
        self._carry_out(tx, changes, now)
        return len(due) >= ROWS

    def next_due(self) -> int | None:
        """Return when the next lease or delay ends, ms; None if there is none."""
        heads = [heap[0][0] for heap in (self._delayed, self._running) if heap]
        return min(heads) if heads else None

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
        self._delayed, self._running = [], []
        now = self._store.clock.now_ms()
        ready: list[Position] = []
        for seq, priority, message_type, state, available_at, lease, lease_until in self._store.connection.execute(
            "SELECT seq, priority, message_type, state, available_at, lease, lease_until FROM messages"
            f" WHERE state < {CONSUMED} AND moving_to IS NULL ORDER BY seq"
        ):
            position = Position(seq, priority, message_type)
            if state == LEASED:
                self._running.append((lease_until, seq, lease))
            elif available_at is not None and available_at > now:
                self._delayed.append((available_at, position))
            else:
                ready.append(position)
                if len(ready) >= 10_000:
                    fill(self.ready, ready)
                    ready.clear()
        fill(self.ready, ready)
        heapq.heapify(self._delayed)
        heapq.heapify(self._running)

    def _find(self, tx: Transaction, seqs: list[int]) -> dict[int, tuple[Any, ...]]:
        """Return the rows of those that can be handed out now."""
        now = self._store.clock.now_ms()
        return {
            int(row[0]): row
            for row in tx.execute(
                f"{rows.SELECT} WHERE m.seq IN ({marks(seqs)}) AND m.state = {PENDING}"
                " AND m.moving_to IS NULL AND (m.expires_at IS NULL OR m.expires_at > ?)",
                (*filled(seqs), now),
            )
        }

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

        tx.on_commit(partial(self._run, [(until, seq, token) for seq in seqs]))
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
            for position, until in changes.positions:
                self.made_pending(position, until)

        tx.on_commit(committed)

    def _give_back(self, positions: Sequence[Position]) -> None:
        for position in positions:
            self.ready.give_back(position)

    def _run(self, leases: Sequence[tuple[int, int, str]]) -> None:
        for lease in leases:
            heapq.heappush(self._running, lease)

    def _delay(self, until: int, position: Position) -> None:
        heapq.heappush(self._delayed, (until, position))

    def _moved(self, before: int, after: int, count: int) -> None:
        """Count messages that went from one state to another."""
        gauges = self._store.gauges
        setattr(gauges, STATES[before], getattr(gauges, STATES[before]) - count)
        setattr(gauges, STATES[after], getattr(gauges, STATES[after]) + count)
