"""Messages that were being handled when their process was killed: one of them may have been the reason."""

from __future__ import annotations

import asyncio
from pathlib import Path

from cellmesh.inbox import Holder, Verb
from cellmesh.protocol.receipts import StoredMessage
from cellmesh.service.outcomes import Done, Outcome
from handled import Scripted, handled_by
from inboxes import limits, message, opened, put
from leases import codes, ids, lease, settle, state
from support import eventually_async

BOUNDS = limits(max_deliveries=4)


def killed(directory: Path, most: int, times: int) -> None:
    """Have a process lease messages for its handler and be killed, so many times."""
    for _ in range(times):
        with opened(directory, BOUNDS) as inbox:
            lease(inbox, most, holder=Holder.HANDLER)


def test_what_was_in_hand_in_two_processes_that_were_killed_is_handled_alone(tmp_path: Path) -> None:
    """Expect those one by one, and nothing beside them; the others as many at once as allowed."""
    together: dict[str, int] = {}

    async def handle(given: StoredMessage) -> Outcome:
        together[given.message_id] = handler.now
        await asyncio.sleep(0.02)
        together[given.message_id] = max(together[given.message_id], handler.now)
        return Done()

    handler = Scripted(handle, concurrency=4)
    with opened(tmp_path, BOUNDS) as inbox:
        put(inbox, *(message(f"m{number}", ttl=0) for number in range(12)))
    killed(tmp_path, 3, 2)

    async def play() -> None:
        async with handled_by(tmp_path, handler) as one:
            await eventually_async(lambda: one.inbox.gauges.consumed == 12, within=20)

    asyncio.run(play())
    assert [together[f"m{number}"] for number in range(3)] == [1, 1, 1]
    assert max(together.values()) == 4


def test_one_death_alone_makes_nothing_suspect(tmp_path: Path) -> None:
    """Expect what was in hand once to be handled like any: most processes do not die of a message."""

    async def handle(_: StoredMessage) -> Outcome:
        await asyncio.sleep(0.02)
        return Done()

    handler = Scripted(handle, concurrency=3)
    with opened(tmp_path, BOUNDS) as inbox:
        put(inbox, *(message(f"m{number}", ttl=0) for number in range(3)))
    killed(tmp_path, 3, 1)

    async def play() -> None:
        async with handled_by(tmp_path, handler) as one:
            await eventually_async(lambda: one.inbox.gauges.consumed == 3, within=20)

    asyncio.run(play())
    assert handler.most == 3


def test_suspects_that_are_gone_hold_nobody_up(tmp_path: Path) -> None:
    """Expect those that another consumer has taken, or that nobody asks for, to be forgotten."""

    async def handle(_: StoredMessage) -> Outcome:
        await asyncio.sleep(0.02)
        return Done()

    handler = Scripted(handle, concurrency=4)
    with opened(tmp_path, BOUNDS) as inbox:
        put(inbox, message("suspect", ttl=0))
    killed(tmp_path, 1, 2)
    with opened(tmp_path, BOUNDS) as inbox:
        assert inbox.suspicious
        assert codes(settle(inbox, Verb.ACK, *lease(inbox))) == [""]
        assert state(inbox, "suspect") == "consumed"
        assert not inbox.suspicious
        put(inbox, *(message(f"m{number}", ttl=0) for number in range(8)))

    async def play() -> None:
        async with handled_by(tmp_path, handler) as one:
            await eventually_async(lambda: one.inbox.gauges.consumed == 9, within=20)

    asyncio.run(play())
    assert handler.most == 4


def test_the_last_delivery_is_never_beside_others(tmp_path: Path) -> None:
    """Expect the caution to begin in time where few deliveries are allowed."""
    few = limits(max_deliveries=2)
    with opened(tmp_path, few) as inbox:
        put(inbox, message("a", ttl=0), message("b", ttl=0))
        assert not inbox.suspicious
        assert ids(lease(inbox, 2, holder=Holder.HANDLER)) == ["a", "b"]
    with opened(tmp_path, few) as inbox:
        assert inbox.suspicious
