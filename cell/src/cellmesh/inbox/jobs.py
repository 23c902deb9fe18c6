"""What the writer thread is given to do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import apsw

from cellmesh.inbox.leases import Leased, LeaseRequest
from cellmesh.inbox.leasing import Leasing
from cellmesh.inbox.store import Outcome
from cellmesh.inbox.transaction import Transaction, WorkFailed
from cellmesh.protocol.messages import Checked

#: Called on the event loop once messages are on disk, with one outcome each.
Stored = Callable[[Sequence[Outcome]], None]


class Job:
    """Messages to store."""

    __slots__ = ("items", "loop", "ordered", "outcomes", "stored")

    #: Bytes besides those of its messages: none.
    size = 0

    def __init__(
        self, items: Sequence[Checked], loop: asyncio.AbstractEventLoop, stored: Stored, *, ordered: bool
    ) -> None:
        self.items = items
        #: Whether none may be stored behind one of its priority that finds no room.
        self.ordered = ordered
        self.loop = loop
        self.stored = stored
        self.outcomes: Sequence[Outcome] = ()

    def answer(self) -> None:
        """Give the outcomes, on the event loop."""
        self.stored(self.outcomes)


class WorkBroken(Exception):  # noqa: N818 - internal
    """A piece of work failed by itself: the file is in order, and the others are repeated without it."""


class Work:
    """Anything else to write: what executes it in the transaction, and who hears of the result."""

    __slots__ = ("done", "execute", "loop", "result", "size")

    #: Of messages to store: none.
    items: Sequence[Checked] = ()

    def __init__(
        self,
        execute: Callable[[Transaction], Any],
        loop: asyncio.AbstractEventLoop,
        done: Callable[[Any], None],
    ) -> None:
        self.execute = execute
        self.loop = loop
        self.done = done
        #: Bytes that it adds to the file, about.
        self.size = 0
        self.result: Any = None

    def carry_out(self, tx: Transaction) -> None:
        """Do it, in the writer thread."""
        try:
            self.result = self.execute(tx)
        except (apsw.Error, MemoryError):
            raise
        except Exception as error:
            # The text of an error that SQLite did not make may quote what was to be written.
            raise WorkBroken(type(error).__name__) from error

    def answer(self) -> None:
        """Give the result, on the event loop."""
        self.done(self.result)


class LeaseWork(Work):
    """A consumer that asks for messages, and may wait for them."""

    __slots__ = ("_leasing", "request")

    def __init__(
        self,
        request: LeaseRequest,
        leasing: Leasing,
        loop: asyncio.AbstractEventLoop,
        done: Callable[[list[Leased] | WorkFailed], None],
    ) -> None:
        super().__init__(self._take, loop, done)
        self.request = request
        self._leasing = leasing

    def _take(self, tx: Transaction) -> list[Leased]:
        return [] if self.request.cancelled else self._leasing.take(tx, self.request)
