"""Queued messages, and many in one request, from end to end: ``python -m benchmarks.queued [--quick] [--write]``.

Counted is what is on disk at the receiver by the time the sender has nothing left to send. Timings are reported,
never a reason to fail.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import uvloop

from benchmarks.connections import ClosedLoop, clock
from benchmarks.document import DOCUMENT, QUEUED, write_part
from benchmarks.load import GRACE, PAD, percentile, unique_id
from benchmarks.machine import describe
from benchmarks.processes import ROOT, Servers, StartError
from benchmarks.systems import CELLMESH, System, start_systems
from benchmarks.wire import Client

#: Messages in one request of a batch, and connections that send batches.
BATCH = 100
BATCH_CONNECTIONS = 4
CONNECTIONS = 64
SMALL = "x" * 20


@dataclass(frozen=True)
class Case:
    """One way to send: what is posted where, how many messages in a request, of which payload; and its target."""

    name: str
    path: str
    messages: int
    pad: str
    connections: int
    target: float | None
    fields: Mapping[str, object] = field(default_factory=dict)


CASES = (
    Case("`/send`, queued, 1 KB", "/send", 1, PAD, CONNECTIONS, 5_000, {"mode": "queued"}),
    *(
        Case(f"{name}, {size}", path, BATCH, pad, BATCH_CONNECTIONS, None if "mode" in fields else target, fields)
        for name, path, fields in (
            ("`/message/batch`", "/message/batch", {"from_cell": "load"}),
            ("`/send/batch`", "/send/batch", {}),
            ("`/send/batch`, queued", "/send/batch", {"mode": "queued"}),
        )
        for size, pad, target in (("1 KB", PAD, 15_000), ("100 bytes", SMALL, 40_000))
    ),
)


@dataclass
class Figure:
    """What was measured of one case: messages a second from end to end, the time of a request in ms, CPU in us."""

    case: Case
    rate: float
    p50: float
    p99: float
    cpu: list[float]


def request_maker(case: Case, port: int) -> Callable[[], bytes]:
    """Return a function that makes one whole HTTP request after the other, each with its own messages."""
    one = {"to_cell": "pure", "message_type": "sync", "ttl": 86_400, "message_id": "%s", "payload": {"pad": case.pad}}
    text = msgspec.json.encode(one | dict(case.fields)).decode()
    body = text if case.messages == 1 else f"[{','.join([text] * case.messages)}]"
    run = os.urandom(6).hex()
    length = len(body) + case.messages * (len(unique_id(run, 0)) - 2)
    head = (
        f"POST {case.path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n"
        f"content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    )
    template = (head + body).encode()
    numbers = itertools.count()

    def make() -> bytes:
        return template % tuple(unique_id(run, next(numbers)).encode() for _ in range(case.messages))

    return make


def good(case: Case) -> Callable[[int, bytes], bool]:
    """Return what tells whether an answer takes all the messages of a request."""
    if case.messages == 1:
        return lambda status, _: status == 202
    mark = b'"status":202' if case.fields.get("mode") == "queued" else b'"status":200'
    return lambda status, body: status == 200 and body.count(mark) == case.messages


def queued(port: int) -> int:
    """Return how many messages a cell has still to send."""
    with Client(port) as client:
        return int(msgspec.json.decode(client.request("GET", "/health").body)["outbox"]["queued"])


def measure(case: Case, system: System, seconds: float) -> Figure:
    """Send for so many seconds, wait until all is delivered, and count."""
    direct = case.path == "/message/batch"
    port = system.message_port if direct else system.send_port

    async def drive() -> ClosedLoop:
        driver = ClosedLoop(port, case.connections, request_maker(case, port))
        driver.good = good(case)
        driver.tally.begin, driver.tally.end = clock(), clock() + seconds
        await driver.connect()
        await asyncio.sleep(seconds)
        await driver.finish(GRACE)
        return driver

    before = [server.cpu() for server in system.servers]
    begin = time.perf_counter()
    tally = uvloop.run(drive()).tally
    while not direct and queued(port):
        time.sleep(0.01)
    took = time.perf_counter() - begin
    for server in system.servers:
        server.check()
    if tally.errors:
        raise StartError(f"{case.name}: {dict(tally.errors)} {tally.sample}")
    count = tally.completed * case.messages
    cpu = [(server.cpu() - then) / count * 1e6 for server, then in zip(system.servers, before, strict=True)]
    ordered = sorted(tally.latencies)
    return Figure(case, count / took, percentile(ordered, 0.5), percentile(ordered, 0.99), cpu)


def render(figures: Sequence[Figure], machine: dict[str, str], seconds: float) -> str:
    """Return the part of the document."""
    rows = "\n".join(
        f"| {one.case.name} | {one.case.connections} x {one.case.messages} | {one.rate:,.0f}/s |"
        f" {f'{one.case.target:,.0f}/s' if one.case.target else '-'} | {one.p50:.1f} / {one.p99:.1f} ms |"
        f" {one.cpu[0]:.0f} / {one.cpu[1]:.0f} us |"
        for one in figures
    )
    return (
        f"{QUEUED}\n\n`python -m benchmarks.queued --write`; {seconds:g} s of load each, every message with an id of "
        "its own, until the sender has nothing left to send: each message is then on disk at the receiver, and a "
        f"queued one was on disk at the sender before. {machine.get('cpu', '')}\n\n"
        "| what | connections x messages | messages, end to end | target | request p50 / p99 | CPU a message, sender /"
        f" receiver |\n|---|---|---|---|---|---|\n{rows}\n"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.queued", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one second of each")
    parser.add_argument("--seconds", type=float, help="seconds of load for each (default 5)")
    parser.add_argument("--only", help="only cases whose name holds this")
    parser.add_argument("--data-dir", type=Path, default=ROOT / ".data", help="where data goes; the disk measured")
    parser.add_argument("--write", action="store_true", help=f"write it into {DOCUMENT.name}")
    chosen = parser.parse_args(arguments)
    seconds = chosen.seconds or (1.0 if chosen.quick else 5.0)
    chosen.data_dir.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    figures = []
    try:
        for case in CASES:
            if chosen.only and chosen.only not in case.name:
                continue
            with (
                tempfile.TemporaryDirectory(dir=chosen.data_dir, prefix="benchmarks-") as place,
                Servers(Path(place)) as servers,
            ):
                system = start_systems([CELLMESH], servers, Path(place), None)[CELLMESH]
                figures.append(measure(case, system, seconds))
            text = f"{case.name}: {figures[-1].rate:,.0f} messages/s"
            print(f"{time.monotonic() - begin:6.0f} s  {text}", flush=True)
    except StartError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    text = render(figures, describe(chosen.data_dir), seconds)
    print(f"\n{text}")
    if chosen.write:
        write_part(QUEUED, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
