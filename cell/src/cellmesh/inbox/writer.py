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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar, cast

import apsw

from cellmesh.inbox.jobs import Job, LeaseWork, Stored, Work, WorkBroken
from cellmesh.inbox.leases import Leased, LeaseRequest
from cellmesh.inbox.leasing import Leasing
from cellmesh.inbox.rate import DrainRate
from cellmesh.inbox.store import MAX_ROWS, Gauges, Outcome, Store, Verdict
from cellmesh.inbox.transaction import Transaction, WorkFailed
from cellmesh.inbox.upkeep import Upkeep
from cellmesh.protocol.messages import Checked

log = logging.getLogger(__name__)

MAX_GROUP_MESSAGES = MAX_ROWS
MAX_GROUP_BYTES = 8 * 1024 * 1024
#: Seconds between two looks at what is due, when there is nothing else to do.
UPKEEP_INTERVAL = 0.5
#: Least pause between two steps of upkeep while messages come in.
UPKEEP_PAUSE = 0.005

T = TypeVar("T")

# After these SQLite is in order and the next transaction may succeed; after any other error of the file
# nothing can be promised any more, and the process must end without acknowledging.
_SURVIVABLE = (apsw.FullError, apsw.BusyError, apsw.ConstraintError, apsw.TooBigError, apsw.MismatchError)


