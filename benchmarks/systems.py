"""The systems that are compared, each as a sender A and a receiver B, started with fresh data.

``cellmesh``   two cells and discovery                 ``loaded``     the same, with messages in B's inbox
``prototype``  the yardstick, durable                  ``floor``      nothing stored
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from benchmarks.load import message, unique_id
from benchmarks.processes import Server, Servers, StartError
from benchmarks.wire import Client, answers, free_port, listening

CELLMESH = "cellmesh"
LOADED = "loaded"
PROTOTYPE = "prototype"
FLOOR = "floor"
ALL = (CELLMESH, LOADED, PROTOTYPE, FLOOR)

UVICORN = ["-m", "uvicorn", "--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
CELL = ["-m", "cellmesh", "cell"]
DISCOVERY = ["-m", "cellmesh_operator.discovery"]
#: Messages in one batch of the preload.
BATCH = 200
#: Bounds so wide that no message of the run is refused.
BOUNDS = {"CELLMESH_MAX_MESSAGES": "100000000", "CELLMESH_MAX_BYTES": str(2**40)}
#: Room for the registrations of the lookups, none of which expires meanwhile, and a content that stays as
#: it is: "settled" is part of it.
ROOMY = {
    "CELLMESH_DISCOVERY_EXPIRY": "86400",
    "CELLMESH_DISCOVERY_MAX_REGISTRATIONS": "20000",
    "CELLMESH_DISCOVERY_SETTLE": "0",
}


@dataclass
class System:
    """A running system: where to send, and its processes."""

    name: str
    send_port: int
    message_port: int
    servers: list[Server] = field(default_factory=list)

    def port(self, kind: str) -> int:
        """Return the port that ``POST /send`` or ``POST /message`` is asked at."""
        return self.send_port if kind == "send" else self.message_port


def start_systems(names: list[str], servers: Servers, directory: Path, template: Path | None) -> dict[str, System]:
    """Start all the systems named, at the same time, and wait until each delivers."""
    systems = {}
    discovery = 0
    if {CELLMESH, LOADED} & set(names):
        discovery, _ = start_discovery(servers, "discovery", {})
    for name in names:
        place = directory / name
        place.mkdir()
        if name == LOADED:
            if template is None:
                raise StartError("no preloaded inbox")
            shutil.copytree(template, place / "pure")
        if name in {CELLMESH, LOADED}:
            systems[name] = _cells(name, servers, place, discovery)
        else:
            systems[name] = _plain(name, servers, place)
    for system in systems.values():
        _wait(system)
    os.sync()
    return systems


def start_discovery(servers: Servers, name: str, settings: dict[str, str]) -> tuple[int, Server]:
    """Start discovery and wait until it serves; return its port and process."""
    port = free_port()
    server = servers.start(name, [*DISCOVERY, "--port", str(port)], settings)
    server.wait_until(lambda: answers(port, "/peers"), "serving /peers")
    return port, server


def start_cell(
    servers: Servers, name: str, cell_id: str, directory: Path, mesh: str, discovery: int
) -> tuple[int, Server]:
    """Start one cell; return its port and process."""
    port = free_port()
    settings = {
        "CELLMESH_CELL_ID": cell_id,
        "CELLMESH_INSTANCE": f"{cell_id}-0",
        "CELLMESH_NAMESPACE": mesh,
        "CELLMESH_PORT": str(port),
        "CELLMESH_DATA_DIR": str(directory / cell_id),
        "CELLMESH_DISCOVERY_URL": f"http://127.0.0.1:{discovery}/meshes/{mesh}" if discovery else "",
        **BOUNDS,
    }
    return port, servers.start(f"{name}-{cell_id}", CELL, settings)


def _cells(name: str, servers: Servers, directory: Path, discovery: int) -> System:
    # Each pair in a mesh of its own, so that both may be called alpha and pure.
    alpha, sender = start_cell(servers, name, "alpha", directory, name, discovery)
    pure, receiver = start_cell(servers, name, "pure", directory, name, discovery)
    return System(name, alpha, pure, [sender, receiver])


def _plain(name: str, servers: Servers, directory: Path) -> System:
    a, b = free_port(), free_port()
    module = [f"benchmarks.{name}:app"]
    settings = {f"{name.upper()}_B_PORT": str(b), "DB": str(directory / "b.db")}
    sender = servers.start(f"{name}-a", [*UVICORN, "--port", str(a), *module], {**settings, "ROLE": "A"})
    receiver = servers.start(f"{name}-b", [*UVICORN, "--port", str(b), *module], {**settings, "ROLE": "B"})
    return System(name, a, b, [sender, receiver])


def _wait(system: System) -> None:
    """Wait until a system delivers a message from A to B."""
    sender, receiver = system.servers
    cell = system.name in {CELLMESH, LOADED}
    for server, port in ((sender, system.send_port), (receiver, system.message_port)):
        server.wait_until(
            lambda port=port: answers(port, "/readyz") if cell else listening(port),  # type: ignore[misc]
            "ready",
        )
    body = msgspec.json.encode({"to_cell": "pure", "message_type": "sync", "ttl": 86_400, "payload": {}})

    def delivers() -> bool:
        with Client(system.send_port) as client:
            return client.request("POST", "/send", body).status == 200

    sender.wait_until(delivers, "delivering", 20.0)


def preload(servers: Servers, directory: Path, messages: int) -> Path:
    """Fill the inbox of a cell and stop it; return its data directory, to be copied for each start."""
    port, server = start_cell(servers, "preload", "pure", directory, LOADED, 0)
    server.wait_until(lambda: answers(port, "/livez"), "alive")
    with Client(port, 60.0) as client:
        for first in range(0, messages, BATCH):
            numbers = range(first, min(first + BATCH, messages))
            body = msgspec.json.encode([message(unique_id("preload", number)) for number in numbers])
            answer = client.request("POST", "/message/batch", body)
            if answer.status != 200 or answer.body.count(b'"acknowledged":true') != len(numbers):
                raise StartError(f"preload: {answer.status} {answer.body[:300].decode(errors='replace')}")
    servers.stop(server)
    return directory / "pure"
