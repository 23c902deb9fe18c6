"""The inbox as the service uses it: put, look, close."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import apsw

from cellmesh.errors import InboxError
from cellmesh.inbox.clock import SteadyClock
from cellmesh.inbox.files import DirectoryLock, open_database
from cellmesh.inbox.reader import Reader
from cellmesh.inbox.store import Gauges, InboxLimits, Store
from cellmesh.inbox.writer import Stored, Writer, end_process
from cellmesh.protocol.messages import Checked
from cellmesh.protocol.receipts import MessageWithHistory, StoredMessage

__all__ = ["Inbox", "InboxLimits"]

T = TypeVar("T")


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
            self._store = _open_store(directory, limits, self.clock, vfs)
        except BaseException:
            self._lock.release()
            raise
        self._reader = Reader(directory)
        self._readers = ThreadPoolExecutor(max_workers=2, thread_name_prefix="inbox-reader")
        self.writer = Writer(self._store, on_death)
        self.writer.start()

    @property
    def gauges(self) -> Gauges:
        """Totals as of now."""
        return self._store.gauges

    @property
    def limits(self) -> InboxLimits:
        """The bounds it was opened with."""
        return self._store.limits

    def file_bytes(self) -> int:
        """Return the size of the inbox's files in bytes."""
        return self._store.file_bytes()

    def put(self, items: Sequence[Checked], stored: Stored) -> None:
        """Store messages; ``stored`` is called on the event loop when they are on disk, with one outcome each.

        Raises:
            WriterStopped: after ``close``.

        """
        self.writer.append(items, stored)

    async def page(
        self, limit: int, *, from_cell: str | None = None, state: str | None = None, after: int | None = None
    ) -> list[StoredMessage]:
        """Return messages in the order of their positions; see ``Reader.page``."""
        return await self._read(lambda: self._reader.page(limit, from_cell=from_cell, state=state, after=after))

    async def find(self, message_id: str) -> MessageWithHistory | None:
        """Return one message with its history, or None."""
        return await self._read(lambda: self._reader.find(message_id))

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


def _open_store(directory: Path, limits: InboxLimits, clock: SteadyClock, vfs: str | None) -> Store:
    try:
        connection = open_database(directory, vfs)
        try:
            return Store(connection, directory, limits, clock)
        except BaseException:
            connection.close()
            raise
    except apsw.Error as error:
        raise InboxError(f"{directory}: the inbox cannot be opened: {error}") from error
