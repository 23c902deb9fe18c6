"""What the user sees of a running mesh: lines, a live table, or JSON for programs.

None of these ever raises: a terminal that is closed must not end the mesh in disorder.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import IO, Any, Self

from cellmesh.cli.output import age, safe
from cellmesh.cli.supervisor import Child


class Reporter:
    """Plain lines: states on standard output, what the processes write on standard error."""

    #: Whether the health of running instances is shown, and therefore worth asking for.
    shows_health = False

    def __init__(self, width: int = 0) -> None:
        self._width = width

    def __enter__(self) -> Self:
        """Begin to show."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the terminal as it was."""

    def event(self, kind: str, child: Child, **details: Any) -> None:
        """Show what happened to one process."""
        self.say(f"{child.name.ljust(self._width)}  {_words(kind, child, details)}")
        for line in details.get("last_lines", ()):
            self.line(child.name, line)

    def mesh(self, kind: str, text: str, **details: Any) -> None:  # noqa: ARG002 - for programs
        """Show what happened to the mesh as a whole."""
        self.say(text)

    def line(self, name: str, text: str) -> None:
        """Show a line that a process wrote."""
        _write(sys.stderr, f"{name.ljust(self._width)} | {safe(text)}")

    def say(self, text: str) -> None:
        """Show a line of our own."""
        _write(sys.stdout, text)


class JsonReporter(Reporter):
    """One JSON object a line on standard output for each event; lines of the processes on standard error."""

    def event(self, kind: str, child: Child, **details: Any) -> None:
        """Write an event of one process."""
        self._object({"event": kind, "instance": child.name, **details})

    def mesh(self, kind: str, text: str, **details: Any) -> None:
        """Write an event of the mesh as a whole."""
        self._object({"event": kind, "text": text, **details})

    def say(self, text: str) -> None:
        """Keep standard output for JSON."""
        _write(sys.stderr, text)

    def _object(self, event: dict[str, Any]) -> None:
        at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        _write(sys.stdout, json.dumps({"at": at, **event}))


class TableReporter(Reporter):
    """A table that is kept current at the foot of the terminal, everything else above it."""

    shows_health = True

    def __init__(self, children: Sequence[Child], width: int = 0) -> None:
        super().__init__(width)
        from rich.console import Console
        from rich.live import Live

        self._children = children
        self._console = Console(highlight=False, soft_wrap=True)
        self._live = Live(console=self._console, get_renderable=self._table, refresh_per_second=2)

    def __enter__(self) -> Self:
        """Show the table."""
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the table as it is last."""
        with contextlib.suppress(OSError):
            self._live.stop()

    def event(self, kind: str, child: Child, **details: Any) -> None:
        """Show what a table cannot: ends, and what was written last."""
        if kind not in {"started", "ready", "stopped"}:
            super().event(kind, child, **details)

    def line(self, name: str, text: str) -> None:
        """Show a line that a process wrote, above the table."""
        self._print(f"{name.ljust(self._width)} | {safe(text)}", style="dim")

    def say(self, text: str) -> None:
        """Show a line of our own, above the table."""
        self._print(text)

    def _print(self, text: str, style: str = "") -> None:
        from rich.text import Text

        with contextlib.suppress(OSError):
            self._console.print(Text(text, style=style))

    def _table(self) -> Any:
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, header_style="bold", pad_edge=False, collapse_padding=True)
        for column in ("INSTANCE", "STATE", "ADDRESS"):
            table.add_column(column)
        for column in ("PID", "RESTARTS", "PENDING", "OLDEST", "RECEIVED"):
            table.add_column(column, justify="right")
        for child in list(self._children):
            messages = child.health.get("messages")
            counts = messages if isinstance(messages, dict) else {}
            cells = (child.url.removeprefix("http://"), child.pid or "-", child.restarts, counts.get("pending", "-"))
            table.add_row(
                child.name,
                Text("no answer", style="red") if child.silent else Text(child.state, style=_STYLES[child.state]),
                *map(str, cells),
                age(counts.get("oldest_pending_seconds")),
                str(counts.get("received", "-")),
            )
        return table


_STYLES = {"ready": "green", "starting": "yellow", "restarting": "red", "failed": "bold red", "stopped": "dim"}


def _words(kind: str, child: Child, details: dict[str, Any]) -> str:
    match kind:
        case "started":
            return f"started  pid {details['pid']}"
        case "ready":
            return f"ready  {child.url}"
        case "exited":
            return f"exited  {details['reason']}"
        case "restarting":
            return f"restarting  in {details['after']:g} s"
        case "failed":
            return f"failed  it will not be restarted: {details['reason']}; it wrote last:"
    return kind


def _write(stream: IO[str], text: str) -> None:
    try:
        stream.write(f"{text}\n")
        stream.flush()
    except (OSError, ValueError):
        # Nobody reads any more. What Python flushes at exit goes nowhere, so that it does not complain.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
