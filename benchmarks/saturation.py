"""Memory of cells under as much load as they take: ``python -m benchmarks.saturation [--minutes N] [--write]``.

Queued messages are sent over 64 connections without a pause, delivered, leased by the hundred and acked. The bounds
of the cells are so wide that none is refused; what has not been consumed at the end is what has piled up.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from benchmarks.connections import ClosedLoop, clock
from benchmarks.consumers import MOST, Consumer
from benchmarks.document import DOCUMENT, SATURATION, write_part
from benchmarks.load import GRACE
from benchmarks.machine import describe
from benchmarks.processes import ROOT, Servers, StartError
from benchmarks.queued import CASES, good, request_maker
from benchmarks.systems import CELLMESH, System, start_systems

#: Seconds between two looks at the memory.
LOOK = 5.0
CASE = CASES[0]


@dataclass
class Course:
    """What was seen: MB of sender and receiver at each look, requests answered, and messages acked."""

    sender: list[float] = field(default_factory=list)
    receiver: list[float] = field(default_factory=list)
    answered: int = 0
    consumed: int = 0


async def consume(port: int, course: Course) -> None:
    """Take messages and ack them, until cancelled."""
    consumer = Consumer(port)
    while True:
        taken = await consumer.take_and_ack(MOST)
        course.consumed += taken
        if not taken:
            await asyncio.sleep(0.01)


async def drive(system: System, seconds: float, course: Course) -> None:
    """Load the sender for so many seconds, and look at the memory meanwhile."""
    driver = ClosedLoop(system.send_port, CASE.connections, request_maker(CASE, system.send_port))
    driver.good = good(CASE)
    driver.tally.begin, driver.tally.end = clock(), clock()  # no latencies are kept
    await driver.connect()
    consumers = [asyncio.create_task(consume(system.message_port, course)) for _ in range(2)]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await asyncio.sleep(min(LOOK, max(0.0, end - time.monotonic())))
        for server, seen in zip(system.servers, (course.sender, course.receiver), strict=True):
            server.check()
            seen.append(server.memory().rss)
        if len(course.sender) % 12 == 0:
            sizes = f"{course.sender[-1]:.0f} and {course.receiver[-1]:.0f} MB"
            passed = seconds - (end - time.monotonic())
            print(f"{passed:6.0f} s  {sizes}, {course.consumed:,} messages consumed", flush=True)
    await driver.finish(GRACE)
    for task in consumers:
        task.cancel()
    for outcome in await asyncio.gather(*consumers, return_exceptions=True):
        if isinstance(outcome, Exception):
            raise outcome
    if driver.tally.errors:
        raise StartError(f"{dict(driver.tally.errors)} {driver.tally.sample}")
    course.answered = driver.tally.completed


def render(course: Course, seconds: float, machine: dict[str, str]) -> str:
    """Return the part of the document."""
    rows = "\n".join(
        f"| {name} | {' | '.join(f'{mean:.0f} MB' for mean in fifths(seen))} | {max(seen):.0f} MB |"
        for name, seen in (("sender", course.sender), ("receiver", course.receiver))
    )
    return (
        f"{SATURATION}\n\n`python -m benchmarks.saturation --write`; {seconds / 60:g} minutes of queued messages of "
        f"1 KB over {CASE.connections} connections without a pause, delivered, leased by the hundred and acked: "
        f"{course.answered:,} requests answered, {course.consumed:,} messages consumed "
        f"({course.consumed / seconds:,.0f}/s). Resident memory, mean of each fifth of the time. "
        f"{machine.get('cpu', '')}\n\n| cell | 1 | 2 | 3 | 4 | 5 | most |\n|---|---|---|---|---|---|---|\n{rows}\n"
    )


def fifths(seen: Sequence[float]) -> list[float]:
    """Return the means of the five parts of a series; it has five values at least."""
    bounds = [len(seen) * part // 5 for part in range(6)]
    return [sum(seen[a:b]) / (b - a) for a, b in itertools.pairwise(bounds)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.saturation", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (default 10, at least 0.5)")
    parser.add_argument("--data-dir", type=Path, default=ROOT / ".data", help="where data goes; the disk measured")
    parser.add_argument("--write", action="store_true", help=f"write it into {DOCUMENT.name}")
    chosen = parser.parse_args(arguments)
    if not 0.5 <= chosen.minutes <= 24 * 60:
        parser.error(f"--minutes: {chosen.minutes:g} is not between 0.5 and 1440")
    chosen.data_dir.mkdir(parents=True, exist_ok=True)
    seconds, course = 60 * chosen.minutes, Course()
    try:
        with (
            tempfile.TemporaryDirectory(dir=chosen.data_dir, prefix="benchmarks-") as place,
            Servers(Path(place)) as servers,
        ):
            system = start_systems([CELLMESH], servers, Path(place), None)[CELLMESH]
            uvloop.run(drive(system, seconds, course))
    except StartError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    text = render(course, seconds, describe(chosen.data_dir))
    print(f"\n{text}")
    if chosen.write:
        write_part(SATURATION, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
