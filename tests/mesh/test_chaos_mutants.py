"""Builds of the cell that break one promise each: the comparison of the books catches every one of them.

Those that acknowledge too early or do not deduplicate at all are caught in `test_sigkill.py`; one that does not sync
each commit, in `tests/unit/inbox/test_power_loss*.py`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.mesh,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs the addresses of 127.0.0.0/8, and /proc"),
]

ROOT = Path(__file__).parents[2]
LOST_ANSWERS = ("--kind", "connection reset before the answer", "--faults", "6")
KILLED_SENDERS = ("--kind", "SIGKILL of a sender", "--faults", "4")
KILLED_RECEIVERS = ("--kind", "SIGKILL of a receiver", "--faults", "4")
OTHER_ADDRESSES = ("--kind", "address given to another cell", "--faults", "4")


@pytest.mark.parametrize(
    ("mutant", "faults", "rule"),
    [
        pytest.param("short-memory", KILLED_SENDERS, "doubled", id="forgets who sent what together with the message"),
        pytest.param("unfaithful", LOST_ANSWERS, "doubled", id="sends again anywhere after an open outcome"),
        pytest.param("optimist", OTHER_ADDRESSES, "lost", id="says of every item of a batch that it was received"),
        pytest.param("absent-minded", KILLED_RECEIVERS, "handed twice", id="keeps leases in memory"),
    ],
)
def test_a_build_that_breaks_a_promise_is_caught(mutant: str, faults: tuple[str, ...], rule: str) -> None:
    """By the rule that says so."""
    command = [sys.executable, "-m", "chaos", "--short", "--seed", "1", "--rate", "400", "--messages", "2500", *faults]
    command += ["--program", str(Path(__file__).with_name("mutants.py")), mutant, "parent"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr)
    assert done.returncode == 1
    assert f" x {rule}" in done.stdout
    assert f"| {rule} | " in done.stdout
