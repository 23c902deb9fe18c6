"""Messages out: find an instance, hand the message over, and know what became of it.

A send ends in one of three ways: acknowledged; failed, and certainly not stored; or unknown, which is
said (``maybe_delivered``). Once a byte may have reached an instance, the message goes to that instance
only, because only that one recognises it when it comes again.
"""

from __future__ import annotations

import asyncio

from msgspec import Raw

from cellmesh.discovery.directory import Directory, Entry
from cellmesh.inbox.clock import SteadyClock, iso
from cellmesh.protocol.fields import DEFAULT_TTL
from cellmesh.protocol.messages import (
    CellMessage,
    Identity,
    SendRequest,
    decode_send,
    encode,
)
from cellmesh.protocol.peers import Peer
from cellmesh.protocol.problems import Problem
from cellmesh.protocol.receipts import Delivered
from cellmesh.service.counters import Counters
from cellmesh.service.letters import Letter, failed, not_begun, out_of_time, stopping, target_problem
from cellmesh.service.receiving import new_id
from cellmesh.service.reply import Answer, Reply, failure
from cellmesh.service.routing import Meaning, read_answer, rendezvous
from cellmesh.transport.http1 import Lost, NotSent
from cellmesh.transport.link import Link, Receipt

#: How often a message is sent again after an answer was lost.
RESENDS = 1
MAX_PAUSE = 0.5
LINK_IDLE_SECONDS = 60.0


