"""Messages to siblings, the other instances of this cell: kept for one that is away, or all, because this one ends.

Each sibling has a lane with one request under way. What begins to be sent is noted on disk before; it is deleted
here when the sibling has said that it has it. Where that is not known, only this sibling is asked again, for as
long as it exists, also after a restart.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from enum import Enum
from typing import NamedTuple, TypeVar

import msgspec

from cellmesh.discovery.directory import Directory, Entry
from cellmesh.inbox import Inbox, Transaction, WorkFailed
from cellmesh.inbox.moving import MAX_NAMES, NEWEST, Lot
from cellmesh.inbox.writer import WriterStopped
from cellmesh.protocol.handover import HandedMessage, HandedRecord, Handover, HandoverAnswer, decode_answer
from cellmesh.protocol.messages import Identity, encode
from cellmesh.protocol.peers import Peer
from cellmesh.service.counters import Counters
from cellmesh.transport.http1 import Answer, Lost, NotSent, Pool

log = logging.getLogger(__name__)

CONNECT_TIMEOUT = 5.0
#: Storing a lot takes a sibling milliseconds.
ANSWER_TIMEOUT = 30.0
#: Payload bytes in one request, but for a single message.
LOT_BYTES = 1024 * 1024
#: Pause after a sibling took nothing, seconds; it doubles from there.
MIN_PAUSE, MAX_PAUSE = 0.2, 5.0
#: Seconds between two looks at what has changed without a notice.
LOOK = 5.0
#: What a sibling answers that has certainly stored nothing of the request.
_NOTHING_STORED = frozenset({400, 403, 404, 405, 408, 413, 415, 421, 422, 429, 507})
#: Of these a smaller request may be taken.
_SMALLER = frozenset({400, 408, 413, 422})

T = TypeVar("T")


class Known(Enum):
    """What a request to a sibling has shown."""

    #: Each message has an outcome.
    ANSWERED = "answered"
    #: This request has brought it nothing.
    NOTHING = "nothing"
    #: It may have stored it.
    UNKNOWN = "unknown"


class _Said(NamedTuple):
    known: Known
    status: int = 0
    answer: HandoverAnswer | None = None
    why: str = ""


class Lane:
    """One sibling: what is known of how it takes messages."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.task: asyncio.Task[None] | None = None
        #: Positions of messages that it has refused for good.
        self.stuck: set[int] = set()
        #: Bytes of payloads in one request.
        self.most = LOT_BYTES
        #: Until when it is not asked; of the loop's time.
        self.paused_until = 0.0
        #: Before which position the records go on that it has not got; None: it has got all.
        self.records: int | None = NEWEST
        self._pause = 0.0

    def failed(self, now: float) -> None:
        """Ask it later, and later each time."""
        self._pause = min(max(MIN_PAUSE, self._pause * 2), MAX_PAUSE)
        self.paused_until = now + self._pause

    def succeeded(self) -> None:
        """Ask it again at once."""
        self._pause = self.paused_until = 0.0


