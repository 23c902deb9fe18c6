"""What an endpoint answers, before it becomes HTTP."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Callable, Container, Coroutine
from typing import Any, NamedTuple

from cellmesh.protocol.messages import encode
from cellmesh.protocol.problems import Problem

log = logging.getLogger(__name__)

Headers = tuple[tuple[bytes, bytes], ...]


class Reply(NamedTuple):
    """Status, JSON body and headers besides the content's type and length."""

    status: int
    body: bytes
    headers: Headers = ()


#: The header of a request whose messages are to be stored in order.
ORDERED = (b"cellmesh-ordered", b"true")
#: Where a reply goes; called once, on the event loop, when there is one. Returns whether the client was still there.
Answer = Callable[[Reply], bool]
#: What answers an endpoint: takes the body of a request and gives the reply to the second argument. No
#: coroutine: on the message path a task for each request would cost as much as storing its message.
Handler = Callable[[bytes, Answer], None]


def when_gone(answer: Answer, effect: Callable[[], None]) -> None:
    """Have ``effect`` called if the client goes away before it is answered, where that can be seen."""
    watch = getattr(answer, "when_gone", None)
    if watch is not None:
        watch(effect)


class Awaited:
    """The answer to a coroutine of this process, which awaits ``reply``; cancelled, it is a client that is gone."""

    def __init__(self) -> None:
        self._future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

    def __call__(self, reply: Reply) -> bool:
        """Take the answer; return whether somebody still waits for it."""
        if self._future.done():
            return False
        self._future.set_result(reply)
        return True

    def when_gone(self, effect: Callable[[], None]) -> None:
        """Have ``effect`` called if nobody waits any more."""
        self._future.add_done_callback(lambda future: effect() if future.cancelled() else None)

    async def reply(self) -> Reply:
        """Return the answer once it is there."""
        return await self._future


class Endpoint(NamedTuple):
    """An endpoint that takes messages: what answers it, its longest body in bytes, and how it says a problem.

    ``ordered`` is what answers a request that asks for order.
    """

    handler: Handler
    limit: int
    refuse: Callable[[Problem], Reply]
    ordered: Handler | None = None

    def answering(self, headers: Container[tuple[bytes, bytes]]) -> Handler:
        """Return what answers a request with these headers."""
        return self.handler if self.ordered is None or ORDERED not in headers else self.ordered


def refuse(problem: Problem) -> Reply:
    """Return the reply that says a problem."""
    return Reply(problem.http_status, encode(problem.body()), tuple(problem.headers()))


def later(work: Coroutine[Any, Any, Reply], answer: Answer, what: str) -> asyncio.Task[Reply]:
    """Run what makes a reply in a task of its own; whatever happens, answer. ``what`` is for the log."""
    task = asyncio.get_running_loop().create_task(work)

    def ended(task: asyncio.Task[Reply]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, Problem):
            answer(refuse(error))
        elif error is not None:
            answer(failure(what, error))
        else:
            answer(task.result())

    task.add_done_callback(ended)
    return task


def failure(what: str, error: BaseException) -> Reply:
    """Log an error that should not be, and return the reply that hides it."""
    # The text of an error may quote the message; its type and place do not.
    place = "".join(traceback.format_tb(error.__traceback__))
    log.error("%s failed: %s\n%s", what, type(error).__name__, place)
    return refuse(Problem("internal", "the request failed; see the log of the cell"))
