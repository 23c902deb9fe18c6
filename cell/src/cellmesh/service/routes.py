"""What the dispatcher knows of a cell that messages are queued to: its route, and a lane for each instance."""

from __future__ import annotations

import asyncio

from cellmesh.discovery.directory import Entry
from cellmesh.protocol.peers import Peer
from cellmesh.service.lines import Line


class Lane:
    """One instance at one priority."""

    __slots__ = ("code", "error", "failures", "paused_until", "task", "timer")

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        #: Failures in a row, and what the last one was.
        self.failures = 0
        self.code = self.error = ""
        #: Of the loop's time.
        self.paused_until = 0.0

    def clear(self) -> None:
        """Forget what went wrong."""
        self.failures = 0
        self.code = self.error = ""
        self.paused_until = 0.0


class Route:
    """A cell that messages are queued to."""

    def __init__(self, cell: str) -> None:
        self.cell = cell
        self.entry: Entry | None = None
        self.members: dict[str, Peer] = {}
        self.lines: dict[int, Line] = {}
        self.lanes: dict[tuple[str, int], Lane] = {}
        self.loading: set[int] = set()
        self.follower: asyncio.Task[None] | None = None
        self.turn = 0
        self.used_at = 0.0

    @property
    def idle(self) -> bool:
        """Whether nothing is in memory and nothing under way."""
        return not self.loading and all(line.idle for line in self.lines.values())
