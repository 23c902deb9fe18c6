"""A discovery and cells as the commands see them: HTTP servers on real sockets, with answers of the test's making."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

#: Given the query and the body of a request, returns status and body of the answer; bytes are sent as they are.
Route = Callable[[dict[str, str], Any], tuple[int, Any]]


class FakeServer:
    """An HTTP server whose routes the test writes; it remembers what it was asked."""

    def __init__(self) -> None:
        self.routes: dict[tuple[str, str], Route] = {}
        self.requests: list[tuple[str, str, dict[str, str], Any]] = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                parts = urlsplit(self.path)
                query = {name: values[0] for name, values in parse_qs(parts.query).items()}
                raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                body = json.loads(raw) if raw else None
                fake.requests.append((self.command, parts.path, query, body))
                missing: Route = lambda *_: (404, {"error": "no such path"})  # noqa: E731
                status, found = fake.routes.get((self.command, parts.path), missing)(query, body)
                text = found if isinstance(found, bytes) else json.dumps(found).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_POST = do_DELETE = answer  # noqa: N815 - the base class's names

            def log_message(self, *_: object) -> None:
                """Keep quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class FakeMesh:
    """A discovery with its cells."""

    def __init__(self) -> None:
        self.servers: list[FakeServer] = []
        self.peers: list[dict[str, Any]] = []
        self.discovery = self._server()
        self.discovery.routes["GET", "/meshes/default/peers"] = self._peers

    def _server(self) -> FakeServer:
        self.servers.append(FakeServer())
        return self.servers[-1]

    def _peers(self, query: dict[str, str], _: Any) -> tuple[int, Any]:
        found = [peer for peer in self.peers if query.get("cell_id") in {None, peer["cell_id"]}]
        return 200, {"peers": found, "count": len(found), "version": "1"}

    def cell(self, name: str, instance: str | None = None, **fields: Any) -> FakeServer:
        """Add an instance of a cell."""
        server = self._server()
        peer = {"cell_id": name, "instance": instance or f"{name}-0", "ip": "127.0.0.1", "port": server.port}
        self.peers.append({**peer, "source": "registered", **fields})
        return server

    def close(self) -> None:
        """Stop all servers."""
        for server in self.servers:
            server.close()


class Result:
    """How a command ended."""

    def __init__(self, code: int, captured: Any) -> None:
        self.code = code
        self.out: str = captured.out
        self.err: str = captured.err


Run = Callable[..., Result]
