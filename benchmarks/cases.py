"""What is measured, case by case; each starts its systems with fresh data and ends them.

Within a round the systems take turns at each number of connections, in an order that shifts from round
to round, so that whatever else the machine does falls on all of them alike.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from benchmarks.load import LoadResult
from benchmarks.machine import Foreign
from benchmarks.processes import ROOT, Servers, StartError
from benchmarks.results import IdleSample, Results, Sample
from benchmarks.systems import CELLMESH, FLOOR, LOADED, PROTOTYPE, System, start_systems

CONNECTIONS = (1, 16, 64)
#: The fixed rate: requests a second, and connections that share them.
RATE = 1000.0
RATE_CONNECTIONS = 16
#: How long processes are left alone before their memory is read.
SETTLE = 1.5

Say = Callable[[str], None]


@dataclass
class Plan:
    """How long, how often, of what, and where."""

    rounds: int
    seconds: float
    warmup: float
    systems: list[str]
    directory: Path
    template: Path | None = None

    def order(self, names: tuple[str, ...], round_index: int) -> list[str]:
        """Return those of the systems that take part, beginning with another one each round."""
        wanted = [name for name in names if name in self.systems]
        shift = round_index % len(wanted) if wanted else 0
        return wanted[shift:] + wanted[:shift]


@contextmanager
def started(plan: Plan, names: list[str]) -> Iterator[dict[str, System]]:
    """Start systems in a directory of their own, which is gone afterwards."""
    with tempfile.TemporaryDirectory(dir=plan.directory) as place, Servers(Path(place)) as servers:
        yield start_systems(names, servers, Path(place), plan.template)


def throughput(kind: str, round_index: int, plan: Plan, results: Results, say: Say) -> None:
    """The closed loop at 1, 16 and 64 connections; the floor stores nothing, so it has only the hop."""
    names = (CELLMESH, LOADED, PROTOTYPE, FLOOR) if kind == "send" else (CELLMESH, LOADED, PROTOTYPE)
    order = plan.order(names, round_index)
    if not order:
        return
    with started(plan, order) as systems:
        for connections in CONNECTIONS:
            found = []
            for name in order:
                sample = measure(systems[name], kind, kind, connections, round_index, plan, results)
                found.append(f"{name} {sample.load.throughput:,.0f}/s p50 {sample.load.p50:.2f} ms")
            say(f"POST /{kind}, connections {connections:2}: {'; '.join(found)}")


def fixed(round_index: int, plan: Plan, results: Results, say: Say) -> None:
    """1,000 requests a second: the receiver asked directly, and through the hop."""
    order = plan.order((CELLMESH, LOADED), round_index)
    if not order:
        return
    kinds = ("message", "send") if round_index % 2 == 0 else ("send", "message")
    with started(plan, order) as systems:
        for name in order:
            found = []
            for kind in kinds:
                sample = measure(systems[name], "fixed", kind, RATE_CONNECTIONS, round_index, plan, results, rate=RATE)
                found.append(f"/{kind} p50 {sample.load.p50:.2f} p99 {sample.load.p99:.2f} ms")
            say(f"{RATE:,.0f} requests/s, {name}: {'; '.join(found)}")


def idle(round_index: int, plan: Plan, results: Results, say: Say) -> None:
    """Memory of every process after its start, and again after a short load."""
    order = plan.order((CELLMESH, LOADED, PROTOTYPE, FLOOR), round_index)
    if not order:
        return
    found = []
    short = replace(plan, seconds=min(1.0, plan.seconds), warmup=0.0)
    with started(plan, order) as systems:
        time.sleep(SETTLE)
        before = {name: [server.memory() for server in system.servers] for name, system in systems.items()}
        for name in order:
            run_load(systems[name], "send", RATE_CONNECTIONS, short, results, None)
        time.sleep(SETTLE)
        for name, system in systems.items():
            for server, memory in zip(system.servers, before[name], strict=True):
                results.idle.append(IdleSample(server.name, round_index, memory, server.memory()))
                found.append(f"{server.name} {memory.rss:.0f} MB")
    say(f"idle memory: {'; '.join(found)}")


def measure(
    system: System,
    case: str,
    kind: str,
    connections: int,
    round_index: int,
    plan: Plan,
    results: Results,
    rate: float | None = None,
) -> Sample:
    """Put load on one system; note what came of it and what CPU and memory it took."""
    before = [server.cpu() for server in system.servers]
    foreign = Foreign()
    load = run_load(system, kind, connections, plan, results, rate)
    cpu = {"load": load.cpu / max(1, load.total_requests) * 1e6}
    used = [server.cpu() - then for server, then in zip(system.servers, before, strict=True)]
    share = foreign.share(sum(used))
    for server, seconds in zip(system.servers, used, strict=True):
        server.check()
        cpu[server.name] = seconds / max(1, load.total_requests) * 1e6
    memory = {server.name: server.memory() for server in system.servers}
    sample = Sample(case, kind, system.name, connections, round_index, load, cpu, memory, share)
    results.samples.append(sample)
    return sample


def run_load(
    system: System, kind: str, connections: int, plan: Plan, results: Results, rate: float | None
) -> LoadResult:
    """Run the load generator as a process of its own; note its errors."""
    arguments = [kind, "--port", str(system.port(kind)), "--connections", str(connections)]
    arguments += ["--seconds", str(plan.seconds), "--warmup", str(plan.warmup)]
    if rate:
        arguments += ["--rate", str(rate)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load", *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=plan.warmup + plan.seconds + 90,
        check=False,
    )
    if done.returncode != 0:
        raise StartError(f"load generator: {done.stderr.decode(errors='replace')[-2000:]}")
    load = msgspec.json.decode(done.stdout, type=LoadResult, strict=False)
    what = f"{system.name} POST /{kind}, {connections} connections"
    if load.errors:
        results.problems.append(f"{what}: {load.errors} for example {load.error_sample!r}")
    elif not load.requests:
        results.problems.append(f"{what}: no request was answered within the measured time")
    return load
