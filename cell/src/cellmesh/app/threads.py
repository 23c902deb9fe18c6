"""Threads for handlers that are not coroutines."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, NamedTuple


class _Work(NamedTuple):
    function: Callable[[], Any]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]


class Threads:
    """Runs functions in threads, as many as there are functions; threads that are free are used again.

    The executors of the standard library wait for their threads when the process ends; a handler that never
    returns must not keep it. So these are daemons.
    """

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._count = 0

    def run(self, function: Callable[[], Any]) -> asyncio.Future[Any]:
        """Run a function in a thread; the future, of the loop that runs now, has its result."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._queue.put(_Work(function, loop, future))
        if not self._idle.acquire(blocking=False):
            self._count += 1
            threading.Thread(target=self._work, name=f"handler-{self._count}", daemon=True).start()
        return future

    def close(self) -> None:
        """Let the threads end that are free; others end after what they are doing."""
        for _ in range(self._count):
            self._queue.put(None)

    def _work(self) -> None:
        while (work := self._queue.get()) is not None:
            result: Any = None
            error: BaseException | None = None
            try:
                result = work.function()
            except StopIteration as stop:
                # A future cannot hold it.
                error = RuntimeError("StopIteration")
                error.__cause__ = stop
            except BaseException as raised:  # SystemExit as well: it is a handler's end, not the process'
                error = raised
            with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits
                work.loop.call_soon_threadsafe(_resolve, work.future, result, error)
            del work, result, error
            self._idle.release()


def _resolve(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
