"""Workers: a bounded number of keys of the queue are worked on at the same time, whatever becomes of each."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from cellmesh_operator.errors import ApiError, ConnectionLost
from cellmesh_operator.reconciler.metrics import Metrics
from cellmesh_operator.reconciler.queue import Queue

#: Namespace and name of a Cell.
Key = tuple[str, str]

#: Seconds until another attempt at most, where the API server was not reached: that is no fault of the Cell's,
#: and once it is back no Cell shall wait long.
AWAY: Final = 5.0
#: Seconds that work under way may take to end when the program does.
GRACE: Final = 5.0

_log = logging.getLogger("cellmesh_operator.reconciler.looking")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the work on a key."""

    failed: bool = False
    """Something went wrong."""
    again: bool = False
    """To be tried again, later each time."""
    again_in: float | None = None
    """Seconds after which to look again although nothing failed."""
    at_least: float = 0.0
    """Seconds that the next attempt waits at least."""
    at_most: float = float("inf")
    """Seconds that it waits at most."""


class Workers:
    """Run ``work`` for each key that is due.

    Args:
        work: does it; an exception counts as a failure of that key alone.
        metrics: counts and times it.
        count: keys at a time.
        max_backoff: seconds at most between attempts.
        clock: monotonic seconds.

    """

    def __init__(
        self,
        work: Callable[[Key], Awaitable[Outcome]],
        metrics: Metrics,
        *,
        count: int,
        max_backoff: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._work = work
        self._metrics = metrics
        self._count = count
        self._clock = clock
        self._queue: Queue[Key] = Queue(max_backoff=max_backoff, random=random.random)
        self._news = asyncio.Event()
        self._stopping = False
        self._busy: set[asyncio.Task[None]] = set()

    def add(self, key: Key, *, delay: float = 0.0, urgent: bool = False) -> None:
        """Let a key be worked on; see ``Queue.add``."""
        self._queue.add(key, self._clock(), delay=delay, urgent=urgent)
        self._news.set()

    @property
    def depth(self) -> int:
        """Keys that are due and wait for a worker."""
        return self._queue.depth(self._clock())

    @property
    def failing(self) -> int:
        """Keys whose last attempt failed."""
        return sum(1 for _ in self._queue.failing())

    async def run(self) -> None:
        """Work until cancelled; then let what is under way end, for ``GRACE`` seconds at most."""
        try:
            while True:
                self._news.clear()
                while len(self._busy) < self._count and (key := self._queue.take(self._clock())) is not None:
                    task = asyncio.create_task(self._one(key), name=f"cell {key[0]}/{key[1]}")
                    self._busy.add(task)
                    task.add_done_callback(self._ended)
                await self._wait()
        finally:
            if self._busy:
                _, late = await asyncio.wait(self._busy, timeout=GRACE)
                for task in late:
                    task.cancel()

    async def _wait(self) -> None:
        due = None if len(self._busy) >= self._count else self._queue.next_due()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if due is None else max(due - self._clock(), 0.0)):
                await self._news.wait()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._busy.discard(task)
        self._news.set()

    async def _one(self, key: Key) -> None:
        started = self._clock()
        outcome = Outcome(failed=True, again=True)
        try:
            outcome = await self._work(key)
        except ConnectionLost as error:
            outcome = Outcome(failed=True, again=True, at_most=AWAY)
            _log.info("%s/%s: %s; will be tried again", *key, error)
        except ApiError as error:
            outcome = Outcome(failed=True, again=True, at_least=error.retry_after or 0.0)
            _log.warning("%s/%s: the API server refused: %s", *key, error)
        except Exception:
            # A bug, or an object as nobody has seen one: of this Cell alone, and to be found in the log.
            _log.exception("%s/%s: unexpected error", *key)
        finally:
            now = self._clock()
            wait = self._queue.done(key, now, failed=outcome.again, at_least=outcome.at_least, at_most=outcome.at_most)
            if outcome.again_in is not None and not outcome.again:
                self._queue.add(key, now, delay=outcome.again_in)
            self._metrics.reconciled(now - started, failed=outcome.failed)
        if wait is not None:
            _log.debug("%s/%s: next attempt in %.1f s", *key, wait)
