"""Run every test level that this machine can run, and say of each other one what is missing and the remedy.

    python -m tools.levels [LEVEL...]     what ``make test`` runs

A level that fails does not stop the others. On CI (``CI=true``), and where ``CELLMESH_REQUIRE_LEVELS=1`` is set,
a level that cannot run is a failure.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Level:
    """One level of tests: a target of the Makefile.

    Attributes:
        name: the target.
        what: what it needs, in a few words.
        check: command that exits 0 where this machine can run it, else says in one line what is missing.
        takes: how long it takes on two cores, once its tools are built.

    """

    name: str
    what: str
    check: tuple[str, ...] = ()
    takes: str = ""


LEVELS = (
    Level("check", "lint, types, layers", takes="half a minute"),
    Level("test-unit", "one process", takes="2 minutes"),
    Level("test-charts", "Helm 3 and 4", ("tests/kind/tools.sh", "--check", "helm"), takes="half a minute"),
    Level("test-apiserver", "a real API server", ("tests/kind/tools.sh", "--check", "apiserver"), takes="5 minutes"),
    Level("test-mesh", "real processes on real sockets", takes="5 minutes"),
    Level("e2e", "a kind cluster", ("tests/kind/cluster.sh", "check"), takes="15 minutes"),
)


@dataclass(frozen=True)
class Outcome:
    """What became of a level: ``passed``, ``FAILED`` or ``not run``, after how many seconds, and why not."""

    level: Level
    word: str
    seconds: float = 0
    reason: str = ""


def main(names: list[str]) -> int:
    """Run the levels of these names, all where there are none; return the exit code."""
    known = [level.name for level in LEVELS]
    if wrong := [name for name in names if name not in known]:
        print(f"no level {', '.join(wrong)}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    outcomes = [run(level) for level in LEVELS if not names or level.name in names]
    print("\nLevels of tests:")
    for outcome in outcomes:
        after = f"{outcome.seconds:5.0f} s" if outcome.word != "not run" else " " * 7
        print(f"  {outcome.level.name:15} {outcome.word:8} {after}  {outcome.reason}".rstrip())
    return exit_code(outcomes, required=required(os.environ))


def required(environ: Mapping[str, str]) -> bool:
    """Tell whether a level that cannot run is a failure."""
    return environ.get("CI", "").lower() in {"1", "true"} or environ.get("CELLMESH_REQUIRE_LEVELS") == "1"


def exit_code(outcomes: list[Outcome], *, required: bool) -> int:
    """Return 1 if a level failed, or could not run though it is required."""
    return int(any(outcome.word == "FAILED" or (required and outcome.word == "not run") for outcome in outcomes))


def run(level: Level) -> Outcome:
    """Run one level, if this machine can."""
    reason = "" if level.name == "e2e" and os.environ.get("CELLMESH_E2E_KUBECONFIG") else lacking(level)
    if reason:
        print(f"\n== {level.name} ({level.what}): not run: {reason}", flush=True)
        return Outcome(level, "not run", reason=reason)
    print(f"\n== {level.name} ({level.what}; usually {level.takes})", flush=True)
    began = time.monotonic()
    done = subprocess.run(["make", "--no-print-directory", level.name], cwd=ROOT, check=False)
    return Outcome(level, "FAILED" if done.returncode else "passed", time.monotonic() - began)


def lacking(level: Level) -> str:
    """Return what this machine lacks for a level, and the remedy, in one line; empty: nothing."""
    if not level.check:
        return ""
    done = subprocess.run(level.check, cwd=ROOT, capture_output=True, text=True, check=False)
    if not done.returncode:
        return ""
    lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return lines[-1].split(": ", 1)[-1] if lines else f"{level.check[0]} failed"


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
