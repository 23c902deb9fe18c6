"""Outboxes for tests: messages in one line, what is written to them, and what they say."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from msgspec import Raw

from cellmesh.inbox import Inbox, InboxLimits
from cellmesh.outbox import Outbox, OutboxLimits, Parcel
from cellmesh.outbox.outcomes import Outcome, Refused
from cellmesh.protocol.messages import CellMessage, Identity, encode
from cellmesh.protocol.queueing import SentMessage
from cellmesh.service.queueing import content
from inboxes import LIMITS

HERE = Identity("alpha", "default", "alpha-0", "uid")

T = TypeVar("T")


class Box:
    """An outbox, open, with its inbox."""

    def __init__(self, inbox: Inbox, max_messages: int = 1_000_000) -> None:
        self.inbox = inbox
        self.outbox = Outbox(inbox, OutboxLimits(max_messages))
        self.cells = run(self.outbox.open())

    def parcel(self, message_id: str, payload: Any = None, *, wanted: str = "", **fields: Any) -> Parcel:
        """Return a message to the cell ``pure``, as a program would queue it that gives the id."""
        message = CellMessage(
            message_id=message_id,
            from_cell="alpha",
            **{"to_cell": "pure", "payload": Raw(encode({"id": message_id} if payload is None else payload)), **fields},
        )
        made = Parcel(message, wanted, self.inbox.clock.now_ms(), given=True)
        made.fingerprint = content(made)
        return made

    def put(self, *parcels: Parcel) -> list[Outcome]:
        """Queue messages as one unit; return the outcomes."""
        return run(self.putting(parcels))

    async def putting(self, parcels: Sequence[Parcel]) -> list[Outcome]:
        """Queue messages as one unit; return the outcomes."""
        stored: asyncio.Future[Sequence[Outcome]] = asyncio.get_running_loop().create_future()
        self.outbox.put(parcels, stored.set_result)
        return list(await stored)

    def queue(self, *message_ids: str, **fields: Any) -> list[Parcel]:
        """Queue messages of these ids; return them."""
        parcels = [self.parcel(one, **fields) for one in message_ids]
        assert verdicts(self.put(*parcels)) == ["stored"] * len(parcels)
        return parcels

    def begin(self, *parcels: Parcel, instance: str = "pure-0", uid: str | None = "uid") -> set[int]:
        """Begin an attempt; return the positions of those that must not be sent."""
        positions = [one.position for one in parcels]
        return set(run(self.outbox.begin(positions, instance, uid, "http://pure-0/message")))

    def finish(self, *delivered: Parcel, refused: Sequence[Refused] = ()) -> None:
        """End an attempt."""

        async def finish() -> None:
            finished = asyncio.Event()
            self.outbox.finish([one.position for one in delivered], refused, finished.set)
            await finished.wait()

        run(finish())

    def find(self, message_id: str) -> SentMessage:
        """Return what is known of the only copy of a message."""
        (found,) = run(self.outbox.find(message_id))
        return found

    def state(self, *message_ids: str) -> list[str]:
        """Return the states of messages; "" for one that is not there."""
        found = [run(self.outbox.find(one)) for one in message_ids]
        return [one[0].state if one else "" for one in found]

    def load(self, *instances: str, start: int = 0, priority: int = 1) -> list[str]:
        """Return the ids of what is queued to instances of ``pure``."""
        queued = run(self.outbox.load("pure", priority, start, instances))
        return [one.message_id for one in queued.messages]

    def upkeep(self) -> None:
        """Do all upkeep that is due."""

        async def step() -> None:
            while await self.inbox.write(self.outbox._keeping.step):
                pass

        run(step())


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end."""

    async def bounded() -> T:
        async with asyncio.timeout(30):
            return await work

    return asyncio.run(bounded())


def verdicts(outcomes: Sequence[Outcome]) -> list[str]:
    """Return the outcomes in words."""
    return [outcome.verdict.value for outcome in outcomes]


@contextlib.contextmanager
def opened(
    directory: Path, bounds: InboxLimits = LIMITS, *, max_messages: int = 1_000_000, **more: Any
) -> Iterator[Box]:
    """Open an outbox and close it at the end."""
    inbox = Inbox(directory, bounds, **more)
    try:
        yield Box(inbox, max_messages)
    finally:
        inbox.close()
