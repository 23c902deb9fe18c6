"""What a run finds, as data: written with ``--json``, and what the report and the targets are made of."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from typing import TypeVar

import msgspec

from benchmarks.load import LoadResult
from benchmarks.processes import Memory

T = TypeVar("T")


class Sample(msgspec.Struct):
    """One measurement of one system: which case, which round, what the load generator found.

    ``cpu`` holds microseconds of CPU per request by process, the load generator's included; ``foreign`` the
    share of the machine's CPU time that other programs took meanwhile.
    """

    case: str
    kind: str
    system: str
    connections: int
    round: int
    load: LoadResult
    cpu: dict[str, float]
    memory: dict[str, Memory]
    foreign: float


class IdleSample(msgspec.Struct):
    """Memory of a process before its first message but one, and after a short load."""

    process: str
    round: int
    idle: Memory
    used: Memory


class Lookup(msgspec.Struct):
    """One kind of ``GET /peers`` at one number of registered peers; times in milliseconds."""

    peers: int
    kind: str
    p50: float
    p99: float
    bytes: int
    requests: int


class Results(msgspec.Struct):
    """Everything one run found."""

    machine: dict[str, str]
    versions: dict[str, str]
    options: dict[str, float]
    samples: list[Sample] = []
    idle: list[IdleSample] = []
    lookups: list[Lookup] = []
    discovery: dict[str, Memory] = {}
    fdatasync: dict[str, float] = {}
    problems: list[str] = []

    def loads(self, case: str, kind: str, system: str, connections: int) -> list[LoadResult]:
        """Return what all rounds found of one thing."""
        return [sample.load for sample in self.select(case, kind, system, connections)]

    def select(self, case: str, kind: str, system: str, connections: int) -> list[Sample]:
        """Return the measurements of one thing, one a round."""
        return [
            sample
            for sample in self.samples
            if (sample.case, sample.kind, sample.system, sample.connections) == (case, kind, system, connections)
        ]

    def median(self, case: str, kind: str, system: str, connections: int, name: str) -> float | None:
        """Return the median over the rounds of one figure, for example ``throughput`` or ``p99``."""
        return median(self.loads(case, kind, system, connections), lambda load: float(getattr(load, name)))

    def memory(self, process: str, when: str) -> tuple[float, float | None] | None:
        """Return the median RSS and PSS of a process, ``idle`` or ``used``, in MB."""
        found = [getattr(sample, when) for sample in self.idle if sample.process == process]
        rss = median(found, lambda memory: memory.rss)
        pss = median([memory for memory in found if memory.pss is not None], lambda memory: memory.pss or 0.0)
        return None if rss is None else (rss, pss)

    def lookup(self, peers: int, kind: str) -> Lookup | None:
        return next((item for item in self.lookups if (item.peers, item.kind) == (peers, kind)), None)


def median(items: Iterable[T], figure: Callable[[T], float]) -> float | None:
    """Return the median of a figure, or nothing when there is nothing."""
    figures = [figure(item) for item in items]
    return statistics.median(figures) if figures else None
