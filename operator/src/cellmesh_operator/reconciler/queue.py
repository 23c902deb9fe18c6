"""Which Cell to work on next: each key at most once at a time, coalesced, later and later while it fails.

No I/O and no clock of its own: times are seconds of any monotonic clock, given by the caller. ``worker.py``
runs it.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)

#: Seconds until the first new attempt.
FIRST_BACKOFF: Final = 1.0
#: What a backoff is multiplied with: at random in this range, so that those that fail together part.
JITTER: Final = (0.8, 1.2)


@dataclass(slots=True)
class _State:
    due: float | None = None
    """When to work on it; None: not waiting."""
    running: bool = False
    failures: int = 0
    not_before: float = 0.0
    """Until then a key that fails is left alone, whatever happens around it."""
    pressed: bool = False
    """Something urgent came while it was worked on, so what failed was perhaps the old state."""


class Queue(Generic[K]):
    """Keys and when each is due.

    Args:
        max_backoff: seconds at most between attempts.
        random: returns numbers from 0 to 1.

    """

    def __init__(self, *, max_backoff: float, random: Callable[[], float]) -> None:
        self._max_backoff = max_backoff
        self._random = random
        self._states: dict[K, _State] = {}
        # Entries whose time is no longer that of their key are left in and skipped: cheaper than to remove them.
        self._heap: list[tuple[float, int, K]] = []
        self._order = itertools.count()

    def add(self, key: K, now: float, *, delay: float = 0.0, urgent: bool = False) -> None:
        """Let a key be worked on after ``delay``, or earlier if it was due earlier.

        Args:
            key: the key.
            now: the time.
            delay: seconds.
            urgent: also while it is kept back because it fails; what failed may have been mended.

        """
        state = self._states.setdefault(key, _State())
        due = now + delay
        if urgent:
            state.not_before = 0.0
            state.pressed = state.running
        else:
            due = max(due, state.not_before)
        if state.due is None or due < state.due:
            state.due = due
            if not state.running:
                self._push(due, key)

    def take(self, now: float) -> K | None:
        """Return the key that is due longest and mark it as being worked on, or None if none is due."""
        while self._heap and self._heap[0][0] <= now:
            due, _, key = heapq.heappop(self._heap)
            state = self._states.get(key)
            if state is None or state.running or state.due != due:
                continue
            state.running, state.pressed, state.due = True, False, None
            return key
        return None

    def done(
        self, key: K, now: float, *, failed: bool, at_least: float = 0.0, at_most: float = float("inf")
    ) -> float | None:
        """Say that the work on a key has ended; return the seconds until its next attempt if it failed.

        Args:
            key: the key.
            now: the time.
            failed: try again later, each time twice as much later.
            at_least: seconds that the next attempt waits at least, as the server may demand.
            at_most: seconds that it waits at most; for what is nothing of the key's own.

        """
        state = self._states[key]
        state.running = False
        wait: float | None = None
        if failed and not state.pressed:
            wait = max(min(self._backoff(state.failures), at_most), at_least)
            state.failures += 1
            state.not_before = now + wait
            state.due = state.not_before
        else:
            state.failures, state.not_before = 0, 0.0
        if state.due is not None:
            self._push(state.due, key)
        else:
            del self._states[key]
        return wait

    def next_due(self) -> float | None:
        """Return when the next key is due; None if none waits."""
        while self._heap:
            due, _, key = self._heap[0]
            state = self._states.get(key)
            if state is not None and not state.running and state.due == due:
                return due
            heapq.heappop(self._heap)
        return None

    def failing(self) -> Iterator[K]:
        """Yield the keys whose last attempt failed."""
        return (key for key, state in self._states.items() if state.failures)

    def depth(self, now: float) -> int:
        """Return how many keys are due and not worked on yet."""
        return sum(
            1 for state in self._states.values() if not state.running and state.due is not None and state.due <= now
        )

    def _push(self, due: float, key: K) -> None:
        heapq.heappush(self._heap, (due, next(self._order), key))

    def _backoff(self, failures: int) -> float:
        # Bounded before the power, which has no end.
        plain = min(FIRST_BACKOFF * 2.0 ** min(failures, 30), self._max_backoff)
        low, high = JITTER
        return min(plain * (low + (high - low) * self._random()), self._max_backoff)
