"""Messages out: find an instance, hand the message over, and know what became of it.

A send ends in one of three ways: acknowledged; failed, and certainly not stored; or unknown, which is
said (``maybe_delivered``). Once a byte may have reached an instance, the message goes to that instance
only, because only that one recognises it when it comes again.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from msgspec import Raw

from cellmesh.discovery.directory import Directory, Entry
from cellmesh.inbox.clock import SteadyClock, iso
from cellmesh.protocol.fields import DEFAULT_TTL
from cellmesh.protocol.messages import (
    DEFAULT_TIMEOUT,
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
from cellmesh.service.receiving import new_id
from cellmesh.service.reply import Answer, Headers, Reply, failure
from cellmesh.service.routing import Meaning, read_answer, rendezvous
from cellmesh.transport.http1 import Lost, NotSent
from cellmesh.transport.link import Link, Receipt

#: How often a message is sent again after an answer was lost.
RESENDS = 1
MIN_PAUSE = 0.05
MAX_PAUSE = 0.5
LINK_IDLE_SECONDS = 60.0


class _Letter:
    """One message on its way, and what is known of it so far."""

    __slots__ = (
        "deadline",
        "full",
        "last",
        "lost",
        "message",
        "pause",
        "peer",
        "pinned",
        "placed",
        "request",
        "started",
        "url",
    )

    def __init__(self, request: SendRequest, message: CellMessage, now: float) -> None:
        self.request = request
        self.message = message
        self.started = now
        self.deadline = now + (request.timeout or DEFAULT_TIMEOUT)
        #: Whether the instance is chosen by the message, so that a retry of the caller finds it again.
        self.placed = request.message_id or request.conversation_id
        #: The instance that may have it; no other may be tried.
        self.pinned: str | None = None
        self.lost = 0
        #: Instances that had no room.
        self.full: set[str] = set()
        self.last: Receipt | None = None
        self.peer: Peer | None = None
        self.url: str | None = None
        self.pause = MIN_PAUSE


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
                return  # the process ends, and its connections with it
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
            return self._undecoded(body, problem)
        letter = _Letter(request, self._message(request), self._loop.time())
        try:
            reply = await self._deliver(letter)
        except Problem as problem:
            return self._failed(letter, problem)
        self._counters.sent["delivered"] += 1
        return reply

    def close(self) -> None:
        """Close all links; what is still under way ends with them."""
        for link in self._links.values():
            link.close()
        for task in self._under_way:
            task.cancel()

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

    async def _deliver(self, letter: _Letter) -> Reply:
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

    def _choose(self, letter: _Letter, entry: Entry) -> Peer | None:
        """Return the instance to try next, or None if there is none now."""
        peers = entry.peers
        if letter.request.to_instance is not None:
            peers = [peer for peer in peers if peer.key == letter.request.to_instance]
        if letter.pinned is not None:
            peers = [peer for peer in peers if peer.key == letter.pinned]
        elif letter.full:
            peers = [peer for peer in peers if peer.key not in letter.full]
            if not peers and letter.last is not None:
                raise self._target_problem(letter, letter.last)
        if len(peers) > 1:
            peers = entry.trusted(peers)
        if not peers or (len(peers) == 1 and letter.peer is not None and entry.doubted(peers[0])):
            return None
        if len(peers) == 1:
            return peers[0]
        if letter.placed:
            return rendezvous(letter.placed, peers)
        self._turn += 1
        return peers[self._turn % len(peers)]

    async def _wait_for_peer(self, letter: _Letter, entry: Entry) -> None:
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
        left = letter.deadline - self._loop.time()
        if left <= 0:
            raise self._out_of_time(letter)
        if entry.peers and letter.peer is not None:
            await entry.changed(min(left, letter.pause))
            letter.pause = min(letter.pause * 2, MAX_PAUSE)
            entry.clear_doubts()
        else:
            await entry.changed(min(left, 1.0))

    async def _attempt(self, letter: _Letter, entry: Entry, peer: Peer) -> Receipt | None:
        """Send the message to an instance; None if no answer came and another attempt makes sense."""
        message = letter.message
        message.to_instance = peer.instance
        message.to_uid = peer.uid
        now = self._loop.time()
        ttl = DEFAULT_TTL if message.ttl is None else message.ttl
        if letter.peer is not None and ttl:
            message.ttl_remaining = round(ttl - (now - letter.started), 3)
            if message.ttl_remaining <= 0:
                raise self._out_of_time(letter)
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
            raise self._out_of_time(letter) from None
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
            ticket.future.cancel()
            raise
        finally:
            timer.cancel()
        return receipt

    async def _unreachable(self, letter: _Letter, entry: Entry, peer: Peer, why: str) -> None:
        letter.last = Receipt(0, why.encode())
        entry.doubt(peer)
        await self._directory.refresh(entry)
        if self._loop.time() >= letter.deadline:
            raise self._out_of_time(letter)

    async def _refused(self, letter: _Letter, entry: Entry, peer: Peer, receipt: Receipt, meaning: Meaning) -> None:
        """Return if another attempt makes sense; otherwise raise the answer to the caller."""
        letter.last = receipt
        if meaning is Meaning.MISDIRECTED or meaning is Meaning.DRAINING:
            entry.doubt(peer)
            await self._directory.refresh(entry)
            if self._loop.time() >= letter.deadline:
                raise self._out_of_time(letter)
            return
        if meaning is Meaning.FULL:
            # A repeat would have been recognised even by a full inbox: it is certain that nothing is stored.
            letter.pinned = None
            letter.full.add(peer.key)
            return
        raise self._target_problem(letter, receipt)

    def _link(self, peer: Peer) -> Link:
        address = (peer.host, peer.port)
        link = self._links.get(address)
        if link is None:
            link = self._links[address] = Link(peer, *self._link_limits)
        return link

    def _delivered(self, letter: _Letter, receipt: Receipt) -> Reply:
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

    def _unknown(self, letter: _Letter, entry: Entry) -> Problem:
        if not self._directory.url:
            return Problem("discovery_unavailable", "this cell has no discovery; set CELLMESH_DISCOVERY_URL")
        return Problem(
            "unknown_cell",
            f"to_cell: no cell and no registration is named {letter.request.to_cell[:80]!r}; "
            "see available_cells for those there are",
            field="to_cell",
            extra={"available_cells": entry.available},
        )

    def _out_of_time(self, letter: _Letter) -> Problem:
        waited = f"within {self._loop.time() - letter.started:.1f} s"
        last = letter.last
        if letter.pinned is not None:
            return Problem("timeout", f"no answer from {letter.url} {waited}; it may have the message")
        if last is not None and last.status == 0:
            return Problem("unreachable", f"{letter.url}: {last.body.decode()} ({waited})", retry_after=1)
        if letter.peer is None or last is not None:
            return Problem(
                "no_ready_instance",
                f"to_cell: no instance of {letter.request.to_cell!r} is ready {waited}",
                field="to_cell",
                retry_after=1,
            )
        return Problem("timeout", f"the message did not get its turn for {letter.url} {waited}", retry_after=1)

    def _target_problem(self, letter: _Letter, receipt: Receipt) -> Problem:
        """Return the problem that passes a target's refusal on, with the target's own status."""
        _, code, error = read_answer(receipt.status, receipt.body)
        return _TargetProblem(receipt, code, error or f"{letter.url} answered {receipt.status}")

    def _failed(self, letter: _Letter, problem: Problem) -> Reply:
        """Return the answer to a failed send: what happened, where, and whether it may have arrived."""
        self._counters.sent[problem.code] += 1
        status, headers = problem.http_status, tuple(problem.headers())
        maybe, origin = letter.pinned is not None, "self"
        body = problem.body()
        if isinstance(problem, _TargetProblem):
            receipt, origin = problem.receipt, "target"
            status = receipt.status if 400 <= receipt.status < 600 else 502
            maybe = maybe or (not 400 <= receipt.status < 500 and receipt.status != 507)
            headers = ((b"retry-after", receipt.retry_after.encode("latin-1")),) if receipt.retry_after else ()
            response = _json_object(receipt.body)
            if response is not None:
                body["response"] = response
                if status == 429 and "retry_after" not in body and not headers:
                    headers = ((b"retry-after", b"1"),)
        body |= {
            "message_id": letter.message.message_id,
            "to_cell": letter.request.to_cell,
            "origin": origin,
            "maybe_delivered": maybe,
        }
        if letter.url is not None:
            body["target_url"] = letter.url
        return Reply(status, encode(body), headers)

    def _undecoded(self, body: bytes, problem: Problem) -> Reply:
        self._counters.sent[problem.code] += 1
        answer = problem.body() | {"message_id": None, "to_cell": None, "origin": "self", "maybe_delivered": False}
        for name, value in (_json_object(body) or {}).items():
            if name in {"message_id", "to_cell"} and isinstance(value, str):
                answer[name] = value[:256]
        return Reply(problem.http_status, encode(answer), tuple(problem.headers()))


class _TargetProblem(Problem):
    """A refusal of the target, passed on."""

    def __init__(self, receipt: Receipt, code: str, error: str) -> None:
        super().__init__("target_error", error)
        self.receipt = receipt
        if code:
            self.code = code

    @property
    def http_status(self) -> int:
        return self.receipt.status


def _expire(future: asyncio.Future[Receipt]) -> None:
    if not future.done():
        future.set_exception(TimeoutError())


def _json_object(text: bytes) -> dict[str, Any] | None:
    try:
        value = msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


__all__ = ["Headers", "Sender"]
