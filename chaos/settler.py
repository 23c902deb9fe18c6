"""Looks up what became of queued messages, until each is settled."""

from __future__ import annotations

import asyncio
import time
from itertools import islice
from typing import Any

from chaos.ledger import Ledger, Outcome
from chaos.reader import Reader, Unknown, Unreadable
from chaos.workload import Progress

INTERVAL = 1.0
#: Messages looked up in one round, and at once.
ROUND, AT_ONCE = 400, 8


class Settler:
    """Asks senders for the outcome of what was queued.

    Args:
        progress: of the load; what is settled is taken out of it.
        reader: to ask instances.
        ledger: where outcomes are written.

    """

    def __init__(self, progress: Progress, reader: Reader, ledger: Ledger) -> None:
        self._progress = progress
        self._reader = reader
        self._ledger = ledger
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, in the background."""
        self._task = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def settle(self, within: float) -> None:
        """Wait until all is settled, at most so many seconds; then write down what each sender says."""
        await self.stop()
        deadline = time.monotonic() + within
        while self._progress.queued and time.monotonic() < deadline:
            await self._round(len(self._progress.queued), last=False)
            await asyncio.sleep(INTERVAL)
        await self._round(len(self._progress.queued), last=True)

    async def _follow(self) -> None:
        while True:
            await self._round(ROUND, last=False)
            await asyncio.sleep(INTERVAL)

    async def _round(self, most: int, *, last: bool) -> None:
        """Look up those that have waited longest; with ``last`` write down also what is not settled."""
        waiting = list(islice(self._progress.queued.items(), most))
        for start in range(0, len(waiting), AT_ONCE):
            await asyncio.gather(*[self._look(*one, last=last) for one in waiting[start : start + AT_ONCE]])

    async def _look(self, number: int, whose: tuple[str, str], *, last: bool) -> None:
        entry, message_id = whose
        said: dict[str, Any] = {}
        try:
            said = await self._reader.get(entry, f"/sent/{message_id}")
        except Unknown:
            if not last:
                return  # it may be on its way there still
        except Unreadable:
            return
        state = said.get("state", "")
        if state == "queued" and not last:
            # To the end of those that are looked up.
            if self._progress.queued.pop(number, None):
                self._progress.queued[number] = whose
            return
        self._ledger.write(
            Outcome(
                number=number,
                at=time.time(),
                entry=entry,
                state=state,
                code=said.get("code") or "",
                instance=said.get("instance") or "",
                attempts=said.get("attempts", 0),
            )
        )
        self._progress.queued.pop(number, None)
