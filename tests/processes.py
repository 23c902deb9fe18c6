"""Real processes for tests: discovery, cells, and a mesh of both, on free ports of 127.0.0.1."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support import eventually, free_port

#: Seconds a process may take to start or to stop, on a busy machine.
PATIENCE = 30.0
_CELL = (
    "import os, sys; from cellmesh.settings import Settings; from cellmesh.api.server import run; "
    "sys.exit(run(Settings.from_environ(os.environ)))"
)


class Answer:
    """An HTTP answer: status, headers with lower-case names, body."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    def __repr__(self) -> str:
        return f"<{self.status} {self.body[:500]!r}>"


def request(
    port: int,
    method: str,
    path: str,
    body: Any = None,
    *,
    headers: dict[str, str] | None = None,
    timeout: float = PATIENCE,
) -> Answer:
    """Make one HTTP request on a connection of its own; ``body`` is sent as JSON unless it is bytes."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    given = {"Content-Type": "application/json"} if data is not None else {}
    try:
        connection.request(method, path, data, given | (headers or {}))
        answer = connection.getresponse()
        return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
    finally:
        connection.close()


class Process:
    """One server process; its output goes to a file.

    Args:
        name: for the log and for reports.
        arguments: the command line.
        port: where it listens.
        directory: where its log goes.
        environ: environment variables besides this process' own.

    """

    def __init__(self, name: str, arguments: list[str], port: int, directory: Path, environ: dict[str, str]) -> None:
        self.name = name
        self.port = port
        self.log = directory / f"{name}.log"
        self._arguments = arguments
        self._environ = environ
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id of the running process."""
        assert self._process is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Exit code, None while it runs."""
        assert self._process is not None
        return self._process.poll()

    def start(self, *, wait: bool = True) -> None:
        """Start it and, unless told otherwise, wait until it is ready."""
        environ = {k: v for k, v in os.environ.items() if not k.startswith("CELLMESH_")} | self._environ
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._arguments, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        if wait:
            self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until it says that it is ready."""

        def ready() -> bool:
            assert self.returncode is None, f"{self.name} ended: {self.log.read_text()[-2000:]}"
            return self.get("/readyz").status == 200

        eventually(ready, within=PATIENCE, message=f"{self.name} to be ready")

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self, within: float = PATIENCE) -> int:
        """Wait for its end; return the exit code."""
        assert self._process is not None
        return self._process.wait(within)

    def stop(self, within: float = PATIENCE) -> int:
        """End it with SIGTERM; return the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(within)

    def kill(self) -> None:
        """End it with SIGKILL, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def get(self, path: str, *, timeout: float = PATIENCE) -> Answer:
        """Make a GET request."""
        return request(self.port, "GET", path, timeout=timeout)

    def post(self, path: str, body: Any, *, headers: dict[str, str] | None = None, timeout: float = PATIENCE) -> Answer:
        """Make a POST request with a JSON body."""
        return request(self.port, "POST", path, body, headers=headers, timeout=timeout)


class Discovery(Process):
    """Discovery; ``settle``: seconds after its start until it takes a name that nobody registered for nobody's."""

    def __init__(self, directory: Path, settle: float | None = None) -> None:
        port = free_port()
        command = [sys.executable, "-m", "cellmesh_operator.discovery", "--host", "127.0.0.1", "--port", str(port)]
        environ = {} if settle is None else {"CELLMESH_DISCOVERY_SETTLE": str(settle)}
        super().__init__("discovery", command, port, directory, environ)

    @property
    def url(self) -> str:
        """Base URL of the default mesh."""
        return f"http://127.0.0.1:{self.port}/meshes/default"

    def peers(self) -> dict[str, dict[str, Any]]:
        """Return the peers of the default mesh by the name of their instance, or of their cell."""
        found = self.get("/meshes/default/peers").json["peers"]
        return {peer.get("instance") or peer["cell_id"]: peer for peer in found}

    def register(self, cell_id: str, port: int, **more: Any) -> None:
        """Register a cell by hand."""
        peer = {"cell_id": cell_id, "ip": "127.0.0.1", "port": port} | more
        answer = self.post("/meshes/default/register", peer)
        assert answer.status == 200, answer


