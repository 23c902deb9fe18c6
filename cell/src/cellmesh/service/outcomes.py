"""What came of handing a message to a handler, and how long to wait before the next try: pure decisions."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import Any

#: Longest reason kept with a message, characters.
MAX_REASON = 200


@dataclass(frozen=True)
class Done:
    """Handled; ``reply`` is the JSON object to answer with, if any."""

    reply: bytes | None = None


@dataclass(frozen=True)
class Failed:
    """Not handled: tried again after a backoff, and in the end a dead letter.

    ``reason`` is kept with the message and so holds nothing of it; ``place`` is where in the author's code, for
    the log. ``still`` is what runs on although nobody waits for it any more: its place in the pool is not free.
    """

    reason: str
    place: str = ""
    still: asyncio.Future[Any] | None = None


@dataclass(frozen=True)
class Rejected:
    """Can never be handled: a dead letter at once."""

    reason: str


@dataclass(frozen=True)
class Later:
    """Not now: handed out again after so many seconds, which counts as no delivery.

    With ``all`` it is the handler that is busy or away, not this message: others wait as well.
    """

    after: float
    reason: str
    all: bool = False


Outcome = Done | Failed | Rejected | Later


@dataclass(frozen=True)
class Backoff:
    """Seconds between tries: ``first``, doubled each time up to ``most``, with the upper half left to chance.

    Chance, so that messages that failed together do not all come back together.
    """

    first: float = 1.0
    most: float = 60.0

    def after(self, tries: int) -> float:
        """Return the seconds to wait after so many tries, at least one."""
        # Beyond so many doublings nothing changes any more, and 2.0 ** 10000 is no number.
        whole = min(self.most, self.first * 2.0 ** min(max(tries - 1, 0), 32))
        return whole * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
