"""Many messages in one request: each as if it were sent by itself, and all that are queued in one commit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from msgspec import Raw

from cellmesh.outbox import Outbox
from cellmesh.protocol.messages import encode
from cellmesh.protocol.problems import Problem
from cellmesh.protocol.receipts import BatchItem
from cellmesh.service.letters import not_begun
from cellmesh.service.reply import Awaited, Reply
from cellmesh.service.sending import Sender

#: Messages of a stream that are sent together at most, and bytes of them.
MAX_TOGETHER = 256
MAX_TOGETHER_BYTES = 2 * 1024 * 1024


class Bulk:
    """Sends many messages.

    Args:
        sender: what sends one.
        outbox: where those go that are queued.
        longest: longest message, bytes.

    """

    def __init__(self, sender: Sender, outbox: Outbox, longest: int) -> None:
        self._sender = sender
        self._outbox = outbox
        self._longest = longest

    async def send(self, bodies: Sequence[bytes]) -> list[BatchItem]:
        """Send messages; return for each what ``POST /send`` would have answered, in order."""
        waiting: list[Awaited | Reply] = []
        with self._outbox.together():
            for body in bodies:
                if len(body) > self._longest:
                    waiting.append(self._too_long())
                    continue
                awaited = Awaited()
                waiting.append(awaited)
                self._sender.send(body, awaited)
        replies = [one if isinstance(one, Reply) else await one.reply() for one in waiting]
        return [BatchItem(reply.status, Raw(reply.body)) for reply in replies]

    async def lines(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Send the messages of a stream, one a line, as they come; yield a line of JSON for each, in order.

        What has come in is sent together. While it is, no more is read: a client that is faster than its
        messages can be kept is held up by its own connection.
        """
        lines = _Lines(chunks, self._longest)
        async for bodies in lines:
            items = [item async for item in self._some(bodies)]
            yield b"".join([encode(item) + b"\n" for item in items])

    async def _some(self, bodies: Sequence[bytes | None]) -> AsyncIterator[BatchItem]:
        sent = iter(await self.send([body for body in bodies if body is not None]))
        for body in bodies:
            if body is None:
                reply = self._too_long()
                yield BatchItem(reply.status, Raw(reply.body))
            else:
                yield next(sent)

    def _too_long(self) -> Reply:
        return not_begun(Problem("body_too_large", f"body: a message longer than {self._longest} bytes", field="body"))


class _Lines:
    """Lines of a stream, as many at once as have come in; None for one that is too long. Empty ones are left out."""

    def __init__(self, chunks: AsyncIterator[bytes], longest: int) -> None:
        self._chunks = chunks
        self._longest = longest
        self._rest = bytearray()
        #: Whether what comes in belongs to a line that is too long.
        self._skipping = False
        self._ready: list[bytes | None] = []
        self._ended = False

    def __aiter__(self) -> _Lines:
        return self

    async def __anext__(self) -> list[bytes | None]:
        """Return the next lines; at least one."""
        while not self._ready and not self._ended:
            try:
                self._take(await anext(self._chunks))
            except StopAsyncIteration:
                self._ended = True
                self._take(b"\n")
        if not self._ready:
            raise StopAsyncIteration
        size = count = 0
        for count, line in enumerate(self._ready[:MAX_TOGETHER], 1):  # noqa: B007 - how many
            size += len(line or b"")
            if size >= MAX_TOGETHER_BYTES:
                break
        lines, self._ready = self._ready[:count], self._ready[count:]
        return lines

    def _take(self, chunk: bytes) -> None:
        *whole, rest = chunk.split(b"\n")
        for piece in whole:
            self._rest += piece
            if self._skipping or len(self._rest) > self._longest:
                self._ready.append(None)
            elif line := bytes(self._rest).strip():
                self._ready.append(line)
            self._rest.clear()
            self._skipping = False
        self._rest += rest
        if len(self._rest) > self._longest:
            self._skipping = True
            self._rest.clear()


async def pieces(chunks: AsyncIterator[bytes], timeout: float) -> AsyncIterator[bytes]:
    """Yield pieces of a stream; it ends when none comes for ``timeout`` seconds.

    Raises:
        TimeoutError: none came for so long.

    """
    while True:
        async with asyncio.timeout(timeout):
            try:
                chunk = await anext(chunks)
            except StopAsyncIteration:
                return
        yield chunk
