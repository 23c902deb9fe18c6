"""A message on its way: find an instance, hand the message over, and know what became of it.

It ends in one of three ways: acknowledged; failed, and certainly not stored; or unknown, which is
said (``maybe_delivered``). Once a byte may have reached an instance, the message goes to that instance
only, because only that one recognises it when it comes again.
"""

from __future__ import annotations

import asyncio
import math

from cellmesh.discovery.directory import Directory, Entry
from cellmesh.protocol.fields import DEFAULT_TTL
from cellmesh.protocol.messages import encode
from cellmesh.protocol.peers import Peer
from cellmesh.protocol.problems import Problem
from cellmesh.service.counters import Counters
from cellmesh.service.letters import Letter, out_of_time, target_problem
from cellmesh.service.routing import Meaning, read_answer, rendezvous, retry_after
from cellmesh.transport.http1 import Lost, NotSent
from cellmesh.transport.link import Link, Receipt

#: How often a message is sent again after an answer was lost.
RESENDS = 1
MAX_PAUSE = 0.5
LINK_IDLE_SECONDS = 60.0


class Courier:
    """Takes messages to instances of their receivers.

    Args:
        directory: who is where.
        link_limits: messages and bytes that may wait for one instance.
        counters: where retries are counted.

    """

    def __init__(self, directory: Directory, link_limits: tuple[int, int], counters: Counters) -> None:
        self._directory = directory
        self._link_limits = link_limits
        self._counters = counters
        self._links: dict[tuple[str, int], Link] = {}
        self._turn = 0
        self._loop = asyncio.get_running_loop()

    async def deliver(self, letter: Letter) -> None:
        """Take a letter to its receiver, until it is acknowledged (``letter.receipt``).

        Raises:
            Problem: it was not acknowledged; ``letter.pinned`` says whether it may have been stored.

        """
        while True:
            entry = letter.entry or self._directory.entry(letter.to_cell)
            letter.entry = None
            peer = self._choose(letter, entry)
            if peer is None:
                await self._wait_for_peer(letter, entry)
                continue
            receipt = await self._attempt(letter, entry, peer)
            if receipt is not None:
                meaning = read_answer(receipt.status, receipt.body)[0]
                if meaning is Meaning.ACKNOWLEDGED:
                    letter.receipt = receipt
                    return
                await self._refused(letter, entry, peer, receipt, meaning)
            self._counters.retries += 1

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

    def _choose(self, letter: Letter, entry: Entry) -> Peer | None:
        """Return the instance to try next, or None if there is none now."""
        peers = entry.peers
        wanted = letter.to_instance
        if wanted is None and letter.home is not None and entry.expects(letter.home):
            wanted = letter.home
        if wanted is not None:
            peers = [peer for peer in peers if peer.key == wanted]
        if letter.pinned is not None:
            peers = [peer for peer in peers if peer.key == letter.pinned]
        elif letter.full:
            peers = [peer for peer in peers if peer.key not in letter.full]
            if not peers:
                # The one that has room first: an instance that does not say when is last.
                soonest = min(letter.full.values(), key=lambda receipt: retry_after(receipt) or math.inf)
                raise target_problem(letter, soonest)
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
                f"to_cell: {letter.to_cell!r} is not known here and discovery does not answer",
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
        message.for_instance = letter.home if letter.home != peer.key else None
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
            letter.full[peer.key] = receipt
            return
        raise target_problem(letter, receipt)

    def _link(self, peer: Peer) -> Link:
        address = (peer.host, peer.port)
        link = self._links.get(address)
        if link is None:
            link = self._links[address] = Link(peer, *self._link_limits)
        return link

    def _unknown(self, letter: Letter, entry: Entry) -> Problem:
        if not self._directory.url:
            return Problem("discovery_unavailable", "this cell has no discovery; set CELLMESH_DISCOVERY_URL")
        return Problem(
            "unknown_cell",
            f"to_cell: no cell and no registration is named {letter.to_cell[:80]!r}; "
            "see available_cells for those there are",
            field="to_cell",
            extra={"available_cells": entry.available},
        )


def _expire(future: asyncio.Future[Receipt]) -> None:
    if not future.done():
        future.set_exception(TimeoutError())