class WriterStopped(Exception):  # noqa: N818 - a state
    """The writer is closed and takes no more messages."""


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
        self.leasing = Leasing(store)
        self.drain = DrainRate()
        #: Consumers that wait for a message, longest first.
        self._waiting: list[LeaseWork] = []
        self._steps: list[Callable[[Transaction], bool]] = []
        self._on_death = on_death
        self._queue: queue.SimpleQueue[Job | Work | None] = queue.SimpleQueue()
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self.groups = 0
        self.commit_seconds = 0.0
        self._thread = threading.Thread(target=self._run, name="inbox-writer", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def append(self, items: Sequence[Checked], stored: Stored, *, ordered: bool = False) -> None:
        """Queue messages; ``stored`` is called after the commit, on the loop that runs now. See ``Inbox.put``.

        Raises:
            WriterStopped: after ``close``.

        """
        self._queue.put(Job(items, self._running_loop(), stored, ordered=ordered))

    def submit(self, execute: Callable[[Transaction], T], done: Callable[[T | WorkFailed], None]) -> Work:
        """Queue anything else that is to be written; return it, so that its ``size`` may be said.

        Args:
            execute: called in the writer thread, inside a transaction that may hold other work too.
            done: called after the commit, on the loop that runs now, with the result or why there is none.

        Raises:
            WriterStopped: after ``close``.

        """
        work = Work(execute, self._running_loop(), done)
        self._queue.put(work)
        return work

    def attend(self, step: Callable[[Transaction], bool], reclaim: Callable[[Transaction], None]) -> None:
        """Have others' upkeep done with the inbox's.

        Args:
            step: does a small part of what is due, in a transaction; returns whether more is.
            reclaim: makes room in the file, in a transaction.

        """
        self._steps.append(step)
        self._keeper.reclaims.append(reclaim)

    def lease(self, request: LeaseRequest, done: Callable[[list[Leased] | WorkFailed], None]) -> None:
        """Queue a consumer's request; ``done`` is called once there are messages or the time is over.

        Raises:
            WriterStopped: after ``close``.

        """
        self._queue.put(LeaseWork(request, self.leasing, self._running_loop(), done))

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._closed:
            raise WriterStopped
        loop = self._loop
        if loop is None or loop.is_closed():
            # Kept: asking for it costs a system call for every message.
            loop = self._loop = asyncio.get_running_loop()
        return loop

    @property
    def consumers_waiting(self) -> int:
        """Consumers that wait for a message."""
        return len(self._waiting)

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
            wait = UPKEEP_PAUSE if behind else max(0.0, min(next_upkeep - time.monotonic(), self._until_due()))
            group, last = self._next_group(wait)
            if group:
                self._write(group)
            if last:
                self._dismiss(everyone=True)
                return
            if time.monotonic() >= next_upkeep or self._until_due() <= 0:
                behind = self._upkeep()
                next_upkeep = time.monotonic() + (UPKEEP_PAUSE if behind else UPKEEP_INTERVAL)
            if self._waiting:
                self._serve()
                self._dismiss()

    def _until_due(self) -> float:
        """Return seconds until a lease, a delay or the wait of a consumer ends."""
        if self._stuck:
            return UPKEEP_INTERVAL
        due = [request.wait_until for request in (lease.request for lease in self._waiting)]
        next_due = self.leasing.next_due()
        if next_due is not None:
            due.append(next_due)
        return (min(due) - self._store.clock.now_ms()) / 1000 if due else UPKEEP_INTERVAL

    def _next_group(self, wait: float) -> tuple[list[Job | Work], bool]:
        """Take what is queued, up to the bounds of a group; return it and whether the end was reached."""
        try:
            job = self._queue.get(timeout=wait)
        except queue.Empty:
            return [], False
        group: list[Job | Work] = []
        messages = size = 0
        while job is not None:
            group.append(job)
            messages += len(job.items) or 1
            size += job.size
            for item in job.items:
                size += len(item.payload)
            if messages >= MAX_GROUP_MESSAGES or size >= MAX_GROUP_BYTES:
                return group, False
            try:
                job = self._queue.get_nowait()
            except queue.Empty:
                return group, False
        return group, True

    def _write(self, group: list[Job | Work]) -> None:
        started = time.monotonic()
        work = [job for job in group if isinstance(job, Work)]
        jobs = [job for job in group if isinstance(job, Job)] if work else cast("list[Job]", group)
        items: Sequence[Checked]
        items = jobs[0].items if len(jobs) == 1 else [item for job in jobs for item in job.items]
        size = sum([len(item.payload) for item in items]) + sum([one.size for one in work])
        if size:
            self._reclaim(size)
        outcomes = self._transaction(items, work)
        if outcomes is None:
            # One of them spoils the group: each on its own, so that only that one fails.
            outcomes = [
                outcome
                for job in jobs
                for outcome in (self._in_order(job.items) if job.ordered else map(self._single, job.items))
            ]
            for one in work:
                if self._transaction((), [one]) is None:
                    one.result = WorkFailed(self._failure, disk_full=self._disk_was_full)
        position = 0
        for job in jobs:
            job.outcomes = outcomes[position : position + len(job.items)]
            position += len(job.items)
        self.groups += 1
        self.commit_seconds += time.monotonic() - started
        if work:
            group = [job for job in group if not self._waits(job)]
        self._reply(group)

    def _waits(self, job: Job | Work) -> bool:
        """Have a consumer wait that got nothing and wants to; return whether it does."""
        if not isinstance(job, LeaseWork) or job.result != [] or job.request.cancelled:
            return False
        if job.request.wait_until <= self._store.clock.now_ms():
            return False
        self._waiting.append(job)
        return True

    def _serve(self) -> None:
        """Hand messages to consumers that wait for them."""
        served = [lease for lease in self._waiting if self.leasing.ready.has(lease.request.types)]
        if not served:
            return
        if self._transaction((), served) is None:
            for lease in served:
                lease.result = []  # what it took was rolled back; it is asked for again with the next group
            return
        done = [lease for lease in served if lease.result]
        if done:
            self._waiting = [lease for lease in self._waiting if not lease.result]
            self._reply(done)

    def _dismiss(self, *, everyone: bool = False) -> None:
        """Answer the consumers that have waited long enough: there is nothing for them."""
        now = self._store.clock.now_ms()
        over = [
            lease for lease in self._waiting if everyone or lease.request.cancelled or lease.request.wait_until <= now
        ]
        if over:
            self._waiting = [lease for lease in self._waiting if lease not in over]
            self._reply(over)

    def _in_order(self, items: Sequence[Checked]) -> Iterator[Outcome]:
        """Store messages that came together, each in a transaction of its own.

        Where one finds no room, none of its priority behind it is stored, a smaller one neither: a sender that
        sends what was refused again keeps its order. Repeats are recognised all the same.
        """
        refused: dict[str, Outcome] = {}
        for item in items:
            refusal = refused.get(item.priority)
            if refusal is not None:
                yield self._store.repeat(item) or refusal
                continue
            outcome = self._single(item)
            if outcome.verdict in {Verdict.INBOX_FULL, Verdict.DISK_FULL}:
                refused[item.priority] = outcome
            yield outcome

    def _single(self, item: Checked) -> Outcome:
        outcomes = self._transaction([item], ())
        if outcomes is not None:
            return outcomes[0]
        return Outcome(Verdict.DISK_FULL if self._disk_was_full else Verdict.FAILED)

    _disk_was_full = False
    _failure = ""
    #: Whether upkeep failed the last time: what is due is then tried at its interval, not in a circle.
    _stuck = False

    def _transaction(self, items: Sequence[Checked], work: Sequence[Work]) -> Sequence[Outcome] | None:
        """Store messages and do the work, in one transaction; None if it failed and was rolled back."""
        connection = self._store.connection
        before = replace(self._store.gauges)
        tx = Transaction(connection)
        try:
            outcomes: Sequence[Outcome] | None = self._store.append_new(items) if not work else None
            if outcomes is None:
                connection.execute("BEGIN IMMEDIATE")
                outcomes = self._append(items)
                for one in work:
                    one.carry_out(tx)
                connection.execute("COMMIT")
        except (*_SURVIVABLE, WorkBroken) as error:
            self._disk_was_full = isinstance(error, apsw.FullError)
            self._failure = str(error)
            log.warning(
                "a group of %d messages and %d others was rolled back: %s", len(items), len(work), self._failure
            )
            self._rollback(before)
            tx.rolled_back()
            return None
        # Before what the work has stored: positions become ready in their order.
        self.leasing.arrived(items, outcomes)
        tx.committed()
        return outcomes

    def _append(self, items: Sequence[Checked]) -> Sequence[Outcome]:
        if not items:
            return ()
        outcomes = self._store.append_new(items)
        return self._store.append(items) if outcomes is None else outcomes

    def _rollback(self, before: Gauges) -> None:
        # SQLite may have rolled back by itself; asking again would be an error.
        if self._store.connection.in_transaction:
            self._store.connection.execute("ROLLBACK")
        self._store.restore(before)
        self._keeper.restart()

    def _reclaim(self, size: int) -> None:
        before = replace(self._store.gauges)
        try:
            dropped = self._keeper.reclaim(size)
        except _SURVIVABLE as error:
            log.debug("no room could be made: %s", error)
            self._rollback(before)
            return
        if dropped:
            self._shorten(self._keeper.cut)

    def _shorten(self, cut: Callable[[], None]) -> None:
        """Have the files made shorter, outside a transaction; what was committed before stands if that fails."""
        try:
            cut()
        except _SURVIVABLE as error:
            log.debug("the files were not made shorter: %s", error)

    def _upkeep(self) -> bool:
        connection = self._store.connection
        before = replace(self._store.gauges)
        self.drain.observe(before.received - before.pending - before.leased, time.monotonic())
        tx = Transaction(connection)
        try:
            connection.execute("BEGIN IMMEDIATE")
            more = self._keeper.step()
            more |= self.leasing.step(tx)
            for step in self._steps:
                more |= step(tx)
            connection.execute("COMMIT")
        except _SURVIVABLE as error:
            # Expiry is tried again at the next interval; the deadline of a message stays what it is.
            log.warning("upkeep of the inbox was rolled back: %s", error)
            self._rollback(before)
            tx.rolled_back()
            self._stuck = True
            return False
        tx.committed()
        self._stuck = False
        self._shorten(self._keeper.shrink)
        return more

    def _reply(self, group: Sequence[Job | Work]) -> None:
        if not group:
            return
        loop = group[0].loop
        try:
            loop.call_soon_threadsafe(_resolve, group)
        except RuntimeError:
            # The loop is closed: nobody waits any more. The messages are stored, just not acknowledged.
            log.debug("%d answers came too late", len(group))


def _resolve(group: Sequence[Job | Work]) -> None:
    for job in group:
        try:
            job.answer()
        except Exception as error:
            # The others of the group are not to wait for ever because of this one.
            log.error("an answer could not be given: %s", type(error).__name__)  # noqa: TRY400 - no payload in a log
