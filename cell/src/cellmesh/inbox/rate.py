"""How fast messages go, and so when there may be room again."""

from __future__ import annotations

import math

#: Bounds of what is told, seconds.
LEAST, MOST = 1, 60
#: Seconds over which the rate is averaged: older ones fade.
MEMORY = 10.0


class DrainRate:
    """Messages that end per second, lately."""

    def __init__(self) -> None:
        self._rate = 0.0
        self._ended: int | None = None
        self._at = 0.0

    def observe(self, ended: int, now: float) -> None:
        """Note how many messages have ended so far, at a time in seconds of any steady clock."""
        before, self._ended = self._ended, ended
        elapsed, self._at = now - self._at, now
        if before is None or elapsed <= 0:
            return
        # How much of the average is new. Divided first: of an instant, what ended in it is no rate.
        news = -math.expm1(-elapsed / MEMORY)
        # Dead letters that are put back make it less than before: nothing ended then.
        self._rate = self._rate * (1 - news) + max(0, ended - before) * (news / elapsed)

    def retry_after(self, surplus: int) -> int:
        """Return seconds until so many messages have gone, 1 to 60; 60 if none have lately."""
        surplus = max(1, surplus)
        if self._rate * MOST <= surplus:
            return MOST
        return max(LEAST, math.ceil(surplus / self._rate))
