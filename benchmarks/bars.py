"""The targets: what the figures of one run have to do with each other."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from benchmarks.cases import RATE_CONNECTIONS
from benchmarks.lookups import BY_CELL, SIZES
from benchmarks.results import Results
from benchmarks.systems import CELLMESH, FLOOR, LOADED, PROTOTYPE

#: With messages in the inbox nothing may be worse by more than this share.
TOLERANCE = 0.15


class Bar(msgspec.Struct):
    """One target: a figure, its bound, and a second bound that is wished for."""

    what: str
    figure: float
    target: float
    unit: str
    at_least: bool
    wanted: float | None = None

    @property
    def met(self) -> bool:
        return self.figure >= self.target if self.at_least else self.figure <= self.target

    @property
    def wish_met(self) -> bool:
        if self.wanted is None:
            return self.met
        return self.figure >= self.wanted if self.at_least else self.figure <= self.wanted


def bars(results: Results) -> list[Bar]:
    """Return every target whose figures were measured in this run."""
    return [
        *_hop(results),
        *_added(results),
        *_direct(results),
        *_memory(results),
        *_lookups(results),
        *_loaded(results),
    ]


def ratio(above: float | None, below: float | None) -> float | None:
    """Return a quotient, or nothing when either part is missing."""
    return above / below if above is not None and below else None


def _hop(results: Results) -> Iterator[Bar]:
    for connections in (16, 64):
        ours = results.median("send", "send", CELLMESH, connections, "throughput")
        for other, target, wanted in ((PROTOTYPE, 0.9, 1.0), (FLOOR, 0.45, 0.6)):
            value = ratio(ours, results.median("send", "send", other, connections, "throughput"))
            if value is not None:
                yield Bar(
                    f"`/send`, {connections} connections: throughput, {other} = 1",
                    value,
                    target,
                    "x",
                    at_least=True,
                    wanted=wanted,
                )
    ours = results.median("send", "send", CELLMESH, 1, "p50")
    theirs = results.median("send", "send", PROTOTYPE, 1, "p50")
    if ours is not None and theirs is not None:
        yield Bar("`/send`, 1 connection: p50 above the prototype's", ours - theirs, 0.15, "ms", at_least=False)


def _added(results: Results) -> Iterator[Bar]:
    for name, target in (("p50", 0.5), ("p99", 2.0)):
        hop = results.median("fixed", "send", CELLMESH, RATE_CONNECTIONS, name)
        direct = results.median("fixed", "message", CELLMESH, RATE_CONNECTIONS, name)
        if hop is not None and direct is not None:
            yield Bar(
                f"1,000 requests/s: {name} the hop adds to a direct call", hop - direct, target, "ms", at_least=False
            )


def _direct(results: Results) -> Iterator[Bar]:
    ours = results.median("message", "message", CELLMESH, 64, "throughput")
    value = ratio(ours, results.median("message", "message", PROTOTYPE, 64, "throughput"))
    if value is not None:
        yield Bar("`POST /message`, 64 connections: throughput, prototype = 1", value, 0.9, "x", at_least=True)


def _memory(results: Results) -> Iterator[Bar]:
    memory = results.memory(f"{CELLMESH}-pure", "idle")
    if memory is not None:
        yield Bar("one idle cell: resident memory", memory[0], 70.0, "MB", at_least=False, wanted=55.0)


def _lookups(results: Results) -> Iterator[Bar]:
    few, many = results.lookup(SIZES[0], BY_CELL), results.lookup(SIZES[-1], BY_CELL)
    if few is not None and many is not None:
        what = f"`GET /peers?cell_id=` with {SIZES[-1]:,} peers: p50, with {SIZES[0]} = 1"
        yield Bar(what, many.p50 / few.p50, 1.5, "x", at_least=False)


def _loaded(results: Results) -> Iterator[Bar]:
    """With messages in the inbox: throughput, latency and memory, each against the fresh inbox of the run."""
    for case, kind, connections, name in (
        ("send", "send", 16, "throughput"),
        ("send", "send", 64, "throughput"),
        ("send", "send", 1, "p50"),
        ("fixed", "send", RATE_CONNECTIONS, "p50"),
        ("fixed", "send", RATE_CONNECTIONS, "p99"),
        ("message", "message", 64, "throughput"),
    ):
        fresh = results.median(case, kind, CELLMESH, connections, name)
        value = ratio(results.median(case, kind, LOADED, connections, name), fresh)
        if value is None:
            continue
        faster = name == "throughput"
        bound = 1 - TOLERANCE if faster else 1 + TOLERANCE
        label = f"`/{kind}`, {'1,000 requests/s' if case == 'fixed' else _plural(connections)}: {name}"
        yield Bar(f"loaded inbox, {label}, fresh = 1", value, bound, "x", at_least=faster)
    fresh_memory = results.memory(f"{CELLMESH}-pure", "idle")
    loaded_memory = results.memory(f"{LOADED}-pure", "idle")
    if fresh_memory is not None and loaded_memory is not None:
        value = loaded_memory[0] / fresh_memory[0]
        yield Bar("loaded inbox, one idle cell: resident memory, fresh = 1", value, 1 + TOLERANCE, "x", at_least=False)


def _plural(connections: int) -> str:
    return "1 connection" if connections == 1 else f"{connections} connections"
