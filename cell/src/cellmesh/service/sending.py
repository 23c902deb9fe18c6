"""``POST /send``: what a program asks its cell to send, and what it is answered."""

from __future__ import annotations

import asyncio

from msgspec import Raw

from cellmesh.inbox.clock import SteadyClock, iso
from cellmesh.protocol.messages import CellMessage, Identity, encode
from cellmesh.protocol.problems import Problem
from cellmesh.protocol.receipts import Delivered, StoredMessage
from cellmesh.protocol.sends import DEFAULT_TIMEOUT, SendRequest, decode_send
from cellmesh.service.broadcasting import Broadcaster
from cellmesh.service.counters import Counters
from cellmesh.service.delivering import Courier
from cellmesh.service.letters import Letter, failed, no_reply, not_begun, stopping
from cellmesh.service.queueing import Queueing
from cellmesh.service.receiving import new_id
from cellmesh.service.replies import Replies, Waiter
from cellmesh.service.reply import Answer, Awaited, Reply, failure, when_gone


class Sender:
    """Sends messages of this cell to others.

    Args:
        here: who this instance is.
        courier: what takes messages to others.
        broadcaster: what takes messages to several receivers.
        queueing: what queues them.
        replies: who waits for replies, and where they go.
        clock: for timestamps.
        counters: where outcomes are counted.

    """

    def __init__(
        self,
        here: Identity,
        courier: Courier,
        broadcaster: Broadcaster,
        queueing: Queueing,
        replies: Replies,
        clock: SteadyClock,
        counters: Counters,
    ) -> None:
        self._here = here
        self._courier = courier
        self._broadcaster = broadcaster
        self._queueing = queueing
        self._replies = replies
        self._clock = clock
        self._counters = counters
        self._under_way: set[asyncio.Task[Reply]] = set()
        self._loop = asyncio.get_running_loop()
        self.refusing = False

    async def submit(self, body: bytes) -> Reply:
        """Do what ``POST /send`` does for the cell's own code, which may still send while the cell drains."""
        awaited = Awaited()
        self.send(body, awaited, own=True)
        return await awaited.reply()

    def send(self, body: bytes, answer: Answer, *, own: bool = False) -> None:
        """Answer ``POST /send``; ``own``: it is the cell's own code that asks."""
        try:
            if self.refusing and not own:
                raise draining()
            request = decode_send(body)
        except Problem as problem:
            answer(self._failed(not_begun(problem, body), problem))
            return
        if request.mode == "queued" and not request.several and request.reply_to is None:
            # Nothing is to be waited for but the disk: no task is needed.
            self._queueing.queue(request, self._message(request), answer)
            return
        task = self._loop.create_task(self._send(request, body, answer))
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

    async def _send(self, request: SendRequest, body: bytes, answer: Answer) -> Reply:
        message = self._message(request)
        if not request.several and request.mode != "queued":
            return await self._carry(Letter(request, message, self._loop.time()), answer)
        try:
            if request.mode == "queued":
                return await self._queue(request, message)
            return await self._broadcaster.send(request, message, self._carry)
        except Problem as problem:
            return self._failed(not_begun(problem, body), problem)
        except asyncio.CancelledError:
            stopped = draining()
            return self._failed(not_begun(stopped, body), stopped)

    async def _queue(self, request: SendRequest, message: CellMessage) -> Reply:
        """Queue a message, to all of its receivers as they are now, or to the instance that a reply is for."""
        if request.several:
            receivers = await self._broadcaster.receivers(request, request.timeout or DEFAULT_TIMEOUT)
            return await self._queueing.queue_copies(
                request, message, [(receiver.cell, receiver.instance) for receiver in receivers]
            )
        message.for_instance = await self._replies.home(request)
        awaited = Awaited()
        self._queueing.queue(request, message, awaited)
        return await awaited.reply()

    async def _carry(self, letter: Letter, answer: Answer | None = None) -> Reply:
        """Deliver one message and return what is said of it."""
        request = letter.request
        try:
            if request.reply_to is not None:
                letter.home = await self._replies.home(request)
            if request.await_reply is not None:
                return await self._ask(letter, request.await_reply, answer)
            await self._courier.deliver(letter)
        except Problem as problem:
            return self._failed(failed(letter, problem), problem)
        except asyncio.CancelledError:
            stopped = stopping(letter)
            return self._failed(failed(letter, stopped), stopped)
        return self._delivered(letter)

    async def _ask(self, letter: Letter, seconds: float, answer: Answer | None) -> Reply:
        """Deliver a message and wait for the reply to it.

        Raises:
            Problem: it was not delivered, or there was no reply.

        """
        key = letter.message.message_id, letter.to_cell
        # From now on: a reply may overtake the acknowledgement.
        waiter = self._replies.expect(*key)
        if answer is not None:
            when_gone(answer, waiter.end)
        try:
            reply = await self._answered(letter, waiter, seconds)
        finally:
            self._replies.forget(*key, waiter)
        self._counters.asked["reply" if reply is not None else "reply_timeout"] += 1
        if reply is None:
            raise no_reply(letter, f"within {seconds:g} s")
        return self._delivered(letter, reply)

    async def _answered(self, letter: Letter, waiter: Waiter, seconds: float) -> StoredMessage | None:
        try:
            await self._courier.deliver(letter)
            if letter.repeated:
                # It was sent before, and may have been answered before: the reply is not sent again.
                known = await self._replies.known(letter.message.message_id, letter.to_cell)
                if known is not None:
                    return known
            return await waiter.reply(seconds)
        except (Problem, asyncio.CancelledError):
            # A reply says more than an acknowledgement; one that has been taken must not be lost.
            reply = await waiter.last()
            if reply is None:
                raise
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

    def _message(self, request: SendRequest) -> CellMessage:
        return CellMessage(
            message_id=request.message_id or new_id(),
            from_cell=self._here.cell_id,
            to_cell=request.to_cell if isinstance(request.to_cell, str) else None,
            message_type=request.message_type,
            payload=request.payload,
            timestamp=iso(self._clock.now_ms()),
            priority=request.priority,
            ttl=request.ttl,
            reply_to=request.reply_to,
            conversation_id=request.conversation_id,
            not_before=request.not_before,
            traceparent=request.traceparent,
            tracestate=request.tracestate,
            from_namespace=self._here.namespace,
            from_instance=self._here.instance,
            to_namespace=self._here.namespace,
        )

    def _delivered(self, letter: Letter, reply: StoredMessage | None = None) -> Reply:
        self._counters.sent["delivered"] += 1
        message = letter.message
        response = Raw(letter.receipt.body) if letter.receipt is not None else _said_by(reply)
        return Reply(
            200,
            encode(
                Delivered(
                    "delivered",
                    message.message_id,
                    letter.to_cell,
                    letter.url or "",
                    response,
                    iso(self._clock.now_ms()),
                    reply,
                )
            ),
        )

    def _failed(self, reply: Reply, problem: Problem) -> Reply:
        self._counters.sent[problem.code] += 1
        return reply


def draining() -> Problem:
    """Return the problem of a send to a cell that is stopping."""
    return Problem("draining", "this instance is stopping; ask another one", retry_after=1)


def _said_by(reply: StoredMessage | None) -> Raw:
    """Return what stands for an acknowledgement that never came, though the reply has."""
    said = {} if reply is None else {"cell_id": reply.from_cell, "instance": reply.from_instance}
    return Raw(encode({"acknowledged": True} | said))
