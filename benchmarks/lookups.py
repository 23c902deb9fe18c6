"""Discovery's ``GET /peers`` with 10, 1,000 and 10,000 registered peers: full, by cell, not modified.

One discovery for each number, all alive at once and asked in turn, one request after the other on one
connection each.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from benchmarks.processes import Servers, StartError
from benchmarks.results import Lookup, Results
from benchmarks.systems import ROOMY, start_discovery
from benchmarks.wire import Answer, Client, timed

SIZES = (10, 1_000, 10_000)
FULL, BY_CELL, NOT_MODIFIED = "full", "by cell_id", "not modified"
#: Requests of each kind in one turn; the full list of many peers is long.
TURN = {FULL: 3, BY_CELL: 20, NOT_MODIFIED: 20}


def measure(turns: int, directory: Path, results: Results, say: Callable[[str], None]) -> None:
    """Register the peers, then ask all of the discoveries in turn."""
    with tempfile.TemporaryDirectory(dir=directory) as place, Servers(Path(place)) as servers:
        clients = {}
        for size in SIZES:
            port, server = start_discovery(servers, f"discovery-{size}", ROOMY)
            clients[size] = Client(port)
            register(clients[size], size)
            results.discovery[str(size)] = server.memory()
            say(f"discovery: {size:,} peers registered")
        tags = {size: clients[size].request("GET", "/meshes/default/peers").headers.get("etag", "") for size in SIZES}
        times: dict[tuple[int, str], list[float]] = {(size, kind): [] for kind in TURN for size in SIZES}
        lengths: dict[tuple[int, str], int] = {}
        for turn in range(turns):
            for (size, kind), found in times.items():
                for number in range(TURN[kind]):
                    milliseconds, answer = ask(clients[size], kind, (turn * 7919 + number * 131) % size, tags[size])
                    found.append(milliseconds)
                    lengths[size, kind] = len(answer.body)
        for client in clients.values():
            client.close()
    for (size, kind), found in times.items():
        results.lookups.append(summary(size, kind, found, lengths[size, kind]))
    for kind in TURN:
        row = "; ".join(f"{item.peers:,} peers {item.p50:.3f} ms" for item in results.lookups if item.kind == kind)
        say(f"discovery: GET /peers {kind}: {row}")


def register(client: Client, count: int) -> None:
    """Register so many cells."""
    for number in range(count):
        peer = {
            "cell_id": name(number),
            "ip": "127.0.0.1",
            "port": 20_000 + number,
            "hostname": f"host-{number}",
            "type": "benchmark",
            "branch": "main",
            "services": ["code-analysis"],
        }
        answer = client.request("POST", "/meshes/default/register", msgspec.json.encode(peer))
        if answer.status != 200:
            raise StartError(f"registration {number}: {answer.status} {answer.body[:300].decode(errors='replace')}")


def name(number: int) -> str:
    return f"cell-{number:05d}"


def ask(client: Client, kind: str, number: int, tag: str) -> tuple[float, Answer]:
    """Make one request and see that the answer is the one expected."""
    path, status = "/meshes/default/peers", 200
    headers: dict[str, str] = {}
    if kind == BY_CELL:
        path += f"?cell_id={name(number)}"
    elif kind == NOT_MODIFIED:
        headers, status = {"if-none-match": tag}, 304
    milliseconds, answer = timed(client, path, headers)
    if answer.status != status or (kind == BY_CELL and name(number).encode() not in answer.body):
        raise StartError(f"GET {path} ({kind}): {answer.status} {answer.body[:300].decode(errors='replace')}")
    return milliseconds, answer


def summary(size: int, kind: str, found: list[float], length: int) -> Lookup:
    ordered = sorted(found)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return Lookup(size, kind, round(statistics.median(ordered), 4), round(p99, 4), length, len(ordered))
