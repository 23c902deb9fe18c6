"""The outcome of a run: a verdict, a table for the terminal, and its section of ``docs/reliability.md``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from chaos.books import LEAST_SHARE, Account
from chaos.ledger import Fault

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "reliability.md"
#: Violations shown one by one; of more there is only the number.
SHOWN = 40
#: The sections that runs write, in the order of the document; each is replaced as a whole.
SECTIONS = ("Local processes", "A kind cluster")
INTRODUCTION = """\
# Reliability

What CellMesh promises stands in the README under "What is promised". This page is the proof of it: the report of the
last run of each kind that was kept. The sections below are written by the runs themselves; the rest is not.

In a run, senders write every attempt and every answer to a ledger outside the system, consumers write every message
they were handed before they touch it and every ack, and a reader writes what it finds in the inboxes. A message is
recognised by a number and a hash in its payload. Meanwhile faults are done to every part, planned from a seed
(`--seed` repeats a plan). A fault counts only if requests were on their way to its victim. What was not answered is
sent again under its id. At the end every inbox is read, every queued message is looked up at its sender, and the
books are compared (`chaos/books.py` lists the rules).

    make chaos ARGS=--write                  # the long form on local processes, up to 45 minutes, and this page
    make chaos ARGS='--short --seed 7'       # the short form, with another plan; `make test` runs it too
    make chaos ARGS='--help'
    make chaos-kind SEED=7                   # on a kind cluster; `make e2e` has a short form

On the cluster the ledger is kept in a pod beside the mesh, and some cells are ephemeral: what goes with their pods is
counted apart. Faults are done there by commands (kubectl, and on the nodes), so requests in flight are those under way
between a command and its end, or until a fault that lasts is undone; recovery from what Kubernetes undoes by itself
counts from the fault.

Each rule is itself tested: by hand-made ledgers (`tests/unit/chaos`), and by builds of the cell that break one promise
each, which the same run has to catch (`tests/mesh/test_chaos_mutants.py`). The loss of power is tested apart
(`tests/unit/inbox`, `tests/unit/outbox`), since a killed process does not show whether anything reached the disk.
"""


def failures(account: Account, *, messages: int, faults: int) -> list[str]:
    """Return why a run has failed, in words; empty: it has not.

    Args:
        account: what it found.
        messages: how many it needed.
        faults: how many had to count.

    """
    said = [f"{count} x {rule}" for rule, count in account.rules().most_common()]
    if account.share < LEAST_SHARE:
        said.append(f"only {account.share:.0%} of attempts were acknowledged: at least {LEAST_SHARE:.0%} have to be")
    if account.counts["messages"] < messages:
        said.append(f"only {account.counts['messages']:,} messages of {messages:,}")
    if len(account.counted) < faults:
        said.append(f"only {len(account.counted)} faults of {faults} count")
    said += [
        f"fault {fault.index} ({fault.kind}, {fault.victim}) was not recovered from"
        for fault in account.counted
        if fault.recovery < 0
    ]
    return said


def slowest(account: Account) -> Fault | None:
    """Return the fault that took longest to recover from."""
    return max(account.counted, key=lambda fault: fault.recovery, default=None)


def render(account: Account, failed: Sequence[str], facts: Mapping[str, str]) -> str:
    """Return the outcome of a run in Markdown, without a heading.

    Args:
        account: what it found.
        failed: why it has failed.
        facts: about the run: its seed, how long it took, on what.

    """
    verdict = f"**Failed: {'; '.join(failed)}.**" if failed else "No promise was broken."
    longest = slowest(account)
    recovery = (
        f"Longest time to recovery: {longest.recovery:.1f} s ({longest.kind}, {longest.victim}). It counts from the "
        "moment a fault is undone (a killed process is started again) until something begun since then was "
        "acknowledged through the victim."
        if longest
        else ""
    )
    parts = [verdict, table(("", ""), [(name, text) for name, text in facts.items()]), recovery]
    parts += ["### Faults", fault_table(account.faults)]
    counts = [(name, f"{number:,}") for name, number in account.counts.items() if number]
    counts.append(("share of attempts acknowledged", f"{account.share:.1%}"))
    parts += ["### The books", table(("what", "how many"), counts)]
    if account.violations:
        shown = [(each.rule, str(each.number), each.text) for each in account.violations[:SHOWN]]
        parts += [f"### Violations ({len(account.violations):,})", table(("rule", "message", "what was seen"), shown)]
    return "\n\n".join(part for part in parts if part) + "\n"


def fault_table(faults: Sequence[Fault]) -> str:
    """Return one line for each kind of fault: how many were done, how many count, times to recovery."""
    rows = []
    for kind in sorted({fault.kind for fault in faults}):
        ours = [fault for fault in faults if fault.kind == kind]
        counted = [fault for fault in ours if fault.counts]
        times = sorted(fault.recovery for fault in counted if fault.recovery >= 0)
        victims = ", ".join(sorted({fault.victim for fault in ours}))
        middle, last = (f"{times[len(times) // 2]:.1f} s", f"{times[-1]:.1f} s") if times else ("-", "-")
        rows.append((kind, str(len(ours)), str(len(counted)), victims, middle, last))
    return table(("fault", "done", "count", "victims", "recovery, median", "longest"), rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows])


def write(section: str, text: str, document: Path = DOCUMENT) -> None:
    """Put a run's report into its section of the document, and leave the others.

    Args:
        section: one of ``SECTIONS``.
        text: from ``render``.
        document: where; it is made if it is not there.

    """
    before = document.read_text() if document.exists() else ""
    kept = {name: _section(before, name) for name in SECTIONS} | {section: text}
    parts = [INTRODUCTION.strip(), *(f"## {name}\n\n{kept[name].strip()}" for name in SECTIONS if kept[name])]
    document.write_text("\n\n".join(parts) + "\n")


def _section(text: str, name: str) -> str:
    found = re.search(rf"^## {re.escape(name)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return found.group(1) if found else ""
