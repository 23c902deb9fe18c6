"""The floor: what two Python processes and one HTTP hop cost at least, with nothing stored and nothing batched.

uvicorn (uvloop, httptools) with a bare ASGI application -> a pool of raw httptools connections on asyncio
-> uvicorn with a bare ASGI application. Messages are decoded and encoded by msgspec, as in a cell. It is
kept as it is, so that ratios to it stay comparable over the years.

Environment: ``ROLE`` is ``A`` (``POST /send``) or ``B`` (``POST /message``), ``FLOOR_B_PORT`` B's port.
Run by ``uvicorn benchmarks.floor:app``.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from datetime import UTC, datetime
from typing import Any

import httptools
import msgspec
from msgspec import Raw

Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

B_PORT = int(os.environ.get("FLOOR_B_PORT", "8202"))
TARGET_URL = f"http://127.0.0.1:{B_PORT}/message"
HEAD = f"POST /message HTTP/1.1\r\nhost: 127.0.0.1:{B_PORT}\r\ncontent-type: application/json\r\ncontent-length: "


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


class Receipt(msgspec.Struct):
    """B's answer."""

    status: str
    message_id: str
    acknowledged: bool


class Delivered(msgspec.Struct):
    """A's answer."""

    status: str
    message_id: str
    to_cell: str
    target_url: str
    response: Raw


decode_send = msgspec.json.Decoder(SendRequest).decode
decode_message = msgspec.json.Decoder(Message).decode
encode = msgspec.json.Encoder().encode


class Connection(asyncio.Protocol):
    """One keep-alive connection to B: one request at a time."""

    def __init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.transport: asyncio.Transport | None = None
        self.answer: asyncio.Future[bytes] | None = None
        self.body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # uvloop's is no asyncio.Transport

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        answer, self.answer = self.answer, None
        if answer is None or answer.done():
            return
        if self.parser.get_status_code() == 200:
            answer.set_result(self.body)
        else:
            answer.set_exception(ConnectionError(f"B answered {self.parser.get_status_code()}"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(exc or ConnectionError("B closed the connection"))

    def request(self, head: bytes, body: bytes) -> asyncio.Future[bytes]:
        if self.transport is None:
            raise ConnectionError("connection to B is closed")
        self.body = b""
        self.answer = asyncio.get_running_loop().create_future()
        self.transport.write(head + body)
        return self.answer


class Pool:
    """Idle connections, the last used first; as many are opened as requests are in flight."""

    def __init__(self) -> None:
        self.idle: list[Connection] = []

    async def post(self, body: bytes) -> bytes:
        while self.idle:
            connection = self.idle.pop()
            if connection.transport is not None:
                break
        else:
            _, connection = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", B_PORT)
        answer = await connection.request(f"{HEAD}{len(body)}\r\n\r\n".encode(), body)
        self.idle.append(connection)
        return answer


pool = Pool()


async def read(receive: Receive) -> bytes:
    event = await receive()
    body: bytes = event.get("body", b"")
    while event.get("more_body"):
        event = await receive()
        body += event.get("body", b"")
    return body


async def reply(send: Send, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def app_a(scope: Event, receive: Receive, send: Send) -> None:
    """``POST /send``: make a message of the request, pass it on, answer with the receipt inside."""
    if scope["type"] != "http":
        return
    asked = decode_send(await read(receive))
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
    receipt = await pool.post(encode(message))
    await reply(send, encode(Delivered("delivered", message.message_id, message.to_cell, TARGET_URL, Raw(receipt))))


async def app_b(scope: Event, receive: Receive, send: Send) -> None:
    """``POST /message``: decode the message and acknowledge it."""
    if scope["type"] != "http":
        return
    message = decode_message(await read(receive))
    await reply(send, encode(Receipt("received", message.message_id, True)))


app = app_a if os.environ.get("ROLE", "A") == "A" else app_b
