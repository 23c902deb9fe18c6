"""``docs/benchmarks.md``, and the same tables on the terminal at the end of a run."""

from __future__ import annotations

from benchmarks.bars import Bar, bars
from benchmarks.cases import CONNECTIONS, RATE, RATE_CONNECTIONS
from benchmarks.lookups import SIZES, TURN
from benchmarks.results import Results, Sample, median
from benchmarks.systems import ALL, CELLMESH, LOADED

METHOD = """\
Every figure is the median of the rounds; in brackets are the lowest and the highest round. In a round all
systems run on the same machine at the same time and are measured in turn, in an order that shifts from
round to round; only the system being measured has any work. Each case of each round begins with fresh
processes and fresh data. Ratios are ratios of these medians.

- **cellmesh**: two cells, `alpha` and `pure`, and discovery, as `cellmesh up` starts them. Every message
  acknowledged is on disk (SQLite, WAL, `synchronous=FULL`). `/send` is asked at alpha and delivers to
  pure; `/message` is asked at pure.
- **loaded**: the same, with {preload:,} messages in pure's inbox at the start.
- **prototype** (`benchmarks/prototype.py`): the same hop as small as it can be: durable, batched, but
  without validation, errors, deduplication or any other part of the contract.
- **floor** (`benchmarks/floor.py`): the same hop with nothing stored and nothing batched, on bare ASGI and
  raw connections: what two Python processes and HTTP cost at least.

The load generator is a process of its own (uvloop, httptools) and shares the cores with what it measures.
A message is about 1 KB, each is unique, connections are kept alive. Only an answer 200 with
`"acknowledged": true` counts; {errors}. Each measurement lasts {seconds:g} s after {warmup:g} s of
warm-up; rounds: {rounds:g}. At a fixed rate requests leave at scheduled times, and latency counts from those.
MB are 10^6 bytes.
"""

#: Share of the machine that others may take without a word.
QUIET = 0.05
PERCENTILES = ("p50", "p90", "p99", "p999")


