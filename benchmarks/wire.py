"""A small blocking HTTP client on one keep-alive connection: control, preloading, sequential timings.

It costs some microseconds a request where ``http.client`` costs a hundred, which would hide the
difference between two fast answers.
"""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import httptools


@dataclass
class Answer:
    """One HTTP answer; header names in lower case."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


class Client:
    """One connection to a port of this machine, opened again when the server has closed it."""

    def __init__(self, port: int, timeout: float = 30.0) -> None:
        self.port = port
        self.timeout = timeout
        self.socket: socket.socket | None = None
        self.parser = httptools.HttpResponseParser(self)
        self.chunks: list[bytes] = []
        self.headers: dict[str, str] = {}
        self.complete = False

    def request(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> Answer:
        """Send one request and wait for its answer.

        A connection that was closed while idle is opened again, once.
        """
        lines = [f"{method} {path} HTTP/1.1", f"host: 127.0.0.1:{self.port}"]
        if body:
            lines += ["content-type: application/json", f"content-length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        data = "\r\n".join([*lines, "", ""]).encode() + body
        reused = self.socket is not None
        try:
            return self._exchange(data)
        except ConnectionError:
            self.close()
            if not reused:
                raise
        return self._exchange(data)

    def _exchange(self, data: bytes) -> Answer:
        if self.socket is None:
            self.socket = socket.create_connection(("127.0.0.1", self.port), self.timeout)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.parser = httptools.HttpResponseParser(self)
        self.chunks, self.headers, self.complete = [], {}, False
        self.socket.sendall(data)
        while not self.complete:
            received = self.socket.recv(262_144)
            if not received:
                raise ConnectionResetError("the server closed the connection")
            self.parser.feed_data(received)
        return Answer(self.parser.get_status_code(), b"".join(self.chunks), self.headers)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode().lower()] = value.decode()

    def on_body(self, body: bytes) -> None:
        self.chunks.append(body)

    def on_message_complete(self) -> None:
        self.complete = True

    def close(self) -> None:
        if self.socket is not None:
            self.socket.close()
            self.socket = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def listening(port: int) -> bool:
    """Tell whether somebody listens on a port of this machine."""
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except OSError:
        return False
    return True


def answers(port: int, path: str) -> bool:
    """Tell whether ``GET path`` answers 200 now."""
    try:
        with Client(port, 2.0) as client:
            return client.request("GET", path).status == 200
    except OSError:
        return False


def timed(client: Client, path: str, headers: dict[str, str]) -> tuple[float, Answer]:
    """Return the time of one ``GET`` in milliseconds, and its answer."""
    begin = time.perf_counter()
    answer = client.request("GET", path, headers=headers)
    return (time.perf_counter() - begin) * 1000, answer
