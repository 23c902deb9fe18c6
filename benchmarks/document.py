"""docs/benchmarks.md: one document of two parts, each written by the benchmark that measured it."""

from __future__ import annotations

from benchmarks.processes import ROOT

DOCUMENT = ROOT / "docs" / "benchmarks.md"
#: Where the part about many Cells begins; the messages stand before it.
MANY_CELLS = "## Many Cells on Kubernetes"


def write_messages(text: str) -> None:
    """Write the part about messages, and leave the one about many Cells."""
    _, mark, rest = _read().partition(MANY_CELLS)
    DOCUMENT.write_text(f"{text.rstrip()}\n\n{mark}{rest}" if mark else text)


def write_many_cells(text: str) -> None:
    """Write the part about many Cells, which begins with its heading, and leave the one about messages."""
    before, _, _ = _read().partition(MANY_CELLS)
    DOCUMENT.write_text(f"{before.rstrip()}\n\n{text}" if before else text)


def _read() -> str:
    return DOCUMENT.read_text() if DOCUMENT.exists() else ""
