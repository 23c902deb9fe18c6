"""Taking and settling messages of an inbox, for tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from cellmesh.inbox import Inbox, Leased, LeaseRequest, Settled, Settlement, Verb, WorkFailed
from inboxes import find

#: Length of a lease that does not end during a test, ms.
LONG = 3_600_000


async def written(ask: Callable[[Callable[[Any], None]], None]) -> Any:
    """Return what is given to the callback, once it is on disk."""
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    ask(lambda result: None if future.done() else future.set_result(result))
    async with asyncio.timeout(30):
        result = await future
    if isinstance(result, WorkFailed):
        raise result
    return result


def lease(inbox: Inbox, most: int = 1, lease_ms: int = LONG, **more: Any) -> list[Leased]:
    """Take messages."""
    request = LeaseRequest(most, lease_ms, **more)
    return list(asyncio.run(written(lambda done: inbox.lease(request, done))))


def settle(inbox: Inbox, verb: Verb, *leased: Leased, by_id: bool = False, **more: Any) -> list[Settled]:
    """Settle messages that were taken."""
    items = [
        Settlement(
            verb=verb,
            lease_token=one.lease_token,
            seq=None if by_id else one.message.seq,
            message_id=one.message.message_id if by_id else None,
            **more,
        )
        for one in leased
    ]
    return list(asyncio.run(written(lambda done: inbox.settle(items, done))))


def ids(leased: Sequence[Leased]) -> list[str]:
    """Return the message ids."""
    return [one.message.message_id for one in leased]


def codes(settled: Sequence[Settled]) -> list[str]:
    """Return what went wrong, item by item."""
    return [one.code for one in settled]


def state(inbox: Inbox, message_id: str) -> str:
    """Return the state of a message, with the reason if it has one."""
    found = find(inbox, message_id)
    assert found is not None
    return found.state if found.reason is None else f"{found.state}: {found.reason}"
