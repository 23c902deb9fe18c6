"""The outbox as the service uses it: queue, load, begin and finish attempts, look."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from cellmesh.inbox import Inbox, Verdict
from cellmesh.inbox.jobs import Work
from cellmesh.inbox.transaction import Transaction, WorkFailed
from cellmesh.inbox.writer import WriterStopped
from cellmesh.outbox import reading
from cellmesh.outbox.changing import Changed, Changing
from cellmesh.outbox.keeping import Keeping
from cellmesh.outbox.outcomes import Outcome, Queued, Refused
from cellmesh.outbox.parcels import QUEUED, Parcel
from cellmesh.outbox.store import Sent
from cellmesh.protocol.queueing import SENT_STATES, SentMessage

log = logging.getLogger(__name__)

#: Seconds until outcomes are written again that could not be.
FINISH_AGAIN = 1.0
#: Called on the event loop once messages are on disk, with one outcome each.
Stored = Callable[[Sequence[Outcome]], None]


class OutboxLimits(NamedTuple):
    """Bounds of an outbox; those of the file, of its history and of time are the inbox's."""

    max_messages: int


class _Unit(NamedTuple):
    parcels: Sequence[Parcel]
    stored: Stored


class Outbox:
    """The durable outbox in the file of an inbox.

    Args:
        inbox: the inbox; open.
        limits: bounds.

    """

    def __init__(self, inbox: Inbox, limits: OutboxLimits) -> None:
        self._inbox = inbox
        self._sent = Sent(inbox.store, limits.max_messages)
        self._keeping = Keeping(self._sent)
        self._changing = Changing(self._sent)
        self._waiting: deque[_Unit] = deque()
        #: What is queued inside ``together``.
        self._held: list[_Unit] | None = None
        #: Whether a piece of work is queued that will take what waits; set here, cleared by the writer thread.
        self._submitted = False
        self._work: Work
        #: Called on the event loop with messages that are new and on disk, before whoever queued them hears of it.
        self.arrived: Callable[[Sequence[Parcel]], None] = lambda _: None
        inbox.writer.attend(self._keeping.step, self._keeping.reclaim)

    async def open(self) -> list[str]:
        """Prepare the outbox; return the cells that messages are queued to.

        Raises:
            WorkFailed: it could not be; for example because the disk is full.

        """
        return await self._inbox.write(self._sent.open)

    @property
    def queued(self) -> int:
        """Messages that are to be sent."""
        return self._sent.kept[QUEUED]

    @property
    def totals(self) -> dict[str, int]:
        """Messages kept, by state."""
        return dict(zip(SENT_STATES, self._sent.kept, strict=True))

    @property
    def ended(self) -> dict[str, int]:
        """Messages that ended since the process started, by state."""
        return {name: self._sent.ended[state] for state, name in enumerate(SENT_STATES) if state != QUEUED}

    @property
    def attempts(self) -> int:
        """Attempts since the process started, counted by message."""
        return self._sent.attempts

    def retry_after(self) -> int:
        """Return the seconds after which a full outbox may have room again: for a twentieth of it, or one."""
        most = self._sent.max_messages
        return self._keeping.drain.retry_after(self.queued - most + max(1, most // 20))

    @property
    def window(self) -> int:
        """How long, ms, a message that may have been stored is recognised by its receiver."""
        return self._sent.window

    def put(self, parcels: Sequence[Parcel], stored: Stored) -> None:
        """Queue messages, all or none of them but for repeats; ``stored`` is called on the event loop after the commit.

        What comes in until the writer takes it is written with one statement.

        Raises:
            WriterStopped: after the inbox was closed.

        """
        unit = _Unit(parcels, stored)
        if self._held is not None:
            self._held.append(unit)
        else:
            self._enqueue((unit,))

    @contextmanager
    def together(self) -> Iterator[None]:
        """Have everything that is queued inside written by one commit."""
        held: list[_Unit] = []
        self._held = held
        try:
            yield
        finally:
            self._held = None
            if held:
                self._enqueue(held)

    def _enqueue(self, units: Sequence[_Unit]) -> None:
        self._waiting.extend(units)
        if not self._submitted:
            self._submitted = True
            self._submit()
        self._work.size += sum([parcel.size for unit in units for parcel in unit.parcels])

    def _submit(self) -> None:
        units: list[_Unit] = []

        def execute(tx: Transaction) -> list[list[Outcome]]:
            if not units:
                # From here on others are submitted anew; what is in the queue by now is taken along.
                self._submitted = False
                while self._waiting:
                    units.append(self._waiting.popleft())
            return self._sent.put(tx, [unit.parcels for unit in units])

        def done(result: list[list[Outcome]] | WorkFailed) -> None:
            if isinstance(result, WorkFailed):
                verdict = Verdict.DISK_FULL if result.disk_full else Verdict.FAILED
                result = [[Outcome(verdict)] * len(unit.parcels) for unit in units]
            else:
                self.arrived(
                    [
                        parcel
                        for unit, outcomes in zip(units, result, strict=True)
                        for parcel, outcome in zip(unit.parcels, outcomes, strict=True)
                        if outcome.verdict is Verdict.STORED
                    ]
                )
            for unit, outcomes in zip(units, result, strict=True):
                unit.stored(outcomes)

        self._work = self._inbox.writer.submit(execute, done)

    async def load(self, cell: str, priority: int, start: int, instances: Sequence[str]) -> Queued:
        """Return what is queued to these instances of a cell, from a position on, in parts.

        Raises:
            WorkFailed: it cannot be read now.

        """
        return await self._inbox.write(lambda tx: self._sent.load(tx, cell, priority, start, instances))

    async def begin(self, positions: Sequence[int], instance: str, uid: str | None, url: str) -> frozenset[int]:
        """Note on disk that an attempt begins; return those that must not be sent: they are queued no more.

        Raises:
            WorkFailed: it is not on disk; nothing may be sent.

        """
        return await self._inbox.write(lambda tx: self._sent.begin(tx, positions, instance, uid, url))

    def finish(self, delivered: Sequence[int], refused: Sequence[Refused], finished: Callable[[], None]) -> None:
        """Note how attempts ended; it is tried until it can be written, and ``finished`` is called then."""

        def done(result: WorkFailed | None) -> None:
            if result is None:
                finished()
                return
            count = len(delivered) + sum(len(one.positions) for one in refused)
            log.warning("outcomes of %d messages cannot be written yet: %s", count, result)
            asyncio.get_running_loop().call_later(FINISH_AGAIN, again)

        def again() -> None:
            with contextlib.suppress(WriterStopped):  # then they stay as ``begin`` left them
                self.finish(delivered, refused, finished)

        self._inbox.writer.submit(lambda tx: self._sent.finish(tx, delivered, refused), done)

    async def waits_for(self, cell: str) -> bool:
        """Tell whether anything is queued to a cell.

        Raises:
            WorkFailed: it cannot be read now.

        """
        return await self._inbox.write(lambda tx: self._sent.waits_for(tx, cell))

    async def cancel(self, message_id: str) -> Changed:
        """Take a message back, as far as none of its copies can have been stored.

        Raises:
            WorkFailed: that is not on disk.

        """
        return await self._inbox.write(lambda tx: self._changing.cancel(tx, message_id))

    async def retry(self, message_id: str) -> Changed:
        """Queue what has ended undelivered of a message again.

        Raises:
            WorkFailed: that is not on disk.

        """
        return await self._inbox.write(lambda tx: self._changing.retry(tx, message_id))

    async def find(self, message_id: str) -> list[SentMessage]:
        """Return the copies of one message; there is one unless it was queued to several."""
        return await self._inbox.query(lambda connection: reading.find(connection, message_id))

    async def page(self, limit: int, *, state: str | None, after: int | None) -> list[SentMessage]:
        """Return messages in the order of their positions; see ``reading.page``."""
        return await self._inbox.query(lambda connection: reading.page(connection, limit, state=state, after=after))

    async def oldest_queued_seconds(self) -> float | None:
        """Return the age of the oldest queued message in seconds, or None if none is queued."""
        if not self.queued:
            return None
        queued_at = await self._inbox.query(reading.oldest)
        return None if queued_at is None else max(0.0, (self._inbox.clock.now_ms() - queued_at) / 1000)
