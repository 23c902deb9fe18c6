"""The queue of messages to one instance.

Messages that wait while a request is under way go out together in the next one, if the instance offers
batches: group commit on the wire. Each instance has a link of its own, bounded, so that a slow one takes
nothing from the others.
"""

from __future__ import annotations

import asyncio
from collections import deque

import msgspec

from cellmesh.protocol.peers import Peer
from cellmesh.protocol.problems import Problem
from cellmesh.protocol.receipts import BatchItem
from cellmesh.transport.http1 import Answer, Lost, NotSent, Pool

#: Requests under way to an instance that takes batches. One: what waits meanwhile goes out together, which
#: costs both sides less than two requests of half the size (measured), and keeps the order.
BATCH_REQUESTS = 1
#: Requests under way to one that does not: each carries one message.
SINGLE_REQUESTS = 64
CONNECT_TIMEOUT = 5.0
#: Longest wait for the answer to a request. Longer than any caller waits: the request belongs to many.
ANSWER_TIMEOUT = 310.0
#: The same for a batch: storing it takes a cell milliseconds, and everything behind it waits.
BATCH_TIMEOUT = 60.0
OFFER_HEADER = b"cellmesh-batch"

#: Answers to a batch of a peer that takes none: nothing of it was stored.
NO_BATCHES = frozenset({404, 405, 413, 415, 501})

decode_items = msgspec.json.Decoder(list[BatchItem]).decode


class Receipt(msgspec.Struct):
    """What one message was answered: a status, a JSON body, and when to come again."""

    status: int
    body: bytes
    retry_after: str | None = None


def read_offer(answer: Answer) -> tuple[int, int] | None:
    """Return the messages and bytes of a batch that the answer to a single message offers to take."""
    offer = answer.headers.get(OFFER_HEADER)
    if offer is None:
        return None
    messages, _, size = offer.decode("latin-1").partition(",")
    try:
        return max(1, int(messages)), int(size)
    except ValueError:
        return None


class _Entry:
    __slots__ = ("data", "future", "sent")

    def __init__(self, data: bytes, future: asyncio.Future[Receipt]) -> None:
        self.data = data
        self.future = future
        self.sent = False


class Ticket:
    """A message on its way: ``future`` holds its receipt, ``sent`` whether a byte may have left."""

    __slots__ = ("_entry", "future")

    def __init__(self, entry: _Entry) -> None:
        self._entry = entry
        self.future = entry.future

    @property
    def sent(self) -> bool:
        """Whether a byte of the message may have reached the instance."""
        return self._entry.sent


