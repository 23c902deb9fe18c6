"""The queue: who is next, and who waits how long."""

from __future__ import annotations

import pytest

from cellmesh_operator.reconciler.queue import Queue


def queue(max_backoff: float = 60.0, random: float = 0.5) -> Queue[str]:
    """Return a queue whose jitter is fixed; at 0.5 there is none."""
    return Queue(max_backoff=max_backoff, random=lambda: random)


def test_a_key_that_is_added_many_times_is_taken_once() -> None:
    """Expect one turn for three news."""
    waiting = queue()
    for _ in range(3):
        waiting.add("a", 0.0)
    assert (waiting.take(0.0), waiting.take(0.0)) == ("a", None)


def test_keys_are_taken_in_the_order_in_which_they_are_due() -> None:
    """Expect the one that has been due longest first."""
    waiting = queue()
    waiting.add("late", 0.0, delay=2.0)
    waiting.add("soon", 1.0)
    assert [waiting.take(5.0), waiting.take(5.0)] == ["soon", "late"]


def test_a_key_is_not_due_before_its_delay() -> None:
    """Expect nothing until then, and to be told when."""
    waiting = queue()
    waiting.add("a", 10.0, delay=3.0)
    assert waiting.take(12.9) is None
    assert waiting.next_due() == 13.0
    assert waiting.take(13.0) == "a"


def test_the_earlier_of_two_times_counts() -> None:
    """Expect a later addition neither to put off nor to repeat a turn."""
    waiting = queue()
    waiting.add("a", 0.0, delay=1.0)
    waiting.add("a", 0.0, delay=5.0)
    assert waiting.take(1.0) == "a"
    waiting.done("a", 1.0, failed=False)
    assert waiting.take(10.0) is None


def test_a_key_is_worked_on_by_one_at_a_time_and_news_meanwhile_are_not_lost() -> None:
    """Expect no second turn while the first lasts, and one afterwards."""
    waiting = queue()
    waiting.add("a", 0.0)
    assert waiting.take(0.0) == "a"
    waiting.add("a", 0.5)
    assert waiting.take(0.5) is None
    waiting.done("a", 1.0, failed=False)
    assert waiting.take(1.0) == "a"


def test_a_key_that_fails_comes_again_later_each_time() -> None:
    """Expect waits that double, up to the bound."""
    waiting, now, waits = queue(max_backoff=10.0), 0.0, []
    waiting.add("a", now)
    for _ in range(6):
        assert waiting.take(now) == "a"
        wait = waiting.done("a", now, failed=True)
        assert wait is not None
        assert waiting.take(now + wait - 0.01) is None
        waits.append(wait)
        now += wait
    assert waits == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


@pytest.mark.parametrize(("random", "wait"), [(0.0, 0.8), (1.0, 1.2)])
def test_those_that_fail_together_part(random: float, wait: float) -> None:
    """Expect the wait to vary by a fifth either way."""
    waiting = queue(random=random)
    waiting.add("a", 0.0)
    waiting.take(0.0)
    assert waiting.done("a", 0.0, failed=True) == pytest.approx(wait)


def test_success_makes_the_next_failure_the_first() -> None:
    """Expect the shortest wait again."""
    waiting = queue()
    waiting.add("a", 0.0)
    waiting.take(0.0)
    waiting.done("a", 0.0, failed=True)
    waiting.take(1.0)
    waiting.done("a", 1.0, failed=False)
    waiting.add("a", 2.0)
    waiting.take(2.0)
    assert waiting.done("a", 2.0, failed=True) == 1.0


def test_a_key_that_fails_is_left_alone_whatever_happens_around_it() -> None:
    """Expect ordinary news not to cut the wait short."""
    waiting = queue()
    waiting.add("a", 0.0)
    waiting.take(0.0)
    waiting.done("a", 0.0, failed=True)
    waiting.add("a", 0.1)
    assert waiting.take(0.9) is None
    assert waiting.take(1.0) == "a"


def test_urgent_news_end_the_wait() -> None:
    """Expect a turn at once: what failed may have been mended."""
    waiting = queue()
    waiting.add("a", 0.0)
    waiting.take(0.0)
    waiting.done("a", 0.0, failed=True)
    waiting.add("a", 0.1, urgent=True)
    assert waiting.take(0.1) == "a"


def test_urgent_news_during_an_attempt_that_fails_are_not_put_off() -> None:
    """Expect a turn at once, since what failed was the state before."""
    waiting = queue()
    waiting.add("a", 0.0)
    waiting.take(0.0)
    waiting.add("a", 0.1, urgent=True)
    assert waiting.done("a", 0.2, failed=True) is None
    assert waiting.take(0.2) == "a"


def test_the_server_may_demand_a_longer_wait() -> None:
    """Expect Retry-After to win over the backoff."""
    waiting = queue()
    waiting.add("a", 0.0)
    waiting.take(0.0)
    assert waiting.done("a", 0.0, failed=True, at_least=7.0) == 7.0


def test_a_wait_may_be_bounded_where_the_key_is_not_to_blame() -> None:
    """Expect no long wait after any number of failures."""
    waiting, now = queue(), 0.0
    waiting.add("a", now)
    for _ in range(8):
        assert waiting.take(now) == "a"
        wait = waiting.done("a", now, failed=True, at_most=3.0)
        assert wait is not None
        assert wait <= 3.0
        now += wait


def test_depth_counts_what_is_due_and_not_taken() -> None:
    """Expect neither the delayed nor the running to count."""
    waiting = queue()
    for key in ("running", "due"):
        waiting.add(key, 0.0)
    waiting.add("delayed", 0.0, delay=5.0)
    waiting.take(0.0)
    assert (waiting.depth(1.0), waiting.depth(5.0)) == (1, 2)


def test_a_key_that_is_done_leaves_nothing_behind() -> None:
    """Expect memory not to grow with the number of keys ever seen."""
    waiting = queue()
    for number in range(100):
        waiting.add(f"k{number}", 0.0)
        key = waiting.take(0.0)
        assert key is not None
        waiting.done(key, 0.0, failed=False)
    assert waiting.next_due() is None
    assert (len(waiting._states), len(waiting._heap)) == (0, 0)