class Mover:
    """Passes messages on to siblings that they are kept for, and does so for whoever hands over more.

    Args:
        here: who this instance is.
        inbox: where the messages are.
        directory: who is where.
        counters: where it is counted.

    """

    def __init__(self, here: Identity, inbox: Inbox, directory: Directory, counters: Counters) -> None:
        self._here = here
        self._inbox = inbox
        self._directory = directory
        self._counters = counters
        self._loop = asyncio.get_running_loop()
        self._lanes: dict[str, Lane] = {}
        self._pools: dict[tuple[str, int], Pool] = {}
        self._keeper: asyncio.Task[None] | None = None
        self._entry: Entry | None = None
        #: Whether messages have come for a sibling since it was looked whom there are some for.
        self._news = False
        #: Since when those do not exist any more that there are messages for; of the loop's time.
        self._gone: dict[str, float] = {}
        self._ending = False

    def start(self) -> None:
        """Begin to pass on what is kept here for siblings, and go on with what was being sent."""
        self._news = True
        if self._keeper is None or self._keeper.done():
            self._keeper = self._loop.create_task(self._keep())
        else:
            self._wake()

    def expect(self, _sibling: str) -> None:
        """Pass messages on to a sibling as soon as it is ready: there are some for it."""
        if not self._ending:
            self.start()

    def lane(self, sibling: str) -> Lane:
        """Return the lane to a sibling."""
        lane = self._lanes.get(sibling)
        if lane is None:
            lane = self._lanes[sibling] = Lane(sibling)
        return lane

    async def end(self) -> None:
        """Begin nothing more by itself; return once what is under way is known."""
        self._ending = True
        if self._keeper is not None:
            self._keeper.cancel()
        await asyncio.gather(*self._tasks(), return_exceptions=True)

    async def close(self) -> None:
        """Stop; what is under way goes on after the next start."""
        self._ending = True
        for task in self._tasks():
            task.cancel()
        await asyncio.gather(*self._tasks(), return_exceptions=True)
        for pool in self._pools.values():
            pool.close()

    def ready(self, entry: Entry) -> list[Peer]:
        """Return the siblings that are ready and answer."""
        return [
            peer
            for peer in entry.peers
            if peer.key != self._here.instance
            and peer.namespace in {None, self._here.namespace}
            and not entry.doubted(peer)
        ]

    async def pass_on(self, entry: Entry, peer: Peer, lane: Lane) -> bool:
        """Pass one lot of messages on to a sibling that are for it; return whether there was one.

        Raises:
            WorkFailed: what has to be noted could not be.

        """
        siblings, name = self._inbox.siblings, lane.name
        lot = await self._write(lambda tx: siblings.begun(tx, name, lane.most))
        if not lot.messages:
            lot = await self._write(lambda tx: siblings.kept(tx, name, lane.most))
        if lot.messages:
            await self.deliver(entry, peer, lane, lot)
        return bool(lot.messages)

    async def deliver(self, entry: Entry, peer: Peer, lane: Lane, lot: Lot) -> None:
        """Send a lot to a sibling and note what became of each message.

        Raises:
            WorkFailed: that could not be noted; it is asked again about the same messages.

        """
        said = await self._ask(peer, self._handover(lane, messages=[one.handed for one in lot.messages]))
        if said.known is Known.ANSWERED and said.answer is not None:
            await self._settle(lane, lot, said.answer)
            return
        log.warning("%s has not taken %d messages: %s", lane.name, len(lot.messages), said.why)
        smaller = said.status in _SMALLER
        if smaller and len(lot.messages) > 1:
            lane.most = max(1, sum(one.size for one in lot.messages) // 2)
        else:
            lane.failed(self._loop.time())
        if said.known is Known.NOTHING and not lot.maybe:
            seqs = [one.seq for one in lot.messages]
            here: str | None = self._here.instance
            if smaller and len(seqs) == 1:
                lane.stuck.update(seqs)
                here = None
            await self._write(lambda tx: self._inbox.siblings.returned(tx, lot, seqs, here))
        if not smaller:
            entry.doubt(peer)
            await self._directory.refresh(entry)

    async def give_records(self, peer: Peer, lane: Lane) -> None:
        """Send a lot of records to a sibling; ``lane.records`` says how far it has got.

        Raises:
            WorkFailed: they could not be read.

        """
        before = lane.records
        if before is None:
            return
        found = await self._write(lambda tx: self._inbox.siblings.records(tx, before))
        if found.records:
            said = await self._ask(peer, self._handover(lane, records=found.records))
            if said.status in {404, 405}:
                lane.records = None  # a sibling of an earlier version
                return
            if said.answer is None or said.answer.records < len(found.records):
                lane.failed(self._loop.time())
                return
            self._counters.handed_over["records"] += len(found.records)
        lane.succeeded()
        lane.records = found.before

    def sweep(self) -> None:
        """Close the connections that nobody uses."""
        if not any(lane.task is not None and not lane.task.done() for lane in self._lanes.values()):
            for pool in self._pools.values():
                pool.close()
            self._pools.clear()

    def _wake(self) -> None:
        if self._entry is not None:
            self._entry.notify()

    def _tasks(self) -> list[asyncio.Task[None]]:
        tasks = (self._keeper, *[lane.task for lane in self._lanes.values()])
        return [task for task in tasks if task is not None]

    async def _keep(self) -> None:
        """Start the lanes of siblings that there is something for, until there is nothing for any."""
        while not self._ending:
            self._news = False
            entry = self._entry = self._directory.entry(self._here.cell_id)
            pause = LOOK
            try:
                names = await self._write(self._inbox.siblings.waited_for)
                if not names and not self._news:
                    return
                pause = self._start_lanes(entry, names)
                await self._give_up(entry, names)
            except WorkFailed as error:
                log.warning("what is kept for siblings cannot be passed on yet: %s", error)
            except WriterStopped:
                return
            if not self._news:
                await entry.changed(pause)
                entry.clear_doubts()

    def _start_lanes(self, entry: Entry, names: Collection[str]) -> float:
        """Start the lanes of siblings that are ready; return after how many seconds to look again."""
        now, pause = self._loop.time(), LOOK
        for peer in self.ready(entry):
            if peer.key not in names and len(names) < MAX_NAMES:
                continue
            lane = self.lane(peer.key)
            if lane.paused_until > now:
                pause = min(pause, lane.paused_until - now)
            elif lane.task is None or lane.task.done():
                lane.task = self._loop.create_task(self._run(lane))
        return pause

    async def _run(self, lane: Lane) -> None:
        """Pass on what there is for a sibling, until there is nothing more or it takes nothing now."""
        while not self._ending:
            if lane.paused_until > self._loop.time():
                self._loop.call_at(lane.paused_until, self._wake)
                return
            entry = self._directory.entry(self._here.cell_id)
            peer = next((peer for peer in self.ready(entry) if peer.key == lane.name), None)
            try:
                if peer is None or not await self.pass_on(entry, peer, lane):
                    return
            except WorkFailed:
                lane.failed(self._loop.time())
            except WriterStopped:
                return

    async def _give_up(self, entry: Entry, names: Collection[str]) -> None:
        """Make messages pending here whose siblings have not existed for so long that they recognise nothing."""
        now = self._loop.time()
        silent = bool(entry.problem) or not entry.answered or not entry.settled
        gone = [] if silent else [name for name in names if not entry.expects(name)]
        self._gone = {name: self._gone.get(name, now) for name in gone}
        for name, since in list(self._gone.items()):
            if now - since < self._inbox.limits.dedupe_window_ms / 1000:
                continue
            why = f"{name} does not exist any more"
            count = 0
            while some := await self._given_up(name, why):
                count += some
            log.warning("%s: %d messages that were for it are pending here; it may have had some", why[:300], count)

    async def _given_up(self, name: str, why: str) -> int:
        return await self._write(lambda tx: self._inbox.siblings.given_up(tx, name, why))

    async def _settle(self, lane: Lane, lot: Lot, answer: HandoverAnswer) -> None:
        there, refused, later = [], [], []
        for moving, item in zip(lot.messages, answer.results, strict=True):
            if item.status == "ok":
                there.append(moving.seq)
            elif item.http_status == 429 or item.http_status >= 500:
                later.append(moving.seq)
            else:
                refused.append(moving.seq)
        codes = sorted({item.code or str(item.http_status) for item in answer.results if item.status != "ok"})
        siblings = self._inbox.siblings

        def note(tx: Transaction) -> None:
            siblings.arrived(tx, there)
            siblings.returned(tx, lot, later, self._here.instance)
            siblings.returned(tx, lot, refused, None)

        await self._write(note)
        self._counters.handed_over["messages"] += len(there)
        lane.stuck.update(refused)
        if codes:
            log.warning(
                "%s has taken %d of %d messages: %s", lane.name, len(there), len(lot.messages), ", ".join(codes)
            )
            lane.failed(self._loop.time())
        else:
            lane.succeeded()

    async def _ask(self, peer: Peer, handover: Handover) -> _Said:
        pool = self._pool(peer)
        head = pool.prepare("POST", "/handover", (("content-type", "application/json"),))
        try:
            answer = await pool.request(head, encode(handover), connect_timeout=CONNECT_TIMEOUT, timeout=ANSWER_TIMEOUT)
        except NotSent as error:
            return _Said(Known.NOTHING, why=str(error))
        except Lost as error:
            return _Said(Known.UNKNOWN, why=str(error))
        return _read(answer, len(handover.messages))

    def _handover(
        self, lane: Lane, *, messages: Sequence[HandedMessage] = (), records: Sequence[HandedRecord] = ()
    ) -> Handover:
        return Handover(
            cell_id=self._here.cell_id,
            namespace=self._here.namespace,
            from_instance=self._here.instance,
            to_instance=lane.name,
            messages=list(messages),
            records=list(records),
        )

    def _pool(self, peer: Peer) -> Pool:
        address = (peer.host, peer.port)
        pool = self._pools.get(address)
        if pool is None:
            pool = self._pools[address] = Pool(*address)
        return pool

    async def _write(self, execute: Callable[[Transaction], T]) -> T:
        return await self._inbox.write(execute)


def _read(answer: Answer, messages: int) -> _Said:
    """Return what an answer to a hand-over shows."""
    why = f"it answered {answer.status} {answer.body[:200].decode(errors='replace')}"
    if answer.status == 200:
        try:
            said = decode_answer(answer.body)
        except msgspec.MsgspecError:
            return _Said(Known.UNKNOWN, 200, why="its answer cannot be read")
        if len(said.results) != messages:
            return _Said(Known.UNKNOWN, 200, why="its answer does not have one item per message")
        return _Said(Known.ANSWERED, 200, said)
    draining = answer.status == 503 and b'"draining"' in answer.body
    if answer.status in _NOTHING_STORED or draining:
        return _Said(Known.NOTHING, answer.status, why=why)
    return _Said(Known.UNKNOWN, answer.status, why=why)