class Link:
    """Connection, queue and coalescing towards one instance.

    Args:
        peer: the instance.
        max_messages: messages that may wait.
        max_bytes: bytes that may wait.

    """

    def __init__(self, peer: Peer, max_messages: int, max_bytes: int) -> None:
        self.url = f"{peer.url}/message"
        self._pool = Pool(peer.host, peer.port)
        self._loop = asyncio.get_running_loop()
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._queue: deque[_Entry] = deque()
        self._bytes = 0
        self._under_way = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._offer: tuple[int, int] | None = None
        json = (("content-type", "application/json"),)
        self._single = self._pool.prepare("POST", "/message", json)
        self._batch = self._pool.prepare("POST", "/message/batch", json)
        self.last_used = self._loop.time()

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is under way."""
        return not self._queue and not self._under_way

    @property
    def waiting(self) -> int:
        """Messages that wait for a request to carry them."""
        return len(self._queue)

    def submit(self, data: bytes) -> Ticket:
        """Queue one encoded message.

        Raises:
            Problem: ``link_full`` (429): too much waits for this instance.

        """
        if len(self._queue) >= self._max_messages or self._bytes + len(data) > self._max_bytes:
            raise Problem(
                "link_full",
                f"{len(self._queue)} messages ({self._bytes} bytes) already wait for {self.url}; "
                "it is slower than its senders, try again later",
                retry_after=1,
            )
        entry = _Entry(data, self._loop.create_future())
        self._queue.append(entry)
        self._bytes += len(data)
        self._start()
        return Ticket(entry)

    def close(self) -> None:
        """Drop the connections; what is under way fails as lost."""
        for task in self._tasks:
            task.cancel()
        for entry in self._queue:
            if not entry.future.done():
                entry.future.set_exception(NotSent("the sender is stopping"))
        self._queue.clear()
        self._pool.close()

    def _start(self) -> None:
        limit = BATCH_REQUESTS if self._offer else SINGLE_REQUESTS
        if self._under_way < limit and self._queue:
            self._under_way += 1
            task = self._loop.create_task(self._pump())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self) -> None:
        """Send what waits, one request after the other, until nothing does."""
        try:
            while self._queue:
                if self._under_way > BATCH_REQUESTS and self._offer:
                    return  # started before batches were offered; those left now carry more each
                entries = self._take()
                if entries:
                    await self._exchange(entries)
        finally:
            self._under_way -= 1
            self.last_used = self._loop.time()

    def _take(self) -> list[_Entry]:
        """Take the messages of the next request; those whose caller has given up are left out."""
        messages, size = self._offer or (1, 0)
        entries: list[_Entry] = []
        total = 2
        while self._queue and len(entries) < messages:
            entry = self._queue[0]
            if entry.future.done():
                self._queue.popleft()
                self._bytes -= len(entry.data)
                continue
            total += len(entry.data) + 1
            if entries and total > size:
                break
            entries.append(self._queue.popleft())
            self._bytes -= len(entry.data)
        return entries

    async def _exchange(self, entries: list[_Entry]) -> None:
        """Send one request with these messages and hand out what came back."""
        single = len(entries) == 1
        head = self._single if single else self._batch
        body = entries[0].data if single else b"[" + b",".join([entry.data for entry in entries]) + b"]"
        try:
            connection = await self._pool.connection(CONNECT_TIMEOUT)
            waiter = connection.send(b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body))
            for entry in entries:
                entry.sent = True
            timer = self._loop.call_later(ANSWER_TIMEOUT if single else BATCH_TIMEOUT, connection.close)
            try:
                answer = await waiter
            except asyncio.CancelledError:
                connection.close()
                raise
            finally:
                timer.cancel()
            self._pool.release(connection)
        except asyncio.CancelledError:
            why = "the sender is stopping"
            self._fail(entries, Lost(why) if entries[0].sent else NotSent(why))
            raise
        except (NotSent, Lost) as error:
            self._fail(entries, error)
            return
        if single:
            self._offer = read_offer(answer)
            self._resolve(entries[0], answer.status, answer.body, answer)
        else:
            self._resolve_batch(entries, answer)

    def _fail(self, entries: list[_Entry], error: NotSent | Lost) -> None:
        for entry in entries:
            if not entry.future.done():
                entry.future.set_exception(error)

    def _resolve(self, entry: _Entry, status: int, body: bytes, answer: Answer | None = None) -> None:
        if entry.future.done():
            return
        retry_after = answer.headers.get(b"retry-after") if answer else None
        entry.future.set_result(Receipt(status, body, retry_after.decode("latin-1") if retry_after else None))

    def _resolve_batch(self, entries: list[_Entry], answer: Answer) -> None:
        if answer.status == 200:
            try:
                items = decode_items(answer.body)
            except msgspec.MsgspecError:
                items = []
            if len(items) == len(entries):
                for entry, item in zip(entries, items, strict=True):
                    if not entry.future.done():
                        entry.future.set_result(Receipt(item.status, bytes(item.body)))
                return
            self._fail(entries, Lost("the answer to a batch does not have one item per message"))
            return
        if answer.status in NO_BATCHES:
            # It takes no batches (any more): nothing of this one was stored, each goes alone, in order.
            self._offer = None
            for entry in reversed(entries):
                entry.sent = False
                self._queue.appendleft(entry)
                self._bytes += len(entry.data)
            return
        for entry in entries:
            self._resolve(entry, answer.status, answer.body, answer)
