"""Peers that behave as a test says: plain TCP servers in threads of the test."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

#: What a peer does with one request: the bytes of its answer, None to close without one.
Script = Callable[[dict[str, Any]], bytes | None]


def answer(status: int, body: Any, **headers: str) -> bytes:
    """Return an HTTP answer."""
    data = json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} Some", "Content-Type: application/json", f"Content-Length: {len(data)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + data


class Peer:
    """A listener that reads requests, keeps their messages, and answers by its script.

    Args:
        script: called with each message; None: read and never answer.

    """

    def __init__(self, script: Script | None) -> None:
        self._script = script
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.port = int(self._listener.getsockname()[1])
        #: Messages received, in order.
        self.messages: list[dict[str, Any]] = []
        self._run(self._accept)

    def _run(self, target: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._connections.append(connection)
                self._run(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), connection, connection.makefile("rb") as reader:
            while reader.readline():
                length = 0
                while (line := reader.readline()) not in {b"\r\n", b""}:
                    name, _, value = line.partition(b":")
                    length = int(value) if name.strip().lower() == b"content-length" else length
                message = json.loads(reader.read(length))
                self.messages.append(message)
                if self._script is None:
                    continue
                said = self._script(message)
                if said is None:
                    return
                connection.sendall(said)

    def close(self) -> None:
        """Close the listener and every connection, and wait for the threads."""
        for one in (self._listener, *self._connections):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in self._threads:
            thread.join(5)


@contextlib.contextmanager
def peer(script: Script | None) -> Iterator[Peer]:
    """Run a scripted peer."""
    running = Peer(script)
    try:
        yield running
    finally:
        running.close()
