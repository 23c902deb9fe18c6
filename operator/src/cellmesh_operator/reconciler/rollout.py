"""Which Cells a change of the operator may reach now. Pure: times are given.

A new default image or a new builder changes every Cell at once though nobody touched one. It goes to ``limit`` Cells
at a time: each takes a slot and gives it back when it is Ready and up to date. While more than ``limit`` Cells of
all are not Ready, none that is Ready is touched: whatever is wrong, it shall not take more of them down.
A Cell that is not Ready already may be the one that the change mends, so it goes first, is not halted, and
keeps its slot no longer than ``PATIENCE``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from cellmesh_operator.reconciler.store import Key

#: Seconds that a Cell which was not Ready before its turn may keep its slot without becoming Ready.
PATIENCE: Final = 60.0
#: Seconds that a Cell keeps a slot that it seems to have had before a restart.
ADOPTED: Final = 600.0


class Rollout:
    """The slots, and who waits for one.

    Args:
        limit: Cells at a time.

    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._not_ready: set[Key] = set()
        self._waiting: set[Key] = set()
        self._until: dict[Key, float | None] = {}
        """Those that hold a slot, and until when; None: until they are Ready."""

    @property
    def holders(self) -> int:
        """Cells that a change is being rolled out to."""
        return len(self._until)

    @property
    def waiting(self) -> int:
        """Cells that wait for their turn."""
        return len(self._waiting)

    @property
    def halted(self) -> bool:
        """Whether Cells that are Ready have to wait because too many are not."""
        return len(self._not_ready) > self._limit

    def holds(self, key: Key) -> bool:
        """Tell whether a Cell has a slot."""
        return key in self._until

    def acquire(self, key: Key, now: float) -> bool:
        """Take a slot for a Cell if it may have one; else it waits and ``saw`` or ``forget`` name it later."""
        if key in self._until:
            return True
        self._expire(now)
        ready = key not in self._not_ready
        if len(self._until) >= self._limit or (ready and self.halted):
            self._waiting.add(key)
            return False
        self._waiting.discard(key)
        self._until[key] = None if ready else now + PATIENCE
        return True

    def adopt(self, key: Key, now: float) -> None:
        """Give a slot to a Cell that seems to have had one before a restart of ours."""
        self._until[key] = now + ADOPTED

    def again_in(self, key: Key, now: float) -> float | None:
        """Return the seconds until a Cell loses its slot; None if it has none, or keeps it until it is Ready."""
        until = self._until.get(key)
        return None if until is None else max(until - now, 0.1)

    def saw(self, key: Key, now: float, *, ready: bool, up_to_date: bool) -> Iterable[Key]:
        """Take note of a Cell's state; return the Cells whose turn has come by that."""
        if ready:
            self._not_ready.discard(key)
        else:
            self._not_ready.add(key)
        if up_to_date:
            self._waiting.discard(key)
            if ready:
                self._until.pop(key, None)
        return self._next(now)

    def forget(self, key: Key, now: float) -> Iterable[Key]:
        """Take note that a Cell is gone; return the Cells whose turn has come by that."""
        self._not_ready.discard(key)
        self._waiting.discard(key)
        self._until.pop(key, None)
        return self._next(now)

    def _expire(self, now: float) -> None:
        for key in [key for key, until in self._until.items() if until is not None and until <= now]:
            del self._until[key]

    def _next(self, now: float) -> list[Key]:
        if not self._waiting:
            return []
        self._expire(now)
        free = self._limit - len(self._until)
        if free <= 0:
            return []
        candidates = self._waiting & self._not_ready if self.halted else self._waiting
        return sorted(candidates, key=lambda key: (key not in self._not_ready, key))[:free]