class Sender:
    """Sends messages of this cell to others.

    Args:
        here: who this instance is.
        directory: who is where.
        clock: for timestamps.
        link_limits: messages and bytes that may wait for one instance.
        counters: where outcomes are counted.

    """

    def __init__(
        self,
        here: Identity,
        directory: Directory,
        clock: SteadyClock,
        link_limits: tuple[int, int],
        counters: Counters,
    ) -> None:
        self._here = here
        self._directory = directory
        self._clock = clock
        self._link_limits = link_limits
        self._counters = counters
        self._links: dict[tuple[str, int], Link] = {}
        self._turn = 0
        self._under_way: set[asyncio.Task[Reply]] = set()
        self._loop = asyncio.get_running_loop()
        self.refusing = False

    def send(self, body: bytes, answer: Answer) -> None:
        """Answer ``POST /send``."""
        task = self._loop.create_task(self._send(body))
        self._under_way.add(task)

        def ended(task: asyncio.Task[Reply]) -> None:
            self._under_way.discard(task)
            if task.cancelled():
                return  # before it began: the connection ends with the process
            error = task.exception()
            if error is None:
                answer(task.result())
            else:
                answer(failure("POST /send", error))

        task.add_done_callback(ended)

    async def _send(self, body: bytes) -> Reply:
        try:
            if self.refusing:
                raise Problem("draining", "this instance is stopping; ask another one", retry_after=1)
            request = decode_send(body)
        except Problem as problem:
            return self._failed(not_begun(problem, body), problem)
        letter = Letter(request, self._message(request), self._loop.time())
        try:
            reply = await self._deliver(letter)
        except Problem as problem:
            return self._failed(failed(letter, problem), problem)
        except asyncio.CancelledError:
            stopped = stopping(letter)
            return self._failed(failed(letter, stopped), stopped)
        self._counters.sent["delivered"] += 1
        return reply

    def refuse(self, problem: Problem) -> Reply:
        """Return the answer to a ``POST /send`` whose body is not even read."""
        return self._failed(not_begun(problem), problem)

    async def give_up(self) -> None:
        """End what is still under way: each is answered with what is known of it."""
        for task in self._under_way:
            task.cancel()
        if self._under_way:
            await asyncio.wait([*self._under_way], timeout=1.0)

    def close(self) -> None:
        """Close all links."""
        for link in self._links.values():
            link.close()

    def sweep(self) -> None:
        """Close the links that nobody uses any more."""
        oldest = self._loop.time() - LINK_IDLE_SECONDS
        for address, link in list(self._links.items()):
            if link.idle and link.last_used < oldest:
                link.close()
                del self._links[address]

    @property
    def waiting(self) -> int:
        """Messages that wait for a connection to their instance."""
        return sum(link.waiting for link in self._links.values())

    def _message(self, request: SendRequest) -> CellMessage:
        return CellMessage(
            message_id=request.message_id or new_id(),
            from_cell=self._here.cell_id,
            to_cell=request.to_cell,
            message_type=request.message_type,
            payload=request.payload,
            timestamp=iso(self._clock.now_ms()),
            priority=request.priority,
            ttl=request.ttl,
            reply_to=request.reply_to,
            conversation_id=request.conversation_id,
            traceparent=request.traceparent,
            tracestate=request.tracestate,
            from_namespace=self._here.namespace,
            from_instance=self._here.instance,
            to_namespace=self._here.namespace,
        )

    async def _deliver(self, letter: Letter) -> Reply:
        while True:
            entry = self._directory.entry(letter.request.to_cell)
            peer = self._choose(letter, entry)
            if peer is None:
                await self._wait_for_peer(letter, entry)
                continue
            receipt = await self._attempt(letter, entry, peer)
            if receipt is not None:
                meaning = read_answer(receipt.status, receipt.body)[0]
                if meaning is Meaning.ACKNOWLEDGED:
                    return self._delivered(letter, receipt)
                await self._refused(letter, entry, peer, receipt, meaning)
            self._counters.retries += 1

    def _choose(self, letter: Letter, entry: Entry) -> Peer | None:
        """Return the instance to try next, or None if there is none now."""
        peers = entry.peers
        if letter.request.to_instance is not None:
            peers = [peer for peer in peers if peer.key == letter.request.to_instance]
        if letter.pinned is not None:
            peers = [peer for peer in peers if peer.key == letter.pinned]
        elif letter.full:
            peers = [peer for peer in peers if peer.key not in letter.full]
            if not peers and letter.last is not None:
                raise target_problem(letter, letter.last)
        if len(peers) > 1:
            peers = entry.trusted(peers)
        if not peers or (letter.peer is not None and entry.doubted(peers[0])):
            # Where the first is doubted, all are: they are tried in rounds, with pauses.
            return None
        if len(peers) == 1:
            return peers[0]
        if letter.placed:
            return rendezvous(letter.placed, peers)
        self._turn += 1
        return peers[self._turn % len(peers)]

    async def _wait_for_peer(self, letter: Letter, entry: Entry) -> None:
        """Wait until a suitable instance may be there; say why not when there can be none."""
        if not entry.answered and entry.problem:
            raise Problem(
                "discovery_unavailable",
                f"to_cell: {letter.request.to_cell!r} is not known here and discovery does not answer",
                field="to_cell",
                retry_after=1,
            )
        if entry.answered and entry.settled and not entry.expected and letter.pinned is None:
            raise self._unknown(letter, entry)
        letter.waited = letter.waited or entry.answered
        left = letter.deadline - self._loop.time()
        if left <= 0:
            raise out_of_time(letter, self._loop.time())
        if entry.peers and letter.peer is not None:
            pause = letter.pause
            await entry.changed(min(left, pause))
            letter.pause = min(pause * 2, MAX_PAUSE)
            if pause < left:
                # Otherwise there is no time for an answer; the attempt would only leave the outcome unknown.
                entry.clear_doubts()
        else:
            await entry.changed(min(left, 1.0))

    async def _attempt(self, letter: Letter, entry: Entry, peer: Peer) -> Receipt | None:
        """Send the message to an instance; None if no answer came and another attempt makes sense."""
        message = letter.message
        message.to_instance = peer.instance
        message.to_uid = peer.uid
        now = self._loop.time()
        ttl = DEFAULT_TTL if message.ttl is None else message.ttl
        if letter.peer is not None and ttl:
            message.ttl_remaining = round(ttl - (now - letter.started), 3)
            if message.ttl_remaining <= 0:
                raise out_of_time(letter, self._loop.time())
        letter.peer = peer
        link = self._link(peer)
        letter.url = link.url
        ticket = link.submit(encode(message))
        timer = self._loop.call_at(letter.deadline, _expire, ticket.future)
        try:
            receipt = await ticket.future
        except TimeoutError:
            if ticket.sent:
                letter.pinned = peer.key
            raise out_of_time(letter, self._loop.time()) from None
        except NotSent as error:
            await self._unreachable(letter, entry, peer, str(error))
            return None
        except Lost as error:
            letter.pinned = peer.key
            letter.lost += 1
            if letter.lost > RESENDS:
                raise Problem(
                    "outcome_unknown", f"{letter.url}: {error}; send again with the same message_id to be sure"
                ) from None
            await self._unreachable(letter, entry, peer, str(error))
            return None
        except asyncio.CancelledError:
            if ticket.sent:
                letter.pinned = peer.key
            ticket.future.cancel()
            raise
        finally:
            timer.cancel()
        return receipt

    async def _unreachable(self, letter: Letter, entry: Entry, peer: Peer, why: str) -> None:
        letter.last = Receipt(0, why.encode())
        entry.doubt(peer)
        await self._directory.refresh(entry)
        if self._loop.time() >= letter.deadline:
            raise out_of_time(letter, self._loop.time())

    async def _refused(self, letter: Letter, entry: Entry, peer: Peer, receipt: Receipt, meaning: Meaning) -> None:
        """Return if another attempt makes sense; otherwise raise the answer to the caller."""
        letter.last = receipt
        if meaning is Meaning.MISDIRECTED or meaning is Meaning.DRAINING:
            entry.doubt(peer)
            await self._directory.refresh(entry)
            if self._loop.time() >= letter.deadline:
                raise out_of_time(letter, self._loop.time())
            return
        if meaning is Meaning.FULL:
            # A repeat would have been recognised even by a full inbox: it is certain that nothing is stored.
            letter.pinned = None
            letter.full.add(peer.key)
            return
        raise target_problem(letter, receipt)

    def _link(self, peer: Peer) -> Link:
        address = (peer.host, peer.port)
        link = self._links.get(address)
        if link is None:
            link = self._links[address] = Link(peer, *self._link_limits)
        return link

    def _delivered(self, letter: Letter, receipt: Receipt) -> Reply:
        message = letter.message
        return Reply(
            200,
            encode(
                Delivered(
                    "delivered",
                    message.message_id,
                    letter.request.to_cell,
                    letter.url or "",
                    Raw(receipt.body),
                    iso(self._clock.now_ms()),
                )
            ),
        )

    def _unknown(self, letter: Letter, entry: Entry) -> Problem:
        if not self._directory.url:
            return Problem("discovery_unavailable", "this cell has no discovery; set CELLMESH_DISCOVERY_URL")
        return Problem(
            "unknown_cell",
            f"to_cell: no cell and no registration is named {letter.request.to_cell[:80]!r}; "
            "see available_cells for those there are",
            field="to_cell",
            extra={"available_cells": entry.available},
        )

    def _failed(self, reply: Reply, problem: Problem) -> Reply:
        self._counters.sent[problem.code] += 1
        return reply


def _expire(future: asyncio.Future[Receipt]) -> None:
    if not future.done():
        future.set_exception(TimeoutError())