class Cell(Process):
    """One instance of a cell.

    Args:
        cell_id: its name.
        directory: where its data and its log go.
        discovery_url: base URL of the mesh in discovery; empty: none.
        settings: further settings by the name of their field, for example ``drain_accept="0"``; with ``app`` it is
            run by its command.

    """

    def __init__(self, cell_id: str, directory: Path, discovery_url: str = "", **settings: str) -> None:
        self.cell_id = cell_id
        self.instance = settings.get("instance", f"{cell_id}-0")
        self.data_dir = directory / self.instance
        environ = {
            "CELLMESH_CELL_ID": cell_id,
            "CELLMESH_DATA_DIR": str(self.data_dir),
            "CELLMESH_DISCOVERY_URL": discovery_url,
        }
        environ |= {f"CELLMESH_{name.upper()}": value for name, value in settings.items()}
        command = ["-m", "cellmesh", "cell"] if "app" in settings else ["-c", _CELL]
        super().__init__(self.instance, [sys.executable, *command], 0, directory, environ)
        self.move()

    def move(self) -> None:
        """Take another port at the next start."""
        self.port = free_port()
        self._environ["CELLMESH_PORT"] = str(self.port)

    def send(self, to_cell: str, *, timeout: float = PATIENCE, **fields: Any) -> Answer:
        """Ask it to send a message."""
        return self.post("/send", {"to_cell": to_cell} | fields, timeout=timeout)

    def messages(self, query: str = "limit=1000") -> dict[str, Any]:
        """Return a page of its inbox."""
        answer = self.get(f"/messages?{query}")
        assert answer.status == 200, answer
        return dict(answer.json)


class Mesh:
    """Discovery and cells that have found it.

    Args:
        directory: where data and logs go.
        settle: of discovery.

    """

    def __init__(self, directory: Path, settle: float | None = None) -> None:
        self.directory = directory
        self.discovery = Discovery(directory, settle)
        self.cells: dict[str, Cell] = {}
        self._edits = 0

    def __getitem__(self, instance: str) -> Cell:
        """Return a cell by the name of its instance, or by its own where it has one instance."""
        return self.cells.get(instance) or self.cells[f"{instance}-0"]

    def add(self, cell_id: str, **settings: str) -> Cell:
        """Start a cell and wait until discovery lists it."""
        cell = Cell(cell_id, self.directory, self.discovery.url, **settings)
        self.cells[cell.instance] = cell
        cell.start()
        self.wait_listed(cell)
        return cell

    def scale(self, instance: str, replicas: int) -> None:
        """Have discovery say how many instances a cell should have, as an edited instance does that registers."""
        self._edits += 1
        peer = self.discovery.peers()[instance] | {"replicas": replicas, "edited": self._edits}
        self.discovery.register(**peer)

    def wait_listed(self, *cells: Cell, within: float = PATIENCE) -> None:
        """Wait until discovery lists these cells, each at its present port."""

        def listed() -> bool:
            peers = self.discovery.peers()
            return all(peers.get(cell.instance, {}).get("port") == cell.port for cell in cells)

        eventually(listed, within=within, message=f"discovery to list {[cell.instance for cell in cells]}")

    def close(self) -> None:
        """Kill what still runs."""
        for process in (*self.cells.values(), self.discovery):
            process.kill()


@contextlib.contextmanager
def mesh(directory: Path, *cells: str, settle: float | None = None, **settings: str) -> Iterator[Mesh]:
    """Run discovery and the named cells; ``settings`` are those of every cell."""
    running = Mesh(directory, settle)
    try:
        running.discovery.start()
        for cell_id in cells:
            running.add(cell_id, **settings)
        yield running
    finally:
        running.close()
