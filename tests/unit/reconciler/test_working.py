"""Workers: bounded, and each Cell on its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import pytest

from cellmesh_operator.errors import ApiError, ConnectionLost
from cellmesh_operator.reconciler.metrics import Metrics
from cellmesh_operator.reconciler.working import Key, Outcome, Workers
from support import eventually_async

pytestmark = pytest.mark.anyio

Work = Callable[[Key], Awaitable[Outcome]]


def workers(work: Work, *, count: int = 2, max_backoff: float = 60.0) -> Workers:
    """Return workers on the real clock."""
    return Workers(work, Metrics(), count=count, max_backoff=max_backoff)


def key(name: str) -> Key:
    """Return a key."""
    return ("mesh", name)


async def test_no_more_keys_than_allowed_are_worked_on_at_a_time() -> None:
    """Expect the third to wait until one of two has ended."""
    running: list[str] = []
    free = asyncio.Event()

    async def work(one: Key) -> Outcome:
        running.append(one[1])
        await free.wait()
        return Outcome()

    pool = workers(work)
    task = asyncio.create_task(pool.run())
    for name in "abc":
        pool.add(key(name))
    await eventually_async(lambda: len(running) == 2, within=2)
    assert pool.depth == 1
    free.set()
    await eventually_async(lambda: sorted(running) == ["a", "b", "c"], within=2)
    task.cancel()


@pytest.mark.parametrize("error", [ApiError(500, "InternalError"), ConnectionLost("reset"), ValueError("a bug")])
async def test_a_bad_cell_does_not_stop_the_others(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """Expect the others to be worked on, and the bad one to be tried again."""
    done: list[str] = []

    async def work(one: Key) -> Outcome:
        done.append(one[1])
        if one[1] == "bad":
            raise error
        return Outcome()

    pool = workers(work, count=1)
    task = asyncio.create_task(pool.run())
    with caplog.at_level(logging.INFO):
        for name in ("bad", "a", "b"):
            pool.add(key(name))
        await eventually_async(lambda: {"a", "b"} <= set(done), within=2)
        assert pool.failing == 1
        await eventually_async(lambda: done.count("bad") == 2, within=3)
    task.cancel()
    assert "mesh/bad" in caplog.text


async def test_only_a_bug_shows_a_stack_trace(caplog: pytest.LogCaptureFixture) -> None:
    """Expect refusals and lost connections to be told in one line."""
    errors: list[Exception] = [ApiError(403, "Forbidden", "no"), ConnectionLost("reset")]

    async def work(one: Key) -> Outcome:
        raise errors[int(one[1])]

    pool = workers(work)
    task = asyncio.create_task(pool.run())
    with caplog.at_level(logging.DEBUG):
        pool.add(key("0"))
        pool.add(key("1"))
        await eventually_async(lambda: pool.failing == 2, within=2)
    task.cancel()
    assert all(record.exc_info is None for record in caplog.records)


async def test_the_server_is_given_the_time_it_asks_for() -> None:
    """Expect no second attempt within Retry-After although the backoff is shorter."""
    attempts = 0

    async def work(_: Key) -> Outcome:
        nonlocal attempts
        attempts += 1
        raise ApiError(429, "TooManyRequests", retry_after=30.0)

    pool = workers(work, max_backoff=1.0)
    task = asyncio.create_task(pool.run())
    pool.add(key("a"))
    await eventually_async(lambda: pool.failing == 1, within=2)
    due = pool._queue.next_due()
    assert due is not None
    assert due - pool._clock() > 25
    task.cancel()
    assert attempts == 1


async def test_a_look_may_ask_for_another() -> None:
    """Expect a second look after the time it named."""
    looks = 0

    async def work(_: Key) -> Outcome:
        nonlocal looks
        looks += 1
        return Outcome(again_in=0.01 if looks == 1 else None)

    pool = workers(work)
    task = asyncio.create_task(pool.run())
    pool.add(key("a"))
    await eventually_async(lambda: looks == 2, within=2)
    task.cancel()


async def test_what_is_under_way_ends_before_the_program_does() -> None:
    """Expect a write that has begun to be finished."""
    begun, finish, finished = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work(_: Key) -> Outcome:
        begun.set()
        await finish.wait()
        finished.set()
        return Outcome()

    pool = workers(work)
    task = asyncio.create_task(pool.run())
    pool.add(key("a"))
    await begun.wait()
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    finish.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert finished.is_set()
