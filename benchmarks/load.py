"""The load generator, run as a process of its own; prints one JSON object.

    python -m benchmarks.load send --port 8000 --connections 16 --seconds 3
    python -m benchmarks.load message --port 8002 --connections 16 --seconds 3 --rate 1000

Without ``--rate`` it is a closed loop: each connection sends when it has its answer. With it, requests
leave at scheduled times and latency counts from those. Every message is unique; only an answer 200 with
``"acknowledged":true`` in it counts as a success.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import json
import os
import resource
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec
import uvloop

from benchmarks.connections import ClosedLoop, Driver, FixedRate, Tally, clock

#: Pads a message to about 1 KB.
PAD = "x" * 900
#: How long answers may be outstanding after the last request.
GRACE = 15.0


class LoadResult(msgspec.Struct):
    """What one run of the generator found; times in milliseconds, CPU in seconds."""

    requests: int
    seconds: float
    throughput: float
    p50: float
    p90: float
    p99: float
    p999: float
    late: int
    errors: dict[str, int]
    error_sample: str
    total_requests: int
    cpu: float


def request_maker(kind: str, port: int) -> Callable[[], bytes]:
    """Return a function that makes one whole HTTP request after the other, each with its own message."""
    if kind == "send":
        body = {"to_cell": "pure", "message_type": "sync", "ttl": 86_400, "payload": {"pad": PAD, "n": "%s"}}
    else:
        body = message("%s")
    text = json.dumps(body, separators=(",", ":"))
    run = os.urandom(6).hex()
    places = text.count("%s")
    length = len(text) + places * (len(unique_id(run, 0)) - 2)
    head = (
        f"POST /{kind} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n"
        f"content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    )
    template = (head + text).encode()
    numbers = itertools.count()

    def make() -> bytes:
        return template % ((unique_id(run, next(numbers)).encode(),) * places)

    return make


def unique_id(run: str, number: int) -> str:
    return f"{run}-{number:012d}"


def message(message_id: str) -> dict[str, object]:
    """A whole CellMessage of about 1 KB, with all that the prototype insists on."""
    return {
        "message_id": message_id,
        "from_cell": "load",
        "to_cell": "pure",
        "message_type": "sync",
        "payload": {"pad": PAD, "n": message_id},
        "priority": "normal",
        "ttl": 86_400,
        "timestamp": datetime.now(UTC).isoformat(),
    }


async def drive(driver: Driver, warmup: float, seconds: float) -> None:
    """Warm up, measure, wait for the last answers."""
    tally = driver.tally
    tally.begin = clock() + warmup
    tally.end = tally.begin + seconds
    await driver.connect()
    if isinstance(driver, FixedRate):
        driver.start()
    await asyncio.sleep(tally.end - clock())
    await driver.finish(GRACE)


def percentile(ordered: list[float], share: float) -> float:
    """Return the nearest-rank percentile of sorted latencies, in milliseconds."""
    if not ordered:
        return float("nan")
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000, 4)


def cpu_used() -> float:
    """Return the CPU seconds of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def result(tally: Tally, seconds: float, cpu: float) -> LoadResult:
    ordered = sorted(tally.latencies)
    return LoadResult(
        requests=len(ordered),
        seconds=seconds,
        throughput=round(len(ordered) / seconds, 1),
        p50=percentile(ordered, 0.50),
        p90=percentile(ordered, 0.90),
        p99=percentile(ordered, 0.99),
        p999=percentile(ordered, 0.999),
        late=tally.late,
        errors=dict(tally.errors),
        error_sample=tally.sample,
        total_requests=tally.completed + tally.errors.total(),
        cpu=round(cpu, 3),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Load for a cell, the floor or the prototype.")
    parser.add_argument("kind", choices=["send", "message"], help="POST /send or POST /message")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--warmup", type=float, default=0.5)
    parser.add_argument("--rate", type=float, help="requests per second; without it a closed loop")
    options = parser.parse_args()
    make = request_maker(options.kind, options.port)
    driver: Driver
    if options.rate:
        driver = FixedRate(options.port, options.connections, make, options.rate)
    else:
        driver = ClosedLoop(options.port, options.connections, make)
    gc.disable()
    before = cpu_used()
    uvloop.run(drive(driver, options.warmup, options.seconds))
    used = cpu_used() - before
    print(msgspec.json.encode(result(driver.tally, options.seconds, used)).decode())


if __name__ == "__main__":
    main()
