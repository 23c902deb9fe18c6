"""Time for deadlines: starts at the wall clock, runs on the monotonic one."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache


class SteadyClock:
    """Milliseconds since the epoch that never jump while the process lives.

    No decision of an inbox may follow a step of the wall clock (design: time). So the wall clock is read
    once, at start, and everything after is counted on the monotonic clock. Deadlines on disk are in
    this time; those of an earlier process are clamped at start to their original length.
    """

    def __init__(self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._offset = wall() - monotonic()

    def now_ms(self) -> int:
        """Return the current time in milliseconds since the epoch."""
        return int((self._offset + self._monotonic()) * 1000)


def iso(ms: int) -> str:
    """Return milliseconds since the epoch as ISO 8601 in UTC."""
    return f"{_second(ms // 1000)}.{ms % 1000:03d}Z"


@lru_cache(maxsize=64)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
