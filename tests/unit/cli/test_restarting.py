"""Decisions about processes that have died."""

from __future__ import annotations

import pytest

from cellmesh.cli.restarting import FIRST, LONGEST, STEADY, GiveUp, Restart, backoff, decide, describe


@pytest.mark.parametrize(
    ("failures", "seconds"), [(0, 0.5), (1, 0.5), (2, 1.0), (3, 2.0), (4, 4.0), (5, 8.0), (6, 10.0), (10**6, 10.0)]
)
def test_the_wait_doubles_up_to_its_bound(failures: int, seconds: float) -> None:
    """From half a second to ten."""
    assert backoff(failures) == seconds


@pytest.mark.parametrize("code", [0, 1, 3, 255, -9, -15])
def test_whatever_ends_unasked_is_restarted(code: int) -> None:
    """A clean exit that nobody asked for is as bad as a crash."""
    assert decide(code, lived=0.1, failures=0) == Restart(FIRST, 1)


def test_settings_that_cannot_be_used_are_not_tried_again() -> None:
    """Exit code 2 says that a restart changes nothing."""
    assert isinstance(decide(2, lived=100.0, failures=0), GiveUp)


def test_short_lives_in_a_row_wait_longer_each_time() -> None:
    """The decision's count leads to the next one."""
    waits, failures = [], 0
    for _ in range(8):
        decision = decide(1, lived=0.2, failures=failures)
        assert isinstance(decision, Restart)
        waits.append(decision.after)
        failures = decision.failures

    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, LONGEST, LONGEST, LONGEST]


def test_a_long_life_is_forgiven() -> None:
    """Ten seconds of life and the next wait is the first again."""
    assert decide(-9, lived=STEADY, failures=50) == Restart(FIRST, 1)


@pytest.mark.parametrize(
    ("code", "words"),
    [(1, "exit code 1"), (-9, "killed by SIGKILL"), (-99, "killed by signal 99")],
)
def test_exit_codes_are_told_in_words(code: int, words: str) -> None:
    """Signals by their names."""
    assert describe(code) == words
