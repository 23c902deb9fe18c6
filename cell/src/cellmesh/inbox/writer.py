"""The writer thread: group commit without a timer.

Whatever is queued when the writer is free goes into one transaction with one fsync; callers hear of it
after the commit. Alone, a message waits for nobody; under load the groups grow by themselves.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import apsw

from cellmesh.inbox.store import MAX_ROWS, Gauges, Outcome, Store, Verdict
from cellmesh.inbox.upkeep import Upkeep
from cellmesh.protocol.messages import Checked

log = logging.getLogger(__name__)

MAX_GROUP_MESSAGES = MAX_ROWS
MAX_GROUP_BYTES = 8 * 1024 * 1024
#: Seconds between two looks at what is due, when there is nothing else to do.
UPKEEP_INTERVAL = 0.5
#: Least pause between two steps of upkeep while messages come in.
UPKEEP_PAUSE = 0.005

#: Called on the event loop once messages are on disk, with one outcome each.
Stored = Callable[[Sequence[Outcome]], None]

# After these SQLite is in order and the next transaction may succeed; after any other error of the file
# nothing can be promised any more, and the process must end without acknowledging.
_SURVIVABLE = (apsw.FullError, apsw.BusyError, apsw.ConstraintError, apsw.TooBigError, apsw.MismatchError)


class WriterStopped(Exception):  # noqa: N818 - a state
    """The writer is closed and takes no more messages."""


class _Job:
    __slots__ = ("items", "loop", "outcomes", "stored")

    def __init__(self, items: Sequence[Checked], loop: asyncio.AbstractEventLoop, stored: Stored) -> None:
        self.items = items
        self.loop = loop
        self.stored = stored
        self.outcomes: Sequence[Outcome] = ()


def end_process() -> None:
    """End the process at once: what was not acknowledged is not, what was is on disk."""
    os._exit(70)


class Writer:
    """Owns the store; the only one that writes to the file.

    Args:
        store: the statements.
        on_death: called when the thread cannot go on; ends the process.

    """

    def __init__(self, store: Store, on_death: Callable[[], None] = end_process) -> None:
        self._store = store
        self._keeper = Upkeep(store)
        self._on_death = on_death
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self.groups = 0
        self.commit_seconds = 0.0
        self._thread = threading.Thread(target=self._run, name="inbox-writer", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def append(self, items: Sequence[Checked], stored: Stored) -> None:
        """Queue messages; ``stored`` is called after the commit, on the loop that runs now.

        Raises:
            WriterStopped: after ``close``.

        """
        if self._closed:
            raise WriterStopped
        loop = self._loop
        if loop is None or loop.is_closed():
            # Kept: asking for it costs a system call for every message.
            loop = self._loop = asyncio.get_running_loop()
        self._queue.put(_Job(items, loop, stored))

    def close(self) -> None:
        """Write what is queued, then end the thread. Blocks until it has ended."""
        self._closed = True
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            log.critical("the inbox cannot be written, this process ends: %s: %s", type(error).__name__, error)
            self._on_death()

    def _work(self) -> None:
        next_upkeep = time.monotonic() + UPKEEP_INTERVAL
        behind = False
        while True:
            wait = UPKEEP_PAUSE if behind else max(0.0, next_upkeep - time.monotonic())
            group, last = self._next_group(wait)
            if group:
                self._write(group)
            now = time.monotonic()
            if last:
                return
            if now >= next_upkeep:
                behind = self._upkeep()
                next_upkeep = time.monotonic() + (UPKEEP_PAUSE if behind else UPKEEP_INTERVAL)

    def _next_group(self, wait: float) -> tuple[list[_Job], bool]:
        """Take what is queued, up to the bounds of a group; return it and whether the end was reached."""
        try:
            job = self._queue.get(timeout=wait)
        except queue.Empty:
            return [], False
        group: list[_Job] = []
        messages = size = 0
        while job is not None:
            group.append(job)
            messages += len(job.items)
            for item in job.items:
                size += len(item.payload)
            if messages >= MAX_GROUP_MESSAGES or size >= MAX_GROUP_BYTES:
                return group, False
            try:
                job = self._queue.get_nowait()
            except queue.Empty:
                return group, False
        return group, True

    def _write(self, group: list[_Job]) -> None:
        started = time.monotonic()
        items: Sequence[Checked]
        items = group[0].items if len(group) == 1 else [item for job in group for item in job.items]
        self._reclaim(sum([len(item.payload) for item in items]))
        outcomes = self._transaction(items)
        if outcomes is None:
            # One of them spoils the group: each on its own, so that only that one fails.
            outcomes = [self._single(item) for item in items]
        position = 0
        for job in group:
            job.outcomes = outcomes[position : position + len(job.items)]
            position += len(job.items)
        self.groups += 1
        self.commit_seconds += time.monotonic() - started
        self._reply(group)

    def _single(self, item: Checked) -> Outcome:
        outcomes = self._transaction([item])
        if outcomes is not None:
            return outcomes[0]
        return Outcome(Verdict.DISK_FULL if self._disk_was_full else Verdict.FAILED)

    _disk_was_full = False

    def _transaction(self, items: Sequence[Checked]) -> list[Outcome] | None:
        """Store messages in one transaction; None if it failed and was rolled back."""
        connection = self._store.connection
        before = replace(self._store.gauges)
        try:
            outcomes = self._store.append_new(items)
            if outcomes is None:
                connection.execute("BEGIN IMMEDIATE")
                outcomes = self._store.append(items)
                connection.execute("COMMIT")
        except _SURVIVABLE as error:
            self._disk_was_full = isinstance(error, apsw.FullError)
            log.warning("a group of %d messages was rolled back: %s", len(items), error)
            self._rollback(before)
            return None
        return outcomes

    def _rollback(self, before: Gauges) -> None:
        # SQLite may have rolled back by itself; asking again would be an error.
        if self._store.connection.in_transaction:
            self._store.connection.execute("ROLLBACK")
        self._store.restore(before)
        self._keeper.restart()

    def _reclaim(self, size: int) -> None:
        before = replace(self._store.gauges)
        try:
            self._keeper.reclaim(size)
        except _SURVIVABLE as error:
            log.debug("no room could be made: %s", error)
            self._rollback(before)

    def _upkeep(self) -> bool:
        connection = self._store.connection
        before = replace(self._store.gauges)
        try:
            connection.execute("BEGIN IMMEDIATE")
            more = self._keeper.step()
            connection.execute("COMMIT")
            before = replace(self._store.gauges)
            self._keeper.shrink()
        except _SURVIVABLE as error:
            # Expiry is tried again at the next interval; the deadline of a message stays what it is.
            log.warning("upkeep of the inbox was rolled back: %s", error)
            self._rollback(before)
            return False
        return more

    def _reply(self, group: list[_Job]) -> None:
        loop = group[0].loop
        try:
            loop.call_soon_threadsafe(_resolve, group)
        except RuntimeError:
            # The loop is closed: nobody waits any more. The messages are stored, just not acknowledged.
            log.debug("%d answers came too late", len(group))


def _resolve(group: list[_Job]) -> None:
    for job in group:
        try:
            job.stored(job.outcomes)
        except Exception as error:
            # The others of the group are not to wait for ever because of this one.
            log.error("an answer could not be given: %s", type(error).__name__)  # noqa: TRY400 - no payload in a log
