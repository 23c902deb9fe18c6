"""Leases and acks of one cell over one connection: ``python -m benchmarks.consumers [--quick] [--write]``.

In one run: what the disk can do, messages taken and acked by the hundred and one by one, and what a lease and a
listing take with an empty inbox and with a full one. Timings are reported, never a reason to fail.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from benchmarks.document import CONSUMERS, DOCUMENT, write_part
from benchmarks.load import message, unique_id
from benchmarks.machine import describe, fdatasync
from benchmarks.processes import ROOT, Servers, StartError
from benchmarks.systems import start_cell
from benchmarks.wire import answers
from cellmesh.inbox import Inbox, InboxLimits, LeaseRequest
from cellmesh.protocol.messages import Identity, accept, decode_message
from cellmesh.transport.http1 import Pool

BATCH = 200
#: Messages that are handed out at once.
MOST = 100
HERE = Identity("pure", "default", "pure-0", "benchmark")
LIMITS = InboxLimits(
    max_messages=100_000_000,
    max_bytes=2**40,
    history=10_000,
    history_ms=86_400_000,
    dedupe_window_ms=600_000,
    disk_reserve=0,
)


@dataclass
class Figures:
    """What was measured: messages a second, and milliseconds."""

    syncs: float = 0.0
    hundreds: float = 0.0
    singles: float = 0.0
    lease_empty: float = 0.0
    lease_full: float = 0.0
    list_empty: float = 0.0
    list_full: float = 0.0
    start_full: float = 0.0


class Consumer:
    """One connection to a cell."""

    def __init__(self, port: int) -> None:
        self._pool = Pool("127.0.0.1", port)
        json = (("content-type", "application/json"),)
        paths = ("/message/batch", "/messages/lease", "/messages/ack", "/messages/nack")
        self._heads = {path: self._pool.prepare("POST", path, json) for path in paths}

    async def post(self, path: str, body: Any) -> Any:
        """Post, and return the answer's JSON."""
        answer = await self._pool.request(
            self._heads[path], msgspec.json.encode(body), connect_timeout=5.0, timeout=60.0
        )
        if answer.status != 200:
            raise StartError(f"{path}: {answer.status} {answer.body[:300].decode(errors='replace')}")
        return msgspec.json.decode(answer.body)

    async def list(self) -> None:
        """List the newest messages."""
        head = self._pool.prepare("GET", "/messages?limit=20")
        answer = await self._pool.request(head, connect_timeout=5.0, timeout=60.0)
        if answer.status != 200:
            raise StartError(f"/messages: {answer.status}")

    async def fill(self, count: int, **fields: Any) -> None:
        """Post messages of 1 KB."""
        run = os.urandom(6).hex()
        for first in range(0, count, BATCH):
            numbers = range(first, min(first + BATCH, count))
            items = [message(unique_id(run, number)) | {"ttl": 0} | fields for number in numbers]
            await self.post("/message/batch", items)

    async def take_and_ack(self, most: int) -> int:
        """Take messages and ack them; return how many there were."""
        taken = await self.post("/messages/lease", {"max": most, "lease_seconds": 600})
        items = [{"seq": one["seq"], "lease_token": one["lease_token"]} for one in taken["messages"]]
        if items:
            await self.post("/messages/ack", {"items": items})
        return len(items)


async def throughput(port: int, most: int, count: int) -> float:
    """Return messages taken and acked a second."""
    consumer = Consumer(port)
    await consumer.fill(count)
    begin = time.perf_counter()
    done = 0
    while taken := await consumer.take_and_ack(most):
        done += taken
    if done < count:
        raise StartError(f"{done} of {count} messages were handed out")
    return done / (time.perf_counter() - begin)


async def latencies(port: int, times: int) -> tuple[float, float]:
    """Return the median of a lease of one message and of a listing, in ms; what is taken is given back."""
    consumer = Consumer(port)
    await consumer.fill(10)
    leases, lists = [], []
    for _ in range(times):
        begin = time.perf_counter()
        taken = await consumer.post("/messages/lease", {"max": 1, "lease_seconds": 600})
        leases.append((time.perf_counter() - begin) * 1000)
        items = [{"seq": one["seq"], "lease_token": one["lease_token"], "release": True} for one in taken["messages"]]
        await consumer.post("/messages/nack", {"items": items})
        begin = time.perf_counter()
        await consumer.list()
        lists.append((time.perf_counter() - begin) * 1000)
    return statistics.median(leases), statistics.median(lists)


