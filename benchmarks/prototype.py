"""The yardstick: a durable ``/send`` hop as small as it can be: no validation, no errors, no contract.

What a cell's hop is compared with. Group commit in a SQLite thread on the receiver's side; on the
sender's, messages that queue while a request is in flight go out together. Kept as it is, shortcuts
included (a repeated id is ignored without a word), so that ratios to it stay comparable.

Environment: ``ROLE`` is ``A`` (sends) or ``B`` (stores), ``DB`` B's database, ``PROTOTYPE_B_PORT`` B's
port. Run by ``uvicorn benchmarks.prototype:app``.
"""

from __future__ import annotations

import asyncio
import os
import queue
import sqlite3
import threading
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from datetime import UTC, datetime
from typing import Any

import aiohttp
import msgspec
from msgspec import Raw

Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
Waiter = asyncio.Future[None]
Rows = list[tuple[str, bytes]]


class SendRequest(msgspec.Struct):
    """The body of ``POST /send``."""

    to_cell: str
    message_type: str = "general"
    payload: Raw = Raw(b"{}")
    priority: str = "normal"
    ttl: int = 60


class Message(msgspec.Struct):
    """What travels from A to B."""

    message_id: str
    from_cell: str
    to_cell: str
    message_type: str
    payload: Raw
    priority: str
    ttl: int
    timestamp: str


decode_send = msgspec.json.Decoder(SendRequest).decode
decode_message = msgspec.json.Decoder(Message).decode
decode_messages = msgspec.json.Decoder(list[Message]).decode
encode = msgspec.json.Encoder().encode


class Store:
    """A thread that writes whatever is queued in one transaction, then wakes those who wait."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.queue: queue.SimpleQueue[tuple[Rows, Waiter]] = queue.SimpleQueue()
        self.loop: asyncio.AbstractEventLoop | None = None
        threading.Thread(target=self.run, daemon=True).start()

    def run(self) -> None:
        db = sqlite3.connect(self.path, isolation_level=None)
        db.execute("pragma journal_mode=wal")
        db.execute("pragma synchronous=full")
        db.execute("create table if not exists m(seq integer primary key, id text unique, body blob)")
        while True:
            items = [self.queue.get()]
            try:
                while len(items) < 512:
                    items.append(self.queue.get_nowait())
            except queue.Empty:
                pass
            db.execute("begin immediate")
            for rows, _ in items:
                db.executemany("insert or ignore into m(id,body) values(?,?)", rows)
            db.execute("commit")
            if self.loop is not None:
                self.loop.call_soon_threadsafe(done, [waiter for _, waiter in items])

    def put(self, rows: Rows) -> Waiter:
        if self.loop is None:
            self.loop = asyncio.get_running_loop()
        waiter: Waiter = self.loop.create_future()
        self.queue.put((rows, waiter))
        return waiter


def done(waiters: list[Waiter]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)


class Link:
    """The way to B: at most two requests in flight, each with all that waited."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.pending: list[tuple[Message, Waiter]] = []
        self.busy = 0
        self.busy_at_most = 2
        self.session: aiohttp.ClientSession | None = None

    async def send(self, message: Message) -> None:
        waiter: Waiter = asyncio.get_running_loop().create_future()
        self.pending.append((message, waiter))
        if self.busy < self.busy_at_most:
            self.busy += 1
            asyncio.ensure_future(self.pump())  # noqa: RUF006 - as the yardstick always was
        await waiter

    async def pump(self) -> None:
        if self.session is None:
            self.session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=64))
        try:
            while self.pending:
                batch, self.pending = self.pending[:256], self.pending[256:]
                if len(batch) == 1:
                    data = encode(batch[0][0])
                    url = self.url + "/message"
                else:
                    data = encode([message for message, _ in batch])
                    url = self.url + "/messages"
                async with self.session.post(url, data=data, headers={"content-type": "application/json"}) as answer:
                    await answer.read()
                done([waiter for _, waiter in batch])
        finally:
            self.busy -= 1


async def reply(send: Send, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def receipt(message: Message) -> dict[str, Any]:
    return {"status": "received", "message_id": message.message_id, "acknowledged": True}


link = Link(f"http://127.0.0.1:{os.environ.get('PROTOTYPE_B_PORT', '8202')}")
store = Store(os.environ["DB"]) if os.environ.get("ROLE") == "B" else None


async def hop(body: bytes, send: Send) -> None:
    """``POST /send``: make a message of the request, send it, answer once B has it."""
    asked = decode_send(body)
    message = Message(
        uuid.uuid4().hex,
        "alpha",
        asked.to_cell,
        asked.message_type,
        asked.payload,
        asked.priority,
        asked.ttl,
        datetime.now(UTC).isoformat(),
    )
    await link.send(message)
    answer = {
        "status": "delivered",
        "message_id": message.message_id,
        "to_cell": message.to_cell,
        "target_url": link.url + "/message",
        "response": {"acknowledged": True, "cell_id": "pure"},
    }
    await reply(send, encode(answer))


async def app(scope: Event, receive: Receive, send: Send) -> None:
    """All of it: ``/send`` in A, ``/message`` and ``/messages`` (a batch) in B."""
    if scope["type"] != "http":
        return
    body = b""
    while True:
        event = await receive()
        body += event.get("body", b"")
        if not event.get("more_body"):
            break
    path = scope["path"]
    if path == "/send":
        await hop(body, send)
    elif store is not None and path == "/message":
        message = decode_message(body)
        await store.put([(message.message_id, body)])
        await reply(send, encode(receipt(message)))
    elif store is not None:
        messages = decode_messages(body)
        await store.put([(message.message_id, encode(message)) for message in messages])
        await reply(send, encode([receipt(message) for message in messages]))
