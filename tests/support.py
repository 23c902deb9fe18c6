"""What tests of every kind share: the one way to wait, and free ports."""

from __future__ import annotations

import asyncio
import inspect
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")

#: Seconds between two looks; short, because a test that waits longer than needed is a slow test.
INTERVAL = 0.02


def eventually(check: Callable[[], T], *, within: float, message: str = "") -> T:
    """Call ``check`` until it neither raises nor returns something false; return what it returned.

    Args:
        check: the question; an exception counts as "not yet".
        within: deadline in seconds.
        message: what was waited for, for the report.

    Raises:
        AssertionError: at the deadline, with the last answer or exception.

    """
    deadline = time.monotonic() + within
    while True:
        last: Any
        try:
            last = answer = check()
            if answer:
                return answer
        except Exception as error:
            last = error
        if time.monotonic() >= deadline:
            raise _too_late(message, within, last)
        time.sleep(INTERVAL)


async def eventually_async(
    check: Callable[[], Awaitable[T]] | Callable[[], T], *, within: float, message: str = ""
) -> T:
    """Like ``eventually``, for a running event loop; ``check`` may be a coroutine function."""
    deadline = time.monotonic() + within
    while True:
        last: Any
        try:
            last = answer = check()
            if inspect.isawaitable(answer):
                async with asyncio.timeout(max(deadline - time.monotonic(), INTERVAL)):
                    last = answer = await answer
            if answer:
                return answer  # type: ignore[return-value]
        except Exception as error:
            last = error
        if time.monotonic() >= deadline:
            raise _too_late(message, within, last)
        await asyncio.sleep(INTERVAL)


def _too_late(message: str, within: float, last: Any) -> AssertionError:
    seen = f"{type(last).__name__}: {last}" if isinstance(last, Exception) else repr(last)
    failure = AssertionError(f"{message or 'what was waited for'}: not within {within:g} s; last seen: {seen[:2000]}")
    if isinstance(last, Exception):
        failure.__cause__ = last
    return failure


def free_port() -> int:
    """Return a TCP port that was free a moment ago on this machine."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
