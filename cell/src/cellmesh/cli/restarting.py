"""Whether and when a process that has died is started again: pure decisions."""

from __future__ import annotations

import signal
from dataclasses import dataclass

#: Seconds before the first restart; doubled for each further one, up to LONGEST.
FIRST = 0.5
LONGEST = 10.0
#: A process that lived this long, in seconds, was well: its next end counts as the first.
STEADY = 10.0
#: Exit code of a process that will not come up before somebody changes something.
HOPELESS = 2


@dataclass(frozen=True)
class Restart:
    """Start it again after so many seconds; ``failures`` is to be handed in at its next end."""

    after: float
    failures: int


@dataclass(frozen=True)
class GiveUp:
    """Leave it down, for this reason."""

    reason: str


def backoff(failures: int) -> float:
    """Return the seconds to wait after so many short lives in a row, the last one included."""
    # Beyond ten doublings nothing changes any more, and 2.0 ** 10000 is no number.
    return float(min(LONGEST, FIRST * 2.0 ** min(max(failures - 1, 0), 10)))


def decide(code: int, lived: float, failures: int) -> Restart | GiveUp:
    """Return what to do about a process that has ended though nobody told it to.

    Args:
        code: its exit code; negative: minus the number of the signal that killed it.
        lived: how long it ran, in seconds.
        failures: ``failures`` of the last decision about it, at first 0.

    """
    if code == HOPELESS:
        return GiveUp("its settings or its data cannot be used; put that right and start again")
    failures = 1 if lived >= STEADY else failures + 1
    return Restart(backoff(failures), failures)


def describe(code: int) -> str:
    """Return an exit code in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
