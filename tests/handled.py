"""An inbox with a handler of this process, for tests: what it is given, and what becomes of the messages."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from cellmesh.inbox import Inbox
from cellmesh.protocol.receipts import MessageWithHistory, StoredMessage
from cellmesh.service.counters import Counters
from cellmesh.service.handling import Handler, Handling
from cellmesh.service.outcomes import Backoff, Outcome
from inboxes import HandClock, limits, message, opened, storing
from support import eventually_async

QUICK = Backoff(first=0.02, most=0.05)
Handle = Callable[[StoredMessage], Awaitable[Outcome]]


class Scripted:
    """A handler that does what the test says, and remembers what it was given."""

    def __init__(self, handle: Handle, *, types: Sequence[str] | None = None, concurrency: int = 8) -> None:
        self._handle = handle
        self.types = types
        self.concurrency = concurrency
        self.given: list[str] = []
        self.now = self.most = 0

    async def handle(self, message: StoredMessage) -> Outcome:
        """Do it."""
        self.given.append(message.message_id)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            return await self._handle(message)
        finally:
            self.now -= 1


class Running:
    """An inbox with a handler."""

    def __init__(self, inbox: Inbox, handler: Handler, **options: Any) -> None:
        self.inbox = inbox
        self.counters = Counters()
        self.replies: list[tuple[str, bytes]] = []
        self.refusal = ""
        #: Replies are sent while it is set.
        self.sending = asyncio.Event()
        self.sending.set()
        self.handling = Handling(inbox, handler, self._answer, self.counters, **({"backoff": QUICK} | options))

    async def _answer(self, message: StoredMessage, payload: bytes) -> str:
        await self.sending.wait()
        self.replies.append((message.message_id, payload))
        return self.refusal

    async def put(self, *ids: str, **fields: Any) -> None:
        """Store messages."""
        await storing(self.inbox, [message(one, ttl=0, **fields) for one in ids])

    async def found(self, message_id: str) -> MessageWithHistory:
        """Return a message with its history."""
        found = await self.inbox.find(message_id)
        assert found is not None
        return found

    async def becomes(self, message_id: str, state: str, within: float = 10.0) -> MessageWithHistory:
        """Wait until a message is in a state."""

        async def check() -> MessageWithHistory | None:
            found = await self.found(message_id)
            return found if found.state == state else None

        return await eventually_async(check, within=within, message=f"{message_id} to be {state}")

    async def close(self) -> None:
        """End it."""
        await self.handling.abandon()
        await self.handling.close()


@contextlib.asynccontextmanager
async def handled_by(
    directory: Path, handler: Handler, *, clock: HandClock | None = None, **options: Any
) -> AsyncIterator[Running]:
    """Run a handler on an inbox; messages are dead letters after three deliveries."""
    more = {} if clock is None else {"clock": clock.steady()}
    with opened(directory, limits(max_deliveries=3), **more) as inbox:
        one = Running(inbox, handler, **options)
        one.handling.start()
        try:
            yield one
        finally:
            await one.close()
