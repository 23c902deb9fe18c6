"""Text for terminals: what comes from other programs is made safe to print, tables without a library."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click


def safe(text: object) -> str:
    """Return text in one line without characters that a terminal obeys."""
    shown = str(text)
    if shown.isprintable():
        return shown
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in shown
    )


def cut(text: object, width: int) -> str:
    """Return safe text of at most so many characters."""
    shown = safe(text)
    return shown if len(shown) <= width else f"{shown[: width - 3]}..."


def print_json(value: Any) -> None:
    """Print one JSON value in one line, at once: the reader may be waiting for it.

    Text in it that a terminal would obey is escaped, in JSON's own way.
    """
    text = json.dumps(value, ensure_ascii=False)
    click.echo(text if text.isprintable() else json.dumps(value))


def table(header: Sequence[str], rows: Sequence[Sequence[object]], *, right: Sequence[int] = ()) -> list[str]:
    """Return the lines of a table.

    Args:
        header: names of the columns.
        rows: the cells; None is shown as ``-``.
        right: indexes of the columns that hold numbers.

    """
    shown = [list(header), *([safe("-" if cell is None or cell == "" else cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in shown) for column in range(len(header))]
    return [
        "  ".join(
            cell.rjust(widths[column]) if column in right else cell.ljust(widths[column])
            for column, cell in enumerate(row)
        ).rstrip()
        for row in shown
    ]


def age(seconds: float | None) -> str:
    """Return a duration in the unit a person would use."""
    if seconds is None:
        return "-"
    for limit, unit, size in ((120, "s", 1), (7200, "min", 60), (172_800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}" if seconds >= 10 or unit != "s" else f"{seconds:.1f} s"
    return f"{seconds / 86_400:.0f} d"
