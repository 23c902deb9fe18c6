"""Discovery's ``GET /peers`` with 10, 1,000 and 10,000 registered peers: by cell, not modified, full.

One discovery for each number, all alive at once and asked in turn, one request after the other on one
connection each. Turns are short and many, because two processes that the scheduler puts on different
cores take half as long again for a short answer, and stay there for a while. Megabytes of full lists
bring that about, so those come last.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from benchmarks.processes import Servers, StartError
from benchmarks.results import Lookup, Results
from benchmarks.systems import ROOMY, start_discovery
from benchmarks.wire import Answer, Client, timed

SIZES = (10, 1_000, 10_000)
FULL, BY_CELL, NOT_MODIFIED = "full", "by cell_id", "not modified"
#: Requests of each kind to each discovery in one turn; the full list of many peers is long.
TURN = {BY_CELL: 20, NOT_MODIFIED: 20, FULL: 2}
TURNS = 80
#: Requests before those that count: the program asked before has left nothing in the caches.
WARM = 3
#: Seconds between turns, in which the scheduler may think again.
PAUSE = 0.005


def measure(directory: Path, results: Results, say: Callable[[str], None]) -> None:
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
        for kind in TURN:
            for turn in range(TURNS):
                for size in random.sample(SIZES, len(SIZES)):
                    found, length = take_turn(clients[size], kind, size, turn, tags[size])
                    times[size, kind] += found
                    lengths[size, kind] = length
                time.sleep(PAUSE)
        for client in clients.values():
            client.close()
    for (size, kind), found in times.items():
        results.lookups.append(summary(size, kind, found, lengths[size, kind]))
    for kind in TURN:
        row = "; ".join(f"{item.peers:,} peers {item.p50:.3f} ms" for item in results.lookups if item.kind == kind)
        say(f"discovery: GET /peers {kind}: {row}")


def take_turn(client: Client, kind: str, size: int, turn: int, tag: str) -> tuple[list[float], int]:
    """Make the requests of one turn; return their times, without the first, and the length of the answer."""
    found = []
    length = 0
    for number in range(WARM + TURN[kind]):
        milliseconds, answer = ask(client, kind, (turn * 7919 + number * 131) % size, tag)
        found.append(milliseconds)
        length = len(answer.body)
    return found[WARM:], length


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
