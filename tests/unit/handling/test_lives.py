"""Handlers over several lives of a process, with outcomes and ends by chance: nothing lost, nothing handled twice."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from cellmesh.protocol.receipts import StoredMessage
from cellmesh.service.outcomes import Done, Failed, Later, Outcome, Rejected
from handled import Scripted, handled_by
from support import eventually_async

MESSAGES = 60
DELIVERIES = 3
LIVES = 5


class Chance:
    """A handler that does anything, and the books of what it did."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.now: set[str] = set()
        self.done: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.rejected: set[str] = set()
        self.replies: dict[str, set[bytes]] = defaultdict(set)

    async def handle(self, message: StoredMessage) -> Outcome:
        """Handle a message, one way or another."""
        name = message.message_id
        assert name not in self.now, f"{name} is handled twice at the same time"
        assert name not in self.rejected, f"{name} was rejected and came again"
        assert self.failed[name] < DELIVERIES, f"{name} came more often than allowed"
        self.now.add(name)
        try:
            # A few turns of the loop, or longer than a life may last.
            for _ in range(self.chance.choice((0, 1, 5, 200))):
                await asyncio.sleep(0.001)
            return self._outcome(name)
        finally:
            self.now.discard(name)

    def _outcome(self, name: str) -> Outcome:
        drawn = self.chance.random()
        if drawn < 0.25:
            self.failed[name] += 1
            return Failed("ValueError")
        if drawn < 0.35:
            self.rejected.add(name)
            return Rejected("no")
        if drawn < 0.5:
            return Later(0.001, "later", all=drawn < 0.4)
        self.done[name] += 1
        return Done(b"{}" if drawn < 0.75 else None)


@pytest.mark.parametrize("seed", range(6))
def test_every_message_ends_as_its_handler_said(tmp_path: Path, seed: int) -> None:
    """Expect each consumed after it was done, or dead for the right reason, through lives that are cut short."""
    chance = Chance(seed)
    names = [f"m{number}" for number in range(MESSAGES)]

    async def life(number: int, seconds: float | None) -> None:
        async with handled_by(tmp_path, Scripted(chance.handle), lease=0.5) as one:
            if number == 0:
                await one.put(*names)
            if seconds is not None:
                await asyncio.sleep(seconds)
                return
            await eventually_async(
                lambda: one.inbox.gauges.consumed + one.inbox.gauges.dead == MESSAGES, within=60, message="all to end"
            )
            for name in names:
                found = await one.found(name)
                if found.state == "consumed":
                    # Cut short between its end and its ack it may have been done twice, not more often than lived.
                    assert 1 <= chance.done[name] <= LIVES
                    assert found.delivery_count <= DELIVERIES
                elif found.reason == "rejected":
                    assert name in chance.rejected
                else:
                    assert found.reason == "max_deliveries"
                    assert chance.failed[name] == DELIVERIES

    async def lives() -> None:
        for number in range(LIVES - 1):
            await life(number, chance.chance.uniform(0.0, 0.15))
        await life(LIVES, None)

    asyncio.run(lives())
    assert chance.now == set()
