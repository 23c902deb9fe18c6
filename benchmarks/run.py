"""Options, rounds and the exit code of ``python -m benchmarks``.

Exits with 1 when a program does not start or any answer was not the one expected, with 130 on Ctrl-C.
Timings never make a run fail: they are reported.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NoReturn

import msgspec

from benchmarks import cases, lookups, machine, report
from benchmarks.bars import bars
from benchmarks.cases import Plan
from benchmarks.document import DOCUMENT, write_messages
from benchmarks.processes import ROOT, Servers, StartError
from benchmarks.results import Results
from benchmarks.systems import ALL, LOADED, preload

CASES = ("send", "message", "fixed", "idle", "disk", "discovery")


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Benchmarks of CellMesh, all in one run.")
    parser.add_argument("--quick", action="store_true", help="one short round, 10,000 messages preloaded")
    parser.add_argument("--rounds", type=int, help="rounds (default 5)")
    parser.add_argument("--seconds", type=float, help="measured seconds of each load (default 3)")
    parser.add_argument("--preload", type=int, help="messages in the loaded inbox (default 100,000)")
    parser.add_argument("--only", action="append", choices=CASES, help="only this case; may be repeated")
    parser.add_argument("--systems", action="append", choices=ALL, help="only this system; may be repeated")
    parser.add_argument(
        "--data-dir", type=Path, default=ROOT / ".data", help="where data goes; the disk that is measured"
    )
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    chosen = parser.parse_args()
    quick = chosen.quick
    chosen.rounds = chosen.rounds or (1 if quick else 5)
    chosen.seconds = chosen.seconds or (1.0 if quick else 3.0)
    chosen.preload = (10_000 if quick else 100_000) if chosen.preload is None else chosen.preload
    chosen.only = chosen.only or list(CASES)
    chosen.systems = chosen.systems or list(ALL)
    return chosen


def main() -> int:
    """Run what was asked for; return the exit code."""
    chosen = options()
    signal.signal(signal.SIGTERM, _interrupted)
    say = _progress()
    chosen.data_dir.mkdir(parents=True, exist_ok=True)
    warmup = round(min(0.7, chosen.seconds / 3), 2)
    results = Results(
        machine.describe(chosen.data_dir),
        machine.versions(),
        {"rounds": chosen.rounds, "seconds": chosen.seconds, "warmup": warmup, "preload": chosen.preload},
    )
    try:
        with tempfile.TemporaryDirectory(dir=chosen.data_dir, prefix="benchmarks-") as place:
            plan = Plan(chosen.rounds, chosen.seconds, warmup, chosen.systems, Path(place))
            run(plan, chosen.only, chosen.preload, results, say)
    except StartError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("benchmarks: interrupted; every process was stopped", file=sys.stderr)
        return 130
    return finish(chosen, results, say)


def run(plan: Plan, wanted: list[str], messages: int, results: Results, say: Callable[[str], None]) -> None:
    """Measure everything wanted, round by round."""
    if "disk" in wanted:
        results.fdatasync = machine.fdatasync(plan.directory)
        say(f"append 4 KiB and fdatasync: p50 {results.fdatasync['p50']:.3f} ms")
    loads = [case for case in wanted if case in {"send", "message", "fixed", "idle"}]
    if loads and LOADED in plan.systems:
        place = plan.directory / "template"
        place.mkdir()
        with Servers(place) as servers:
            begin = time.monotonic()
            plan.template = preload(servers, place, messages)
            say(f"{messages:,} messages preloaded in {time.monotonic() - begin:.1f} s")
    measures: dict[str, Callable[[int, Plan, Results, cases.Say], None]] = {
        "send": partial(cases.throughput, "send"),
        "message": partial(cases.throughput, "message"),
        "fixed": cases.fixed,
        "idle": cases.idle,
    }
    for number in range(plan.rounds):
        say(f"round {number + 1} of {plan.rounds}")
        for case in loads:
            measures[case](number, plan, results, say)
    if "discovery" in wanted:
        lookups.measure(plan.directory, results, say)


def finish(chosen: argparse.Namespace, results: Results, say: Callable[[str], None]) -> int:
    """Print the targets, write what was asked for, and decide about the exit code."""
    print(f"\n{report.targets(bars(results))}\n\n{report.disturbance(results)}\n")
    if chosen.json:
        chosen.json.write_bytes(msgspec.json.format(msgspec.json.encode(results)))
    if chosen.write:
        write_messages(report.render(results))
        say(f"wrote {DOCUMENT.relative_to(ROOT)}")
    for problem in results.problems:
        print(f"benchmarks: unexpected answers: {problem}", file=sys.stderr)
    say("done")
    return 1 if results.problems else 0


def _progress() -> Callable[[str], None]:
    begin = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - begin:6.0f} s  {text}", flush=True)

    return say


def _interrupted(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001 - a signal handler's
    raise KeyboardInterrupt
