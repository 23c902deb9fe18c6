"""A program that messages are pushed to, as a test says: a plain HTTP server."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Pushed(NamedTuple):
    """One request."""

    path: str
    headers: dict[str, str]
    message: dict[str, Any]


class Said(NamedTuple):
    """One answer; a status of 0 closes the connection instead."""

    status: int = 200
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


Script = Callable[[Pushed], Said]


class Program:
    """A server that keeps what it is sent, and answers by its script.

    Args:
        script: called with each request, in a thread of its own.
        port: where it listens; 0: on any free port.

    """

    def __init__(self, script: Script, port: int = 0) -> None:
        self.requests: list[Pushed] = []
        program = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                request = Pushed(self.path, {k.lower(): v for k, v in self.headers.items()}, json.loads(body))
                program.requests.append(request)
                said = script(request)
                if not said.status:
                    self.close_connection = True
                    return
                self.send_response(said.status)
                for name, value in said.headers:
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(said.body)))
                self.end_headers()
                self.wfile.write(said.body)

            def log_message(self, *_: object) -> None:
                """Keep quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    @property
    def ids(self) -> list[str]:
        """Ids of the messages it was sent, in order."""
        return [request.message["message_id"] for request in self.requests]

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextlib.contextmanager
def program(script: Script | None = None, port: int = 0) -> Iterator[Program]:
    """Run one; without a script it answers 200."""
    running = Program(script or (lambda _: Said()), port)
    try:
        yield running
    finally:
        running.close()
