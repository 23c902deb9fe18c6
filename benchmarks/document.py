"""docs/benchmarks.md: one document of several parts, each written by the benchmark that measured it."""

from __future__ import annotations

from benchmarks.processes import ROOT

DOCUMENT = ROOT / "docs" / "benchmarks.md"
#: Where the parts behind the messages begin, in their order.
QUEUED = "## Queued messages and batches"
CONSUMERS = "## Consumers"
SATURATION = "## Memory at saturation"
MANY_CELLS = "## Many Cells on Kubernetes"
_PARTS = (QUEUED, CONSUMERS, SATURATION, MANY_CELLS)


def write_messages(text: str) -> None:
    """Write the part about messages, and leave the others."""
    _, *others = _parts()
    _write([text, *others])


def write_part(heading: str, text: str) -> None:
    """Write the part that begins with this heading, and leave the others."""
    parts = _parts()
    parts[1 + _PARTS.index(heading)] = text
    _write(parts)


def _parts() -> list[str]:
    """Return the part about messages, then those of ``_PARTS``; what is absent is empty."""
    rest = DOCUMENT.read_text() if DOCUMENT.exists() else ""
    parts = []
    for heading in reversed(_PARTS):
        rest, mark, part = rest.partition(heading)
        parts.append(f"{mark}{part}")
    return [rest, *reversed(parts)]


def _write(parts: list[str]) -> None:
    DOCUMENT.write_text("\n\n".join(part.strip() for part in parts if part.strip()) + "\n")
