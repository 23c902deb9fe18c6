"""The end of an instance that does not come back, or not with what it has: all that waits here goes to siblings.

That is one without a volume, and one whose ordinal is beyond the number of instances that its cell should have.
What is queued is sent meanwhile. Each sibling that is ready pulls: its lane takes what is next, highest priority
first, until nothing is left or the time is over. Then each of them gets the records by which repeats are recognised.
"""

from __future__ import annotations

import asyncio
import logging

from cellmesh.discovery.directory import Directory, Entry, ordinal
from cellmesh.inbox import Inbox, WorkFailed
from cellmesh.inbox.writer import WriterStopped
from cellmesh.outbox import Outbox
from cellmesh.protocol.messages import Identity
from cellmesh.protocol.peers import Peer
from cellmesh.service.moving import Lane, Mover

log = logging.getLogger(__name__)

#: Seconds between two looks at what is left to be handed over.
LOOK = 0.05
#: Longest time, seconds, between two looks for messages where their number says that there are none.
SEARCH = 1.0
#: How long discovery may take to say who there is, seconds.
ASKING = 3.0
#: How long a registered instance waits for a sibling to become ready, seconds. A pod waits as long as it may.
PATIENCE = 3.0


class HandingOver:
    """Hands over what an instance has when it ends.

    Args:
        here: who this instance is.
        ephemeral: whether what it has is lost with it.
        patient: whether it waits for siblings as long as it may.
        inbox: where the messages are.
        outbox: where those are that are to be sent.
        directory: who is where.
        mover: what passes messages on.

    """

    def __init__(
        self,
        here: Identity,
        inbox: Inbox,
        outbox: Outbox,
        directory: Directory,
        mover: Mover,
        *,
        ephemeral: bool,
        patient: bool,
    ) -> None:
        self._here = here
        self._ephemeral = ephemeral
        self._patient = patient
        self._inbox = inbox
        self._outbox = outbox
        self._directory = directory
        self._mover = mover
        self._loop = asyncio.get_running_loop()
        self._number = ordinal(here.cell_id, here.instance)
        self._closed = False
        self._over = False
        #: How many pending messages were left when none was found that could be handed over.
        self._rest = -1
        self._searched_at = 0.0
        self._lanes: set[asyncio.Task[None]] = set()
        #: Whether this is an instance that hands over; known after its end has begun.
        self.active = False

    @property
    def remaining(self) -> int:
        """Messages that are neither handled nor handed over."""
        gauges = self._inbox.gauges
        return gauges.pending + gauges.leased

    @property
    def unsent(self) -> int:
        """Messages in the outbox that are to be sent."""
        return self._outbox.queued

    def close(self) -> None:
        """Note that no more messages come in."""
        self._closed = True

    async def run(self, deadline: float) -> None:
        """Hand over until nothing is left or the time (of the loop) is over; at once if there is no need to."""
        entry = self._directory.entry(self._here.cell_id)
        asked_until = min(deadline, self._loop.time() + ASKING)
        while not self._needed(entry):
            # A cell that is being scaled down may hear of that a moment after it is told to end.
            now = self._loop.time()
            if (self._closed and (entry.answered or entry.problem or now > asked_until)) or now > deadline:
                return
            await entry.changed(LOOK)
        self.active = True
        log.info("%s hands over what it has to its siblings", self._here.instance)
        await self._mover.end()
        try:
            await self._hand_over(deadline)
        finally:
            self._over = True
        lanes = [task for task in self._lanes if not task.done()]
        if lanes:
            # What is under way is worth its answer.
            await asyncio.wait(lanes, timeout=max(0.0, deadline - self._loop.time()))

    def _needed(self, entry: Entry) -> bool:
        if self._ephemeral:
            return True
        return self._number is not None and entry.replicas is not None and self._number >= entry.replicas

    async def _hand_over(self, deadline: float) -> None:
        alone_since = sent_at = self._loop.time()
        unsent = self.unsent
        while (now := self._loop.time()) < deadline:
            entry = self._directory.entry(self._here.cell_id)
            ready = self._mover.ready(entry)
            for peer in ready:
                lane = self._mover.lane(peer.key)
                if lane.task is None or lane.task.done():
                    lane.task = self._loop.create_task(self._drive(lane))
                    self._lanes.add(lane.task)
            if ready:
                alone_since = now
            if self.unsent != unsent:
                unsent, sent_at = self.unsent, now
            if self._closed:
                sending = unsent > 0 and (self._patient or now - sent_at < PATIENCE)
                if not (sending or self._waits(entry, ready, now - alone_since)):
                    return
            await entry.changed(min(LOOK, deadline - now))

    def _waits(self, entry: Entry, ready: list[Peer], alone: float) -> bool:
        """Tell whether there is something that a sibling may yet take."""
        if ready:
            return self.remaining > 0 or any(self._mover.lane(peer.key).records is not None for peer in ready)
        if not self.remaining:
            return False
        if not entry.answered:
            return alone < ASKING
        if entry.replicas is None:
            return alone < PATIENCE and bool(entry.left_lately() - {self._here.instance})
        others = entry.replicas - (self._number is not None and self._number < entry.replicas)
        return others > 0 and (self._patient or alone < PATIENCE)

    async def _drive(self, lane: Lane) -> None:
        """Give a sibling what it takes."""
        while not self._over:
            entry = self._directory.entry(self._here.cell_id)
            ready = self._mover.ready(entry)
            peer = next((peer for peer in ready if peer.key == lane.name), None)
            if peer is None:
                return
            try:
                if lane.paused_until > self._loop.time() or not await self._give(entry, peer, lane, ready):
                    await asyncio.sleep(LOOK)
            except WorkFailed:
                lane.failed(self._loop.time())
            except WriterStopped:
                return

    async def _give(self, entry: Entry, peer: Peer, lane: Lane, ready: list[Peer]) -> bool:
        """Give a sibling one lot; return whether there was something."""
        if self._inbox.gauges.pending != self._rest or self._loop.time() - self._searched_at > SEARCH:
            if await self._mover.pass_on(entry, peer, lane):
                return True
            names, stuck = [one.key for one in ready], sorted(lane.stuck)
            lot = await self._inbox.write(
                lambda tx: self._inbox.siblings.pending(tx, lane.name, lane.most, names, stuck)
            )
            if lot.messages:
                self._rest = -1
                await self._mover.deliver(entry, peer, lane, lot)
                return True
            self._rest, self._searched_at = self._inbox.gauges.pending, self._loop.time()
        if self._closed and lane.records is not None and not self._inbox.gauges.pending:
            await self._mover.give_records(peer, lane)
            return True
        return False
