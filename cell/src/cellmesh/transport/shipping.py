"""Queued messages to one instance: several in one request, in order, and what is known of each afterwards.

Unlike a ``Link`` it has no queue: who calls decides what goes together, and calls one at a time for each order
that is to be kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from cellmesh.protocol.peers import Peer
from cellmesh.transport.http1 import Answer, Lost, NotSent, Pool
from cellmesh.transport.link import BATCH_TIMEOUT, CONNECT_TIMEOUT, NO_BATCHES, Receipt, decode_items, read_offer

#: Messages and bytes that are taken for an instance of which no offer is known: each goes alone, one after the other.
ALONE = 32
ALONE_BYTES = 256 * 1024


class Shipment(NamedTuple):
    """What is known of messages that were to be sent, in their order.

    ``receipts`` are the answers to the first ones; so many after those are ``doubtful``: they may have arrived.
    What is left has not been sent. ``why`` says what went wrong, if anything.
    """

    receipts: list[Receipt]
    doubtful: int = 0
    why: str = ""


class Shipper:
    """Connections to one instance, and how many messages it takes at once.

    Args:
        peer: the instance.

    """

    def __init__(self, peer: Peer) -> None:
        self.url = f"{peer.url}/message"
        self._pool = Pool(peer.host, peer.port)
        self._loop = asyncio.get_running_loop()
        self._offer: tuple[int, int] | None = None
        json = ("content-type", "application/json")
        self._single = self._pool.prepare("POST", "/message", (json,))
        self._batch = self._pool.prepare("POST", "/message/batch", (json, ("cellmesh-ordered", "true")))
        self.last_used = self._loop.time()
        self.under_way = 0

    @property
    def room(self) -> tuple[int, int]:
        """Messages and bytes to be taken for the next shipment at most."""
        return self._offer or (ALONE, ALONE_BYTES)

    async def connect(self) -> None:
        """See to it that there is a connection.

        Raises:
            NotSent: there is none to be had.

        """
        self.last_used = self._loop.time()
        self._pool.release(await self._pool.connection(CONNECT_TIMEOUT))

    async def ship(self, messages: Sequence[bytes], stop: Callable[[Receipt], bool]) -> Shipment:
        """Send messages in order, as many in a request as the instance takes.

        Args:
            messages: encoded.
            stop: tells of the answer to a message whether nothing more is to be sent after it.

        """
        self.under_way += 1
        try:
            return await self._ship(messages, stop)
        finally:
            self.under_way -= 1
            self.last_used = self._loop.time()

    def close(self) -> None:
        """Close the idle connections."""
        self._pool.close()

    async def _ship(self, messages: Sequence[bytes], stop: Callable[[Receipt], bool]) -> Shipment:
        receipts: list[Receipt] = []
        while len(receipts) < len(messages):
            part = self._next(messages, len(receipts))
            try:
                answer = await self._exchange(part)
            except NotSent as error:
                return Shipment(receipts, 0, str(error))
            except Lost as error:
                return Shipment(receipts, len(part), str(error))
            read = self._read(part, answer)
            if read is None:
                return Shipment(receipts, len(part), "the answer to a batch does not have one item per message")
            receipts += read
            if any(map(stop, read)):
                break
        return Shipment(receipts)

    def _next(self, messages: Sequence[bytes], start: int) -> Sequence[bytes]:
        most, size = self._offer or (1, 0)
        total = 2
        for end in range(start, min(len(messages), start + most)):
            total += len(messages[end]) + 1
            if total > size and end > start:
                return messages[start:end]
        return messages[start : start + most]

    async def _exchange(self, messages: Sequence[bytes]) -> Answer:
        single = len(messages) == 1
        head = self._single if single else self._batch
        body = messages[0] if single else b"[" + b",".join(messages) + b"]"
        return await self._pool.request(head, body, connect_timeout=CONNECT_TIMEOUT, timeout=BATCH_TIMEOUT)

    def _read(self, messages: Sequence[bytes], answer: Answer) -> list[Receipt] | None:
        """Return what each message was answered; none if they have to go one by one, None if that is not known."""
        retry_after = answer.headers.get(b"retry-after")
        later = retry_after.decode("latin-1") if retry_after else None
        if len(messages) == 1:
            self._offer = read_offer(answer)
            return [Receipt(answer.status, answer.body, later)]
        if answer.status == 200:
            try:
                items = decode_items(answer.body)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                return None
            if len(items) != len(messages):
                return None
            return [Receipt(item.status, bytes(item.body)) for item in items]
        if answer.status in NO_BATCHES:
            self._offer = None
            return []
        return [Receipt(answer.status, answer.body, later)] * len(messages)
