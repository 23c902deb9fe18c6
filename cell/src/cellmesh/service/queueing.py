"""Messages to be sent later, for certain: queued on disk, answered 202, and what became of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence

import msgspec

from cellmesh.inbox import Verdict
from cellmesh.inbox.clock import SteadyClock, iso
from cellmesh.inbox.transaction import WorkFailed
from cellmesh.outbox import Outbox, Parcel
from cellmesh.outbox.changing import Changed
from cellmesh.outbox.outcomes import Outcome
from cellmesh.protocol.deduplication import fingerprint
from cellmesh.protocol.fields import DEFAULT_TYPE, is_cell_id
from cellmesh.protocol.messages import CellMessage, encode
from cellmesh.protocol.problems import Problem, invalid
from cellmesh.protocol.queueing import SENT_STATES, Queued, QueuedCopies, QueuedCopy, SentCopies, SentMessage, overall
from cellmesh.protocol.sends import SendRequest
from cellmesh.service.counters import Counters
from cellmesh.service.dispatching import Dispatcher
from cellmesh.service.reply import Answer, Reply, failure

#: Seconds after which a program may try again when the disk is full.
FULL_RETRY_AFTER = 2

_decode_any = msgspec.json.Decoder().decode


class Queueing:
    """Queues messages and says what became of them.

    Args:
        outbox: where they are queued.
        dispatcher: what delivers them.
        clock: of the outbox.
        counters: where outcomes are counted.

    """

    def __init__(self, outbox: Outbox, dispatcher: Dispatcher, clock: SteadyClock, counters: Counters) -> None:
        self._outbox = outbox
        self._dispatcher = dispatcher
        self._clock = clock
        self._counters = counters
        self._loop = asyncio.get_running_loop()

    def queue(self, request: SendRequest, message: CellMessage, answer: Answer) -> None:
        """Answer ``POST /send`` with ``mode: queued``."""
        try:
            _check(request, message.to_cell or "")
        except Problem as problem:
            answer(self._refuse(problem, message))
            return
        parcel = self._parcel(request, message, request.to_instance)

        def stored(outcomes: Sequence[Outcome]) -> None:
            try:
                reply = self._reply(parcel, outcomes[0])
            except Exception as error:
                reply = failure("POST /send", error)
            answer(reply)

        self._outbox.put((parcel,), stored)

    async def queue_copies(
        self, request: SendRequest, message: CellMessage, receivers: Sequence[tuple[str, str | None]]
    ) -> Reply:
        """Queue a copy for each of several receivers (cell, and instance or None for any), all at once.

        Raises:
            Problem: they are not queued.

        """
        parcels = []
        for cell, instance in receivers:
            _check(request, cell)
            copy = msgspec.structs.replace(message, to_cell=cell)
            parcels.append(self._parcel(request, copy, instance, copy=True))
        stored: asyncio.Future[Sequence[Outcome]] = self._loop.create_future()
        self._outbox.put(parcels, lambda outcomes: None if stored.done() else stored.set_result(outcomes))
        first = (await stored)[0]
        copies = [QueuedCopy(cell, instance) for cell, instance in receivers]
        state = None
        duplicate = first.verdict is Verdict.DUPLICATE
        if duplicate:
            # The receivers are those of the first time, as far as they are still known.
            found = await self._outbox.find(message.message_id)
            copies = [QueuedCopy(one.to_cell, one.to_instance, one.state) for one in found] or copies
            state = overall(found).state if found else None
        elif first.verdict is not Verdict.STORED:
            raise self._problem(first.verdict)
        else:
            self._counters.queued += len(parcels)
        return Reply(
            202,
            encode(
                QueuedCopies(
                    status="queued",
                    message_id=message.message_id,
                    to_cell=list(dict.fromkeys(copy.to_cell for copy in copies)),
                    timestamp=iso(first.queued_at or parcels[0].queued_at),
                    results=copies,
                    count=len(copies),
                    duplicate=duplicate,
                    state=state,
                )
            ),
        )

    def _parcel(
        self, request: SendRequest, message: CellMessage, instance: str | None, *, copy: bool = False
    ) -> Parcel:
        given = request.message_id is not None
        parcel = Parcel(message, instance or "", self._clock.now_ms(), given=given, copy=copy)
        if given:
            parcel.fingerprint = content(parcel)
        return parcel

    def _reply(self, parcel: Parcel, outcome: Outcome) -> Reply:
        """Return what is answered to a message that was to be queued."""
        message, verdict = parcel.message, outcome.verdict
        if verdict is Verdict.STORED or verdict is Verdict.DUPLICATE:
            duplicate = verdict is Verdict.DUPLICATE
            self._counters.queued += not duplicate
            queued = Queued(
                "queued",
                message.message_id,
                message.to_cell or "",
                iso(outcome.queued_at or parcel.queued_at),
                duplicate,
                SENT_STATES[outcome.state] if duplicate and outcome.state is not None else None,  # type: ignore[arg-type]
            )
            return Reply(202, encode(queued))
        return self._refuse(self._problem(verdict), message)

    def _problem(self, verdict: Verdict) -> Problem:
        """Return why a message was not queued."""
        if verdict is Verdict.CONFLICT:
            return Problem(
                "id_conflict",
                "message_id: it was queued before with another type or payload; a new message needs a new id",
                field="message_id",
            )
        if verdict is Verdict.INBOX_FULL:
            return Problem("outbox_full", "the outbox is full; try again later", retry_after=self._outbox.retry_after())
        if verdict is Verdict.DISK_FULL:
            return Problem("disk_full", "the disk of the outbox is full; try again later", retry_after=FULL_RETRY_AFTER)
        return Problem("internal", "the message could not be queued; see the log of the cell")

    async def find(self, message_id: str) -> SentMessage | SentCopies:
        """Return what became of a message; with the results by receiver if it was queued to several.

        Raises:
            Problem: ``unknown_message``.

        """
        found = await self._outbox.find(message_id)
        if not found:
            raise Problem(
                "unknown_message", "message_id: no queued message with this id is kept here", field="message_id"
            )
        for message in found:
            self._dispatcher.explain(message)
        return found[0] if len(found) == 1 else overall(found)

    async def page(self, limit: int, *, state: str | None, after: int | None) -> list[SentMessage]:
        """Return messages in the order of their positions; see ``outbox.reading.page``."""
        found = await self._outbox.page(limit, state=state, after=after)
        for message in found:
            self._dispatcher.explain(message)
        return found

    async def cancel(self, message_id: str) -> SentMessage | SentCopies:
        """Take a message back.

        Raises:
            Problem: ``unknown_message``; ``not_queued`` if it has ended, or may have been stored by now.

        """
        changed = await _written(self._outbox.cancel(message_id))
        found = await self.find(message_id)
        if not changed.changed:
            raise Problem("not_queued", _why_not(found), field="message_id")
        return found

    async def retry(self, message_id: str) -> SentMessage | SentCopies:
        """Queue a message again that was not delivered.

        Raises:
            Problem: ``unknown_message``; ``not_ended`` if it is queued or delivered; there is no room.

        """
        changed = await _written(self._outbox.retry(message_id))
        if changed.refusal is not None:
            raise self._problem(changed.refusal)
        for one in changed.requeued:
            self._dispatcher.wake(*one)
        found = await self.find(message_id)
        if not changed.changed:
            raise Problem(
                "not_ended", f"message_id: it is {found.state}; there is nothing to retry", field="message_id"
            )
        return found

    def _refuse(self, problem: Problem, message: CellMessage) -> Reply:
        self._counters.sent[problem.code] += 1
        body = problem.body() | {
            "message_id": message.message_id,
            "to_cell": message.to_cell,
            "origin": "self",
            "maybe_delivered": False,
        }
        return Reply(problem.http_status, encode(body), tuple(problem.headers()))


def content(parcel: Parcel) -> bytes:
    """Return what tells whether two messages of one id to one receiver are the same."""
    message = parcel.message
    return fingerprint("", message.message_type or DEFAULT_TYPE, _decode_any(parcel.payload))


def _check(request: SendRequest, cell: str) -> None:
    if request.await_reply is not None:
        raise invalid("await_reply", "only with mode direct; a queued message is answered before it is delivered")
    if not is_cell_id(cell):
        raise Problem("unknown_cell", f"to_cell: {cell[:80]!r} cannot be a cell's name", field="to_cell")


async def _written(change: Awaitable[Changed]) -> Changed:
    try:
        return await change
    except WorkFailed as error:
        code = "disk_full" if error.disk_full else "internal"
        raise Problem(code, "that could not be written; try again later", retry_after=FULL_RETRY_AFTER) from None


def _why_not(found: SentMessage | SentCopies) -> str:
    if found.state == "queued":
        return "message_id: it has been sent, and its receiver may have it; it cannot be taken back any more"
    return f"message_id: it is {found.state}; only what is queued can be cancelled"
