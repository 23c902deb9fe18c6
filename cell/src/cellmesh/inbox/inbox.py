"""The inbox as the service uses it: put, look, close."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import apsw
import msgspec

from cellmesh.errors import InboxError
from cellmesh.inbox.clock import SteadyClock
from cellmesh.inbox.dead import CHUNK, DeadLetters, Named
from cellmesh.inbox.files import DirectoryLock, open_database
from cellmesh.inbox.jobs import Stored
from cellmesh.inbox.leases import Leased, LeaseRequest, Settled, Settlement
from cellmesh.inbox.moving import Siblings
from cellmesh.inbox.reader import Reader
from cellmesh.inbox.store import Gauges, InboxLimits, Store
from cellmesh.inbox.transaction import Transaction, WorkFailed
from cellmesh.inbox.writer import Writer, end_process
from cellmesh.protocol.messages import Checked
from cellmesh.protocol.receipts import MessageWithHistory, StoredMessage

__all__ = ["Inbox", "InboxLimits"]

T = TypeVar("T")


class DeadOutcome(NamedTuple):
    """How many dead letters were changed, and of each that was named its position and the code of a refusal."""

    changed: int
    named: list[tuple[int | None, str]]


class Inbox:
    """A durable inbox in a data directory of its own.

    Args:
        directory: the data directory; made if absent, locked while the inbox is open.
        limits: bounds.
        clock: time for deadlines.
        vfs: SQLite VFS, for tests that watch or break the file system.
        on_death: what ends the process when the file cannot be written any more.

    Raises:
        InboxError: locked, foreign, damaged, or not writable; says which and what to do.

    """

    def __init__(
        self,
        directory: Path,
        limits: InboxLimits,
        *,
        clock: SteadyClock | None = None,
        vfs: str | None = None,
        on_death: Callable[[], None] = end_process,
    ) -> None:
        self.clock = clock or SteadyClock()
        self._lock = DirectoryLock(directory)
        try:
            self._store, self.writer = _open(directory, limits, self.clock, vfs, on_death)
        except BaseException:
            self._lock.release()
            raise
        self._reader = Reader(directory)
        self._readers = ThreadPoolExecutor(max_workers=2, thread_name_prefix="inbox-reader")
        self.dead = DeadLetters(self._store, self.writer.leasing)
        self.siblings = Siblings(self._store, self.writer.leasing)
        self.writer.start()

    @property
    def gauges(self) -> Gauges:
        """Totals as of now."""
        return self._store.gauges

    @property
    def suspicious(self) -> bool:
        """Whether one of the messages may kill the process that handles it; see ``Leasing.suspicious``."""
        return self.writer.leasing.suspicious

    @property
    def limits(self) -> InboxLimits:
        """The bounds it was opened with."""
        return self._store.limits

    @property
    def store(self) -> Store:
        """What is written with; for others who write to the same file, in the writer thread."""
        return self._store

    async def query(self, read: Callable[[apsw.Connection], T]) -> T:
        """Return what ``read`` returns; it runs beside the writer, on a read-only connection."""
        return await self._read(lambda: read(self._reader.connection()))

    def retry_after(self) -> int:
        """Return the seconds after which a full inbox may have room again: for a twentieth of what it holds, or one."""
        gauges, most = self._store.gauges, self._store.limits.max_messages
        return self.writer.drain.retry_after(gauges.pending + gauges.leased - most + max(1, most // 20))

    def file_bytes(self) -> int:
        """Return the size of the inbox's files in bytes."""
        return self._store.file_bytes()

    def put(self, items: Sequence[Checked], stored: Stored, *, ordered: bool = False) -> None:
        """Store messages; ``stored`` is called on the event loop when they are on disk, with one outcome each.

        If they are ``ordered``, none is stored behind one of its priority that finds no room.

        Raises:
            WriterStopped: after ``close``.

        """
        self.writer.append(items, stored, ordered=ordered)

    async def write(self, execute: Callable[[Transaction], T]) -> T:
        """Write anything else; return the result once it is on disk. See ``Writer.submit``.

        Raises:
            WorkFailed: nothing of it is on disk.
            WriterStopped: after ``close``.

        """
        written: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def done(result: T | WorkFailed) -> None:
            if written.done():
                return
            if isinstance(result, WorkFailed):
                written.set_exception(result)
            else:
                written.set_result(result)

        self.writer.submit(execute, done)
        return await written

    def lease(self, request: LeaseRequest, done: Callable[[list[Leased] | WorkFailed], None]) -> None:
        """Hand messages out; ``done`` is called on the event loop once the leases are on disk."""
        self.writer.lease(request, done)

    def poke(self) -> None:
        """Have the writer look at the consumers that wait: one of them may have been cancelled."""
        self.writer.submit(lambda _: None, lambda _: None)

    def settle(self, items: Sequence[Settlement], done: Callable[[list[Settled] | WorkFailed], None]) -> None:
        """Ack, nack or extend messages; ``done`` is called on the event loop once that is on disk."""
        self.writer.submit(lambda tx: self.writer.leasing.settle(tx, items), done)

    async def put_back(self, items: Sequence[Named] | None, reason: str | None = None) -> DeadOutcome:
        """Make dead letters pending again: those named, or all of a reason (None: of any)."""
        return await self._each_dead(self.dead.put_back, items, reason)

    async def purge(self, items: Sequence[Named] | None, reason: str | None = None) -> DeadOutcome:
        """Delete dead letters: those named, or all of a reason (None: of any)."""
        return await self._each_dead(self.dead.purge, items, reason)

    async def _each_dead(
        self, change: Callable[[Transaction, Sequence[int]], int], items: Sequence[Named] | None, reason: str | None
    ) -> DeadOutcome:
        if items is not None:

            def some(tx: Transaction) -> DeadOutcome:
                named = self.dead.named(tx, items)
                seqs = list(dict.fromkeys(seq for seq, code in named if seq is not None and not code))
                count = change(tx, seqs)
                # Those beyond are left as they are: there is no room for them.
                left = set(seqs[count:])
                return DeadOutcome(count, [(seq, "inbox_full" if seq in left else code) for seq, code in named])

            return await self.write(some)
        total, after = 0, 0
        while True:
            # In pieces: messages that come in meanwhile wait for one piece, not for all.
            def piece(tx: Transaction, after: int = after) -> tuple[int, list[int]]:
                seqs = self.dead.of_reason(tx, reason, CHUNK, after)
                return change(tx, seqs), seqs

            count, seqs = await self.write(piece)
            total += count
            if len(seqs) < CHUNK or count < len(seqs):
                return DeadOutcome(total, [])
            after = seqs[-1]

    async def page(
        self,
        limit: int,
        *,
        from_cell: str | None = None,
        state: str | None = None,
        reason: str | None = None,
        after: int | None = None,
    ) -> list[StoredMessage]:
        """Return messages in the order of their positions; see ``Reader.page``."""
        return await self._read(
            lambda: self._reader.page(limit, from_cell=from_cell, state=state, reason=reason, after=after)
        )

    async def find(self, message_id: str) -> MessageWithHistory | None:
        """Return one message with its history, or None."""
        return await self._read(lambda: self._reader.find(message_id))

    async def sent_from(self, message_id: str, from_cell: str, namespace: str) -> str | None:
        """Return the instance of a cell that sent a message; None if that is not known here."""
        return await self._read(lambda: self._reader.sent_from(message_id, from_cell, namespace))

    async def reply(self, message_id: str, from_cell: str, namespace: str) -> StoredMessage | None:
        """Return the reply of a cell to a message if it is here, consumed; a pending one is consumed by this.

        Raises:
            WorkFailed: it is pending, and what was to be written could not be.

        """
        found = await self._read(lambda: self._reader.reply(message_id, from_cell, namespace))
        if found is None or found.state == "consumed":
            return found
        if not await self.write(lambda tx: self.writer.leasing.consume(tx, found.seq)):
            return None  # a consumer was faster
        return msgspec.structs.replace(found, state="consumed", available_at=None)

    async def oldest_pending_seconds(self) -> float | None:
        """Return the age of the oldest pending message in seconds, or None if none is pending."""
        received = await self._read(self._reader.oldest_pending)
        return None if received is None else max(0.0, (self.clock.now_ms() - received) / 1000)

    def close(self) -> None:
        """Write what is queued and close the file. Blocks for as long as that takes."""
        self.writer.close()
        self._readers.shutdown()
        self._reader.close()
        self._store.connection.close()
        self._lock.release()

    async def _read(self, query: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._readers, query)


def _open(
    directory: Path, limits: InboxLimits, clock: SteadyClock, vfs: str | None, on_death: Callable[[], None]
) -> tuple[Store, Writer]:
    try:
        connection = open_database(directory, vfs)
        try:
            store = Store(connection, directory, limits, clock)
            return store, Writer(store, on_death)
        except BaseException:
            connection.close()
            raise
    except apsw.FullError as error:
        raise InboxError(f"{directory}: the inbox cannot be opened: {error}; make room on its disk") from error
    except apsw.Error as error:
        raise InboxError(f"{directory}: the inbox cannot be opened: {error}") from error
