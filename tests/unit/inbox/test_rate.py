"""When there may be room again, from how fast messages go."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cellmesh.inbox.rate import DrainRate


def steady(rate: float, seconds: int = 60) -> DrainRate:
    """Return what has seen so many messages a second end, for so long."""
    drain = DrainRate()
    for half in range(2 * seconds):
        drain.observe(int(rate * half / 2), half / 2)
    return drain


@pytest.mark.parametrize(("rate", "surplus", "seconds"), [(100, 500, 5), (100, 1, 1), (10, 55, 6), (1000, 10**6, 60)])
def test_the_time_is_what_the_surplus_takes_at_the_rate(rate: float, surplus: int, seconds: int) -> None:
    """Expect the quotient, rounded up, within 1 and 60."""
    assert abs(steady(rate).retry_after(surplus) - seconds) <= 1


def test_without_anything_ended_lately_it_is_the_longest() -> None:
    """Expect a minute at first, and again some time after the last message went."""
    assert DrainRate().retry_after(1) == 60
    drain = steady(100)
    for second in range(60, 200):
        drain.observe(6000, second)
    assert drain.retry_after(1) == 60


@example(seen=[(0, 0.0), (1, 5e-324)], surplus=1)
@given(
    seen=st.lists(st.tuples(st.integers(0, 10**6), st.floats(0, 10**6)), max_size=30), surplus=st.integers(-10, 10**7)
)
def test_it_is_always_within_its_bounds(seen: list[tuple[int, float]], surplus: int) -> None:
    """Expect 1 to 60, whatever was seen: also counts and times that go back."""
    drain = DrainRate()
    for ended, now in seen:
        drain.observe(ended, now)
    assert 1 <= drain.retry_after(surplus) <= 60