def render(results: Results) -> str:
    """Return the whole report in Markdown."""
    parts = [
        "# Benchmarks",
        "Written by `make bench` (`python -m benchmarks --write`); not edited by hand.",
        "## Targets",
        targets(bars(results)),
        disturbance(results),
        "## Throughput and latency: closed loop",
        *throughput(results),
        "## What the hop adds, at a fixed rate",
        fixed(results),
        "## CPU",
        cpu(results),
        "## Memory",
        memory(results),
        "## Discovery: `GET /peers`",
        lookups(results),
        "## Machine and versions",
        machine(results),
        "## Method",
        method(results),
    ]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table, or a word that nothing was measured."""
    if not rows:
        return "Not measured in this run."
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def targets(found: list[Bar]) -> str:
    rows = []
    for bar in found:
        sign = "at least" if bar.at_least else "at most"
        verdict = "met" if bar.met else "**not met**"
        if bar.wanted is not None and bar.met:
            verdict += f" (wanted {bar.wanted:g}: {'met' if bar.wish_met else 'not met'})"
        rows.append([bar.what, f"{bar.figure:.3f} {bar.unit}", f"{sign} {bar.target:g} {bar.unit}", verdict])
    return table(["what", "measured", "target", "verdict"], rows)


def disturbance(results: Results) -> str:
    """Say how much of the machine other programs took, and what that means when it was much."""
    shares = sorted(sample.foreign for sample in results.samples)
    if not shares:
        return ""
    middle = median(shares, float) or 0.0
    text = f"Other programs took {middle:.1%} of the machine's CPU time (median; at most {shares[-1]:.1%})."
    if middle > QUIET or shares[-1] > 4 * QUIET:
        text += " **The machine was not quiet: figures that it disturbed say little.**"
    return text


def throughput(results: Results) -> list[str]:
    parts = []
    for kind, title in (("send", "`POST /send`: the hop"), ("message", "`POST /message`: the receiver alone")):
        rows = [
            [str(connections), system, *_closed(results, kind, system, connections)]
            for connections in CONNECTIONS
            for system in ALL
            if results.select(kind, kind, system, connections)
        ]
        head = ["connections", "system", "requests/s", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms"]
        parts += [f"### {title}", table(head, rows)]
    return parts


def _closed(results: Results, kind: str, system: str, connections: int) -> list[str]:
    loads = results.loads(kind, kind, system, connections)
    rates = [load.throughput for load in loads]
    rate = results.median(kind, kind, system, connections, "throughput") or 0.0
    cells = [f"{rate:,.0f} ({min(rates):,.0f}-{max(rates):,.0f})"]
    medians = [results.median(kind, kind, system, connections, name) or 0.0 for name in PERCENTILES]
    return cells + [f"{value:.2f}" for value in medians]


def fixed(results: Results) -> str:
    rows = []
    for system in (CELLMESH, LOADED):
        for kind, label in (("message", "`/message` directly"), ("send", "`/send`: the hop")):
            loads = results.loads("fixed", kind, system, RATE_CONNECTIONS)
            if not loads:
                continue
            late = sum(load.late for load in loads) / max(1, sum(load.requests for load in loads))
            figures = []
            for name in PERCENTILES:
                every = [float(getattr(load, name)) for load in loads]
                middle = results.median("fixed", kind, system, RATE_CONNECTIONS, name) or 0.0
                figures.append(f"{middle:.2f} ({min(every):.2f}-{max(every):.2f})")
            rows.append([system, label, *figures, f"{late:.1%}"])
    head = ["system", "asked", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "late"]
    title = (
        f"{RATE:,.0f} requests/s on {RATE_CONNECTIONS} connections; late: sent more than 1 ms after the scheduled time."
    )
    return f"{title}\n\n{table(head, rows)}"


def cpu(results: Results) -> str:
    """CPU per request by process, at 16 connections and at the fixed rate."""
    rows = []
    for case, kind in (("send", "send"), ("message", "message"), ("fixed", "send")):
        for system in ALL:
            samples = results.select(case, kind, system, 16)
            if samples:
                label = f"`/{kind}`, " + ("1,000 requests/s" if case == "fixed" else "closed loop")
                rows.append([label, system, _cpu(samples)])
    title = "Microseconds of CPU per request (user and system), 16 connections, by process."
    return f"{title}\n\n{table(['case', 'system', 'processes'], rows)}"


def _cpu(samples: list[Sample]) -> str:
    figures = []
    for process in samples[0].cpu:
        value = median(samples, lambda sample, process=process: sample.cpu[process])  # type: ignore[misc]
        figures.append(f"{process.split('-', 1)[-1]} {value:.0f}")
    return ", ".join(figures)


def memory(results: Results) -> str:
    names = list(dict.fromkeys(sample.process for sample in results.idle))
    rows = []
    for name in sorted(names, key=lambda name: ALL.index(name.split("-", 1)[0])):
        cells = [name.replace("-", " ", 1)]
        for when in ("idle", "used"):
            rss, pss = results.memory(name, when) or (0.0, None)
            cells += [f"{rss:.1f}", _optional(pss)]
        rows.append(cells)
    for size, found in results.discovery.items():
        rows.append([f"discovery, {int(size):,} peers", f"{found.rss:.1f}", _optional(found.pss), "", ""])
    head = ["process", "idle: RSS MB", "idle: PSS MB", "after a short load: RSS MB", "PSS MB"]
    return table(head, rows)


def _optional(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.1f}"


def lookups(results: Results) -> str:
    rows = []
    for kind in TURN:
        for size in SIZES:
            item = results.lookup(size, kind)
            if item is not None:
                rows.append([kind, f"{size:,}", f"{item.p50:.3f}", f"{item.p99:.3f}", f"{item.bytes:,}"])
    title = (
        "One request after the other on one connection, full lists last: mixed with them, the short answers of the\n"
        "largest discovery take up to half as long again in some runs, when the kernel moves it to another core\n"
        "than the client's. With all on one core they do not."
    )
    return f"{title}\n\n{table(['asked', 'peers registered', 'p50 ms', 'p99 ms', 'bytes'], rows)}"


def machine(results: Results) -> str:
    lines = [f"- {name}: {value}" for name, value in results.machine.items()]
    if results.fdatasync:
        figures = ", ".join(f"{name} {value:.2f} ms" for name, value in results.fdatasync.items())
        lines.append(f"- append 4 KiB and fdatasync on the data's disk: {figures}")
    lines.append("- " + ", ".join(f"{name} {value}" for name, value in results.versions.items()))
    return "\n".join(lines)


def method(results: Results) -> str:
    errors = "there were no others in this run" if not results.problems else "**there were others in this run**"
    text = METHOD.format(
        errors=errors,
        preload=int(results.options["preload"]),
        seconds=results.options["seconds"],
        warmup=results.options["warmup"],
        rounds=results.options["rounds"],
    )
    return text + "".join(f"\n- {problem}" for problem in results.problems)
