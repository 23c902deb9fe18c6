"""The report: what makes a run fail, and a document whose other sections stay."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from chaos.books import Account
from chaos.evidence import Violation
from chaos.ledger import Fault
from chaos.report import failures, render, slowest, write


def fault(index: int = 0, **more: Any) -> Fault:
    """Return a fault that counts."""
    more = {"kind": "SIGKILL", "victim": "pure-0", "healed": 2.0, "in_flight": 3, "recovery": 1.5} | more
    return Fault(index=index, began=1.0, **more)


def account(**more: Any) -> Account:
    """Return the account of a run of 100 messages and one fault."""
    counts = Counter({"messages": 100, "attempts": 100, "attempts acknowledged": 90})
    return Account(**({"counts": counts, "faults": [fault()]} | more))


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({}, ""),
        ({"violations": [Violation("lost", 7, "gone")]}, "1 x lost"),
        ({"counts": Counter({"messages": 100, "attempts": 100, "attempts acknowledged": 59})}, "only 59% of attempts"),
        ({"counts": Counter({"messages": 99, "attempts": 9, "attempts acknowledged": 9})}, "only 99 messages of 100"),
        ({"faults": [fault(in_flight=0)]}, "only 0 faults of 1 count"),
        ({"faults": [fault(recovery=-1.0)]}, "fault 0 (SIGKILL, pure-0) was not recovered from"),
    ],
)
def test_what_makes_a_run_fail(changed: dict[str, Any], why: str) -> None:
    """Violations, and a run that proves too little."""
    said = failures(account(**changed), messages=100, faults=1)
    assert len(said) == bool(why)
    assert why in "".join(said)


def test_the_longest_recovery_is_of_a_fault_that_counts() -> None:
    """What was done to an idle victim says nothing."""
    found = account(faults=[fault(), fault(1, recovery=9.0, in_flight=0), fault(2, recovery=4.0)])
    assert slowest(found) == found.faults[2]
    assert "Longest time to recovery: 4.0 s" in render(found, [], {})
    assert slowest(account(faults=[])) is None


def test_the_report_says_what_was_broken() -> None:
    """Verdict first, then each violation."""
    text = render(account(violations=[Violation("lost", 7, "it was at pure-0")]), ["1 x lost"], {"seed": "7"})
    assert text.startswith("**Failed: 1 x lost.**")
    assert "| lost | 7 | it was at pure-0 |" in text
    assert "| seed | 7 |" in text
    assert "| SIGKILL | 1 | 1 | pure-0 | 1.5 s | 1.5 s |" in text


def test_each_run_writes_its_own_section(tmp_path: Path) -> None:
    """The other section stays; the order is always the same."""
    document = tmp_path / "reliability.md"
    write("A kind cluster", "cluster 1\n\n### Faults\n", document)
    write("Local processes", "local 1\n", document)
    write("A kind cluster", "cluster 2\n", document)
    write("Local processes", "local 2\n\n### Faults\n\nof local\n", document)
    text = document.read_text()
    assert text.startswith("# Reliability\n")
    assert text.endswith("## Local processes\n\nlocal 2\n\n### Faults\n\nof local\n\n## A kind cluster\n\ncluster 2\n")
