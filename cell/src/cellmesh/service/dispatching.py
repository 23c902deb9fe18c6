"""Queued messages out: each cell that something is queued to has a route, each of its instances lanes.

A lane, one for each instance and priority, has one request under way. It connects, takes what is next, has
the attempt noted on disk, sends, and has noted what became of it. What may go where is decided in ``lines``,
what an answer means in ``fates``.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import defaultdict
from collections.abc import Coroutine, Sequence
from typing import Any

from cellmesh.discovery.directory import Directory, Entry
from cellmesh.inbox.clock import SteadyClock, iso
from cellmesh.inbox.store import PRIORITIES
from cellmesh.inbox.transaction import WorkFailed
from cellmesh.inbox.writer import WriterStopped
from cellmesh.outbox import Outbox, Parcel
from cellmesh.outbox.outcomes import Refused
from cellmesh.outbox.parcels import DELIVERED, QUEUED
from cellmesh.protocol.messages import Identity
from cellmesh.protocol.peers import Peer
from cellmesh.protocol.queueing import SentMessage
from cellmesh.service.fates import PATIENT_FAILURES, Fate, backoff, ends_shipment, judge, lost, unsent
from cellmesh.service.lines import Line
from cellmesh.service.routes import Lane, Route
from cellmesh.transport.http1 import NotSent
from cellmesh.transport.shipping import Shipment, Shipper

log = logging.getLogger(__name__)

_random = random.Random().random  # noqa: S311 - spreads retries, nothing depends on it
#: Seconds between two looks at what a route waits for.
LOOK = 1.0
#: A route that has nothing to do ends after this time, seconds.
ROUTE_IDLE = 60.0
#: A connection that has not been used for this time is given up, seconds.
SHIPPER_IDLE = 60.0


class Dispatcher:
    """Delivers what is queued.

    Args:
        outbox: where it is queued.
        here: who this instance is.
        directory: who is where.
        clock: of the outbox.

    """

    def __init__(self, outbox: Outbox, here: Identity, directory: Directory, clock: SteadyClock) -> None:
        self._outbox = outbox
        self._here = here
        self._directory = directory
        self._clock = clock
        self._routes: dict[str, Route] = {}
        self._shippers: dict[tuple[str, int], Shipper] = {}
        self._loop = asyncio.get_running_loop()
        self._stopping = False
        self._tasks: set[asyncio.Task[None]] = set()
        outbox.arrived = self._arrived

    async def start(self) -> None:
        """Begin with what was queued before this process."""
        pause = 0.1
        while True:
            try:
                cells = await self._outbox.open()
                break
            except WorkFailed as error:
                log.warning("the outbox cannot be opened yet: %s", error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, 5.0)
        for cell in cells:
            route = self._route(cell)
            for priority in PRIORITIES.values():
                route.lines[priority].behind(0)

    def wake(self, cell: str, priority: int, position: int) -> None:
        """Note that a message on disk is to be sent (again)."""
        self._route(cell).lines[priority].behind(position)
        self._pump(self._routes[cell])

    def explain(self, message: SentMessage) -> None:
        """Add to a queued message what it waits for, as far as that is known in memory only."""
        route = self._routes.get(message.to_cell)
        if message.state != "queued" or route is None or route.entry is None:
            return
        lanes = [
            lane
            for (name, priority), lane in route.lanes.items()
            if priority == PRIORITIES[message.priority] and (message.instance or message.to_instance) in {None, name}
        ]
        wanted = message.instance or message.to_instance
        if wanted in route.members or (wanted is None and route.members):
            pauses = [lane.paused_until - self._loop.time() for lane in lanes if lane.failures]
            if lanes and len(pauses) == len(lanes):
                message.next_attempt_in = round(max(0.0, min(pauses)), 3)
                message.code = message.code or lanes[0].code or None
                message.error = message.error or lanes[0].error or None
            return
        entry = route.entry
        if not entry.answered:
            message.code, message.error = "discovery_unavailable", "discovery does not answer, and nothing is known"
        elif not entry.expected:
            message.code, message.error = "unknown_cell", f"no cell and no registration is named {message.to_cell}"
        else:
            message.code = "no_ready_instance"
            message.error = f"no instance of {message.to_cell} is ready" if wanted is None else f"{wanted} is not ready"

    async def close(self, grace: float) -> None:
        """Begin nothing more, and wait ``grace`` seconds for the answers to what has been sent."""
        self._stopping = True
        lanes = [lane.task for route in self._routes.values() for lane in route.lanes.values() if lane.task]
        if lanes:
            await asyncio.wait(lanes, timeout=grace)
        tasks = [*lanes, *self._tasks]
        for task in tasks:
            task.cancel()
        for route in self._routes.values():
            for lane in route.lanes.values():
                if lane.timer is not None:
                    lane.timer.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for shipper in self._shippers.values():
            shipper.close()

    def sweep(self) -> None:
        """Close the connections that nobody uses any more."""
        oldest = self._loop.time() - SHIPPER_IDLE
        for address, shipper in list(self._shippers.items()):
            if not shipper.under_way and shipper.last_used < oldest:
                shipper.close()
                del self._shippers[address]

    def _arrived(self, parcels: Sequence[Parcel]) -> None:
        now = self._clock.now_ms()
        routes = set()
        for parcel in parcels:
            route = self._route(parcel.message.to_cell or "")
            route.lines[parcel.priority].add(parcel, now)
            routes.add(route)
        for route in routes:
            self._pump(route)

    def _route(self, cell: str) -> Route:
        route = self._routes.get(cell)
        if route is None:
            route = self._routes[cell] = Route(cell)
            for priority in PRIORITIES.values():
                route.lines[priority] = Line(None)
            route.follower = self._spawn(self._follow(route))
        route.used_at = self._loop.time()
        return route

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task: asyncio.Task[None] = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _follow(self, route: Route) -> None:
        """Keep a route current: which instances are ready, and what has waited for its time."""
        while not self._stopping:
            # Asked for anew each time: the directory forgets entries.
            entry = route.entry = self._directory.entry(route.cell)
            self._take_members(route, entry)
            now = self._clock.now_ms()
            for line in route.lines.values():
                line.due(now)
            self._pump(route)
            await entry.changed(LOOK)
            if await self._over(route):
                del self._routes[route.cell]
                return

    async def _over(self, route: Route) -> bool:
        """Tell whether a route has had nothing to do for a while."""
        used = route.used_at
        if not route.idle or self._loop.time() - used < ROUTE_IDLE:
            return False
        try:
            waits = await self._outbox.waits_for(route.cell)
        except WorkFailed:
            waits = True
        if waits or route.used_at != used:
            route.used_at = self._loop.time()
            return False
        return True

    def _take_members(self, route: Route, entry: Entry) -> None:
        members = {peer.key: peer for peer in entry.peers}
        for name, peer in members.items():
            before = route.members.get(name)
            if before is None or (before.host, before.port, before.uid) != (peer.host, peer.port, peer.uid):
                # It has come (back): what went wrong before says nothing about it.
                for (instance, _), lane in route.lanes.items():
                    if instance == name:
                        lane.clear()
        for (instance, priority), lane in list(route.lanes.items()):
            if instance not in members and lane.task is None:
                del route.lanes[instance, priority]
        route.members = members
        now = self._clock.now_ms()
        for line in route.lines.values():
            line.set_members(members, entry.expects, now)

    def _pump(self, route: Route) -> None:
        """Start every lane that has something to do, highest priority first, and read what is to be read."""
        if not route.members or self._stopping:
            return
        names = list(route.members)
        route.turn += 1
        for priority in sorted(route.lines, reverse=True):
            line = route.lines[priority]
            if priority not in route.loading and line.wanted() is not None:
                route.loading.add(priority)
                self._spawn(self._load(route, priority))
            for number in range(len(names)):
                name = names[(number + route.turn) % len(names)]
                if line.has(name):
                    self._run(route, name, priority)

    def _run(self, route: Route, name: str, priority: int) -> None:
        lane = route.lanes.get((name, priority))
        if lane is None:
            lane = route.lanes[name, priority] = Lane()
        if lane.task is not None:
            return
        pause = lane.paused_until - self._loop.time()
        if pause > 0:
            if lane.timer is None:
                lane.timer = self._loop.call_later(pause, self._resume, route, lane)
            return
        lane.task = self._loop.create_task(self._drive(route, name, priority, lane))

    def _resume(self, route: Route, lane: Lane) -> None:
        lane.timer = None
        self._pump(route)

    async def _load(self, route: Route, priority: int) -> None:
        """Read what is in the file and has room in memory, until nothing more is wanted."""
        line = route.lines[priority]
        try:
            while (start := line.wanted()) is not None and not self._stopping:
                epoch = line.epoch
                queued = await self._outbox.load(route.cell, priority, start, line.members)
                if epoch != line.epoch:
                    continue
                parcels = [one.parcel(route.cell, self._here, iso(one.queued_at)) for one in queued.messages]
                line.loaded(start, parcels, queued.rest, self._clock.now_ms())
        except WorkFailed as error:
            log.warning("queued messages cannot be read now: %s", error)
        finally:
            route.loading.discard(priority)
        self._pump(route)

    async def _drive(self, route: Route, name: str, priority: int, lane: Lane) -> None:
        """Send what is next, request by request, until there is nothing or something is wrong."""
        try:
            while not self._stopping and lane.paused_until <= self._loop.time():
                peer = route.members.get(name)
                if peer is None or not await self._send(route, peer, priority, lane):
                    return
        except WriterStopped:
            return
        except Exception as error:
            # It is tried again as after any failure; the text of an error may quote a message.
            log.error("sending to %s failed: %s", name, type(error).__name__)  # noqa: TRY400
            self._failed(lane, "internal", "the attempt failed; see the log of the cell")
        finally:
            lane.task = None
            self._loop.call_soon(self._pump, route)

    async def _send(self, route: Route, peer: Peer, priority: int, lane: Lane) -> bool:
        """Make one shipment; return whether to go on."""
        line = route.lines[priority]
        shipper = self._shipper(peer)
        try:
            await shipper.connect()
        except NotSent as error:
            self._failed(lane, "unreachable", f"{shipper.url}: {error}")
            await self._doubt(route, peer)
            return False
        parcels = self._take(line, peer, shipper)
        if not parcels:
            return False
        try:
            gone = await self._outbox.begin([one.position for one in parcels], peer.key, peer.uid, shipper.url)
        except WorkFailed as error:
            line.give_back(parcels, self._clock.now_ms())
            self._failed(lane, "disk_full" if error.disk_full else "internal", "the attempt could not be noted on disk")
            return False
        if gone:
            line.end(gone)
            parcels = [one for one in parcels if one.position not in gone]
            if not parcels:
                return True
        now = self._clock.now_ms()
        for parcel in parcels:
            parcel.attempts += 1
            parcel.instance, parcel.uid = peer.key, peer.uid
            parcel.pinned_at = parcel.pinned_at or now
        try:
            shipment = await shipper.ship([parcel.data for parcel in parcels], ends_shipment)
        except Exception as error:
            # They may be there. The text of an error may quote a message.
            log.error("sending to %s failed: %s", peer.key, type(error).__name__)  # noqa: TRY400
            shipment = Shipment([], len(parcels), "the attempt failed; see the log of the cell")
        return await self._settle(route, peer, line, lane, parcels, shipment)

    def _take(self, line: Line, peer: Peer, shipper: Shipper) -> list[Parcel]:
        now = self._clock.now_ms()
        most, size = shipper.room

        def weigh(parcel: Parcel) -> int:
            parcel.data = parcel.encoded(peer.instance, peer.uid, now)
            return len(parcel.data) + 1

        return line.take(peer.key, most, size - 2, weigh, now)

    async def _settle(
        self, route: Route, peer: Peer, line: Line, lane: Lane, parcels: Sequence[Parcel], shipment: Shipment
    ) -> bool:
        """Have noted what became of each message; return whether to go on."""
        delivered: list[int] = []
        refused: dict[tuple[int, bool, str, str], list[Parcel]] = defaultdict(list)
        stopper: Fate | None = None
        elsewhere = False
        for number, parcel in enumerate(parcels):
            parcel.data = b""
            if number < len(shipment.receipts):
                fate = judge(shipment.receipts[number], maybe=parcel.maybe)
                if fate.state == DELIVERED:
                    delivered.append(parcel.position)
                    continue
            elif number < len(shipment.receipts) + shipment.doubtful:
                fate = lost(shipment.why)
            else:
                fate = unsent(stopper or lost(shipment.why), maybe=parcel.maybe)
            if fate.state == QUEUED and (stopper is None or (fate.holds_up and not stopper.holds_up)):
                stopper = fate
            elsewhere |= fate.elsewhere
            self._apply(parcel, fate)
            refused[fate.state, fate.pinned, fate.code, fate.error].append(parcel)
        again = [parcel for key, some in refused.items() if key[0] == QUEUED for parcel in some]
        ended = [parcel.position for key, some in refused.items() if key[0] != QUEUED for parcel in some]
        line.end([*delivered, *ended])
        noted: asyncio.Future[None] = self._loop.create_future()

        def finished() -> None:
            line.give_back(again, self._clock.now_ms())
            if not noted.done():
                noted.set_result(None)
            self._pump(route)

        self._outbox.finish(
            delivered,
            [Refused(*key, [parcel.position for parcel in some]) for key, some in refused.items()],
            finished if again else _nothing,
        )
        if delivered or ended:
            lane.clear()
        held_up = stopper is not None and (stopper.holds_up or not (delivered or ended))
        if stopper is not None and held_up:
            self._failed(lane, stopper.code, stopper.error, stopper.pause)
            if elsewhere:
                await self._doubt(route, peer)
        if again:
            # Until they are back nothing else goes: it would overtake them.
            await noted
        return not held_up

    def _apply(self, parcel: Parcel, fate: Fate) -> None:
        """Note in memory what is known of a message that was not delivered."""
        if fate.pinned:
            parcel.maybe = True
            if not parcel.ttl and parcel.pinned_at is not None:
                parcel.expires_at = parcel.pinned_at + self._outbox.window
        else:
            parcel.maybe = False
            parcel.instance = parcel.uid = parcel.pinned_at = None
            if not parcel.ttl:
                parcel.expires_at = None
        if fate.state == QUEUED and not fate.holds_up:
            parcel.failures += 1
            if parcel.failures > PATIENT_FAILURES:
                pause = backoff(parcel.failures, _random(), fate.pause)
                parcel.rests_until = self._clock.now_ms() + int(pause * 1000)

    def _failed(self, lane: Lane, code: str, error: str, wanted: float | None = None) -> None:
        lane.failures += 1
        lane.code, lane.error = code, error
        lane.paused_until = self._loop.time() + backoff(lane.failures, _random(), wanted)

    async def _doubt(self, route: Route, peer: Peer) -> None:
        """Ask where the instance is now: it may not be where it was."""
        entry = route.entry
        if entry is not None:
            entry.doubt(peer)
            await self._directory.refresh(entry)

    def _shipper(self, peer: Peer) -> Shipper:
        address = peer.host, peer.port
        shipper = self._shippers.get(address)
        if shipper is None:
            shipper = self._shippers[address] = Shipper(peer)
        return shipper


def _nothing() -> None:
    """Do nothing."""
