"""Run every test level that this machine can run, and say of each other one what is missing and the remedy.

    python -m tools.levels [LEVEL...]     what ``make test`` runs

A level that fails does not stop the others, and a level whose tests were all skipped counts as one that cannot run.
On CI (``CI=true``), and where ``CELLMESH_REQUIRE_LEVELS=1`` is set, a level that cannot run is a failure, and each
has a deadline, so that the summary is printed whatever hangs.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

ROOT = Path(__file__).parents[1]
#: Seconds from a level's deadline until it is killed: to say where it is, and to delete its cluster.
GRACE = 60.0


@dataclass(frozen=True)
class Level:
    """One level of tests: a target of the Makefile.

    Attributes:
        name: the target.
        what: what it needs, in a few words.
        check: command that exits 0 where this machine can run it, else says in one line what is missing.
        takes: how long it takes on two cores, once its tools are built.
        deadline: minutes it may take where there are deadlines, with building its tools.

    """

    name: str
    what: str
    check: tuple[str, ...] = ()
    takes: str = ""
    deadline: float = 20


LEVELS = (
    Level("check", "lint, types, layers", takes="half a minute"),
    Level("test-unit", "one process", takes="2 minutes"),
    Level("test-charts", "Helm 3 and 4", ("tests/kind/tools.sh", "--check", "helm"), takes="half a minute"),
    Level(
        "test-apiserver",
        "a real API server",
        ("tests/kind/tools.sh", "--check", "apiserver"),
        takes="8 minutes",
        deadline=40,
    ),
    Level("test-mesh", "real processes on real sockets", takes="8 minutes", deadline=30),
    Level("e2e", "a kind cluster", ("tests/kind/e2e-check.sh",), takes="18 minutes", deadline=45),
)


@dataclass(frozen=True)
class Counts:
    """Of a level's tests: how many there were, how many of them were skipped, and why the first of these."""

    tests: int = 0
    skipped: int = 0
    reason: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of a level: ``passed``, ``FAILED`` or ``not run``, after how many seconds, and why not.

    ``skipped`` is how many of its tests were skipped.
    """

    level: Level
    word: str
    seconds: float = 0
    reason: str = ""
    skipped: int = 0

    @property
    def line(self) -> str:
        """One line of the summary."""
        words = f"{self.word}, {self.skipped} skipped" if self.skipped else self.word
        after = f"{self.seconds:5.0f} s" if self.seconds else " " * 7
        return f"  {self.level.name:15} {words:20} {after}  {self.reason}".rstrip()


def main(names: list[str]) -> int:
    """Run the levels of these names, all where there are none; return the exit code."""
    known = [level.name for level in LEVELS]
    if wrong := [name for name in names if name not in known]:
        print(f"no level {', '.join(wrong)}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    outcomes = [run(level) for level in LEVELS if not names or level.name in names]
    print("\nLevels of tests:")
    for outcome in outcomes:
        print(outcome.line)
    return exit_code(outcomes, required=required(os.environ))


def required(environ: Mapping[str, str]) -> bool:
    """Tell whether a level that cannot run is a failure."""
    return environ.get("CI", "").lower() in {"1", "true"} or environ.get("CELLMESH_REQUIRE_LEVELS") == "1"


def exit_code(outcomes: list[Outcome], *, required: bool) -> int:
    """Return 1 if a level failed, or could not run though it is required."""
    return int(any(outcome.word == "FAILED" or (required and outcome.word == "not run") for outcome in outcomes))


def run(level: Level) -> Outcome:
    """Run one level, if this machine can."""
    if reason := lacking(level):
        print(f"\n== {level.name} ({level.what}): not run: {reason}", flush=True)
        return Outcome(level, "not run", reason=reason)
    print(f"\n== {level.name} ({level.what}; usually {level.takes})", flush=True)
    began = time.monotonic()
    deadline = 60 * level.deadline if required(os.environ) else None
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        code = make(
            level.name, {"PYTEST_ADDOPTS": f"{os.environ.get('PYTEST_ADDOPTS', '')} --junitxml={report}"}, deadline
        )
        counts = counted(report)
    return judged(level, code, counts, time.monotonic() - began)


def judged(level: Level, code: int | None, counts: Counts, seconds: float) -> Outcome:
    """Return what became of a level that was run.

    Args:
        level: which.
        code: exit code; None: it did not end in time.
        counts: of its tests.
        seconds: it took.

    """
    if code is None:
        return Outcome(level, "FAILED", seconds, f"not done within {level.deadline:g} minutes", counts.skipped)
    if code:
        return Outcome(level, "FAILED", seconds, skipped=counts.skipped)
    if counts.tests and counts.skipped == counts.tests:
        return Outcome(level, "not run", seconds, f"every test was skipped: {counts.reason}", counts.skipped)
    return Outcome(level, "passed", seconds, skipped=counts.skipped)


def make(target: str, environ: Mapping[str, str], deadline: float | None, program: str = "make") -> int | None:
    """Run a target of the Makefile; return its exit code, or None if it was not done in time and was stopped.

    Args:
        target: its name.
        environ: variables besides.
        deadline: seconds; None: it may take as long as it likes.
        program: what runs targets.

    """
    # With a deadline in a session of its own, so that all that it has started is stopped with it.
    process = subprocess.Popen(
        [program, "--no-print-directory", target],
        cwd=ROOT,
        env={**os.environ, **environ},
        start_new_session=deadline is not None,
    )
    if deadline is None:
        return process.wait()
    try:
        return process.wait(deadline)
    except subprocess.TimeoutExpired:
        print(f"\n{target}: not done within {deadline / 60:g} minutes; it is stopped", flush=True)
        return None
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a process that leads a session, and all that it has left running there: first by SIGINT, as Ctrl-C does."""
    with contextlib.suppress(ProcessLookupError):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def counted(report: Path) -> Counts:
    """Read pytest's report in JUnit's format; all zero where there is none."""
    try:
        suites = list(ET.parse(report).getroot().iter("testsuite"))  # noqa: S314 - written by our own pytest
    except (OSError, ET.ParseError):
        return Counts()
    tests, skipped = (sum(int(suite.get(name, 0)) for suite in suites) for name in ("tests", "skipped"))
    reasons = [found.get("message", "") for suite in suites for found in suite.iter("skipped")]
    return Counts(tests, skipped, reasons[0] if reasons else "")


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