def preload(directory: Path, pending: int, leased: int, delayed: int) -> None:
    """Fill an inbox: leased and delayed messages of a higher priority in front of pending ones."""

    async def fill() -> None:
        inbox = Inbox(directory, LIMITS)
        for count, fields in (
            (leased, {"priority": "critical"}),
            (delayed, {"priority": "high", "not_before": 86_400}),
            (pending, {}),
        ):
            for first in range(0, count, BATCH):
                items = [
                    accept(
                        decode_message(
                            msgspec.json.encode(message(unique_id(str(fields), number)) | {"ttl": 0} | fields), str
                        ),
                        HERE,
                    )
                    for number in range(first, min(first + BATCH, count))
                ]
                stored = asyncio.get_running_loop().create_future()
                inbox.put(items, stored.set_result)
                await stored
            if fields.get("priority") == "critical":
                for _ in range(0, leased, 1000):
                    taken = asyncio.get_running_loop().create_future()
                    inbox.lease(LeaseRequest(1000, 86_400_000), taken.set_result)
                    await taken
        inbox.close()

    asyncio.run(fill())


def measure(place: Path, count: int, full: tuple[int, int, int], say: Any) -> Figures:
    """Measure everything, with cells of their own."""
    figures = Figures(syncs=1000 / fdatasync(place)["p50"])
    say(f"append 4 KiB and fdatasync: {figures.syncs:,.0f}/s")
    with Servers(place) as servers:
        port, server = start_cell(servers, "empty", "pure", place, "consumers", 0)
        server.wait_until(lambda: answers(port, "/readyz"), "ready")
        figures.hundreds = uvloop.run(throughput(port, MOST, count))
        say(f"leased and acked by the hundred: {figures.hundreds:,.0f}/s")
        figures.singles = uvloop.run(throughput(port, 1, count // 5))
        say(f"leased and acked one by one: {figures.singles:,.0f}/s")
        figures.lease_empty, figures.list_empty = uvloop.run(latencies(port, 300))
        say(f"empty inbox: lease {figures.lease_empty:.2f} ms, list {figures.list_empty:.2f} ms")
        servers.stop(server)
        preload(place / "full" / "pure", *full)
        say(f"an inbox with {full[0]:,} pending, {full[1]:,} leased and {full[2]:,} delayed messages is made")
        begin = time.perf_counter()
        port, server = start_cell(servers, "full", "pure", place / "full", "consumers", 0)
        server.wait_until(lambda: answers(port, "/readyz"), "ready", 300.0)
        figures.start_full = time.perf_counter() - begin
        figures.lease_full, figures.list_full = uvloop.run(latencies(port, 300))
        say(f"full inbox: lease {figures.lease_full:.2f} ms, list {figures.list_full:.2f} ms")
    return figures


def render(figures: Figures, full: tuple[int, int, int], machine: dict[str, str]) -> str:
    """Return the part of the document."""
    ratio = figures.singles / figures.syncs
    rows = [
        ("leased and acked by the hundred, one connection", f"{figures.hundreds:,.0f} messages/s", "10,000"),
        (
            "leased and acked one by one, one connection",
            f"{figures.singles:,.0f} messages/s: {ratio:.2f} of the fdatasync rate, {2 * ratio:.2f} as commits",
            "0.3",
        ),
        (
            "lease of one message, full inbox",
            f"p50 {figures.lease_full:.2f} ms, {figures.lease_full / figures.lease_empty:.2f} x an empty one",
            "2 x",
        ),
        (
            "list of the newest, full inbox",
            f"p50 {figures.list_full:.2f} ms, {figures.list_full / figures.list_empty:.2f} x an empty one",
            "2 x",
        ),
        ("start with the full inbox", f"{figures.start_full:.1f} s until ready", "-"),
    ]
    table = "\n".join(f"| {what} | {figure} | {target} |" for what, figure, target in rows)
    return (
        f"{CONSUMERS}\n\n`python -m benchmarks.consumers --write`; messages of 1 KB, each lease and each ack on disk "
        f"before its answer. The full inbox holds {full[0]:,} pending messages behind {full[1]:,} leased and "
        f"{full[2]:,} delayed ones of higher priority. fdatasync here: {figures.syncs:,.0f}/s. "
        f"{machine.get('cpu', '')}\n\n| what | figure | target |\n|---|---|---|\n{table}\n"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.consumers", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer messages")
    parser.add_argument("--data-dir", type=Path, default=ROOT / ".data", help="where data goes; the disk measured")
    parser.add_argument("--write", action="store_true", help=f"write it into {DOCUMENT.name}")
    chosen = parser.parse_args(arguments)
    count, full = (5_000, (50_000, 5_000, 5_000)) if chosen.quick else (50_000, (1_000_000, 100_000, 100_000))
    chosen.data_dir.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - begin:6.0f} s  {text}", flush=True)

    try:
        with tempfile.TemporaryDirectory(dir=chosen.data_dir, prefix="benchmarks-") as place:
            figures = measure(Path(place), count, full, say)
    except StartError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    text = render(figures, full, describe(chosen.data_dir))
    print(f"\n{text}")
    if chosen.write:
        write_part(CONSUMERS, text)
        say(f"wrote {DOCUMENT.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
