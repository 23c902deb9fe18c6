"""A declared cell inside a running one: its hooks are called, its handlers get the messages."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
from collections.abc import Callable, Sequence
from typing import Any

from cellmesh.app.calls import object_of
from cellmesh.app.cell import Cell, Registered
from cellmesh.app.errors import Reject, Retry
from cellmesh.app.message import Message, current, of_stored
from cellmesh.app.places import place
from cellmesh.app.threads import Threads
from cellmesh.errors import AppError
from cellmesh.protocol.receipts import StoredMessage
from cellmesh.service import cell as service
from cellmesh.service.outcomes import Backoff, Done, Failed, Later, Outcome, Rejected
from cellmesh.service.reply import Reply

log = logging.getLogger(__name__)

#: Least seconds between two tries of a message whose handler raised ``Retry``.
LEAST_RETRY = 0.1
#: How long a handler that is cancelled may take to end, seconds.
CANCEL_GRACE = 1.0


class Host:
    """Runs a declared cell as part of a running one.

    Args:
        app: the declared cell.
        cell: the running one.
        backoff: how long a message waits that was not handled; None: as the declared cell says.

    Raises:
        RuntimeError: the declared cell is run already.

    """

    def __init__(self, app: Cell, cell: service.Cell, *, backoff: Backoff | None = None) -> None:
        if app.mesh is not None:
            raise RuntimeError("this cell runs already; make another Cell for another instance")
        self._app = app
        self._cell = cell
        self._backoff = backoff or app.backoff
        self._threads = Threads()
        self.loop = asyncio.get_running_loop()
        app.mesh = self

    async def start(self) -> None:
        """Call what wants to be called at the start, then begin to handle messages.

        Raises:
            AppError: what was called has failed; says where.

        """
        await self._call(self._app.starting, "on_start")
        if self._app.handlers:
            handler = Dispatch(self._app, self._threads)
            self._cell.handle_with(handler, lease=self._app.lease, backoff=self._backoff)

    async def stop(self) -> None:
        """Call what wants to be called at the end; whatever fails there is logged."""
        try:
            await self._call(self._app.stopping, "on_stop")
        except AppError as error:
            log.error("%s", error)  # noqa: TRY400 - its text says it all

    def close(self) -> None:
        """Take the declared cell out again; it can be run anew."""
        self._app.mesh = None
        self._threads.close()

    async def submit(self, body: bytes) -> Reply:
        """Do what ``POST /send`` does."""
        return await self._cell.submit(body)

    async def _call(self, hooks: Sequence[Callable[[], Any]], what: str) -> None:
        for hook in hooks:
            try:
                if inspect.iscoroutinefunction(hook):
                    await hook()
                else:
                    await self._threads.run(hook)
            except (Exception, SystemExit) as error:
                log.debug("%s", what, exc_info=error)
                text = str(error).splitlines()[:1]
                raise AppError(f"{what}: {': '.join([type(error).__name__, *text])} ({place(error)})") from error


class Dispatch:
    """The handlers of a declared cell as one handler of a running one.

    Args:
        app: the declared cell.
        threads: where handlers run that are not coroutines.

    """

    def __init__(self, app: Cell, threads: Threads) -> None:
        self._handlers = app.handlers
        self._timeout = app.timeout
        self._threads = threads
        self.concurrency = app.concurrency
        self.types: Sequence[str] | None = (
            None if None in app.handlers else [name for name in app.handlers if name is not None]
        )

    async def handle(self, stored: StoredMessage) -> Outcome:
        """Hand one message to its handler; return what came of it."""
        registered = self._handlers.get(stored.message_type) or self._handlers[None]
        message = of_stored(stored)
        current.set(message)
        work = self._begin(registered, message)
        timeout = registered.timeout or self._timeout
        try:
            done, _ = await asyncio.wait([work], timeout=timeout)
        except asyncio.CancelledError:
            await _cancel(work)
            raise
        if not done:
            await _cancel(work)
            work.add_done_callback(_forget)
            name = getattr(registered.function, "__qualname__", "handler")
            return Failed(f"time-out of {timeout:g} s", name, None if work.done() else work)
        return _outcome(work)

    def _begin(self, registered: Registered, message: Message) -> asyncio.Future[Any]:
        if registered.is_async:
            return asyncio.get_running_loop().create_task(_guarded(registered.function, message))
        context = contextvars.copy_context()
        return self._threads.run(lambda: context.run(registered.function, message))


class _Exit(Exception):  # noqa: N818 - what the handler wanted
    """A handler wanted to end the process, which is not its to end."""


async def _guarded(function: Callable[[Message], Any], message: Message) -> Any:
    try:
        return await function(message)
    except SystemExit as error:
        # Left alone it would go through the event loop, and end the process without a drain.
        raise _Exit from error


def _outcome(work: asyncio.Future[Any]) -> Outcome:
    try:
        value = work.result()
    except Reject as reject:
        return Rejected(str(reject))
    except Retry as retry:
        return Later(max(retry.after, LEAST_RETRY), str(retry))
    except (Exception, SystemExit, asyncio.CancelledError) as raised:
        error = raised.__cause__ if isinstance(raised, _Exit) and raised.__cause__ is not None else raised
        log.debug("a handler failed", exc_info=error)
        # Not its text: that may quote the message.
        return Failed(type(error).__name__, place(error))
    try:
        return Done(None if value is None else object_of(value, "what a handler returns"))
    except TypeError as error:
        return Failed(str(error))
    except Exception as error:
        return Failed(f"{type(error).__name__} in what the handler returned")


async def _cancel(work: asyncio.Future[Any]) -> None:
    """Cancel what can be, and give it a moment to end. A thread goes on."""
    if isinstance(work, asyncio.Task):
        work.cancel()
        await asyncio.wait([work], timeout=CANCEL_GRACE)


def _forget(work: asyncio.Future[Any]) -> None:
    if not work.cancelled():
        work.exception()
