"""Messages to consumers: leases over HTTP, and what is done with dead letters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar, cast

from msgspec import UnsetType

from cellmesh.inbox import Inbox, Leased, LeaseRequest, Settled, Settlement, Verb, WorkFailed
from cellmesh.inbox.clock import iso
from cellmesh.inbox.dead import Named
from cellmesh.protocol.consuming import (
    AckItem,
    DeadAnswer,
    LeaseAnswer,
    NackItem,
    SettledAnswer,
    SettledItem,
    decode_ack,
    decode_dead,
    decode_extend,
    decode_lease,
    decode_nack,
    settled_error,
)
from cellmesh.protocol.messages import Identity, encode
from cellmesh.protocol.problems import Problem
from cellmesh.protocol.receipts import STATES, State
from cellmesh.service.counters import Counters
from cellmesh.service.reply import Answer, Reply, refuse, when_gone

T = TypeVar("T")


class Consumers:
    """Hands messages out to clients, and settles what they say of them.

    Args:
        inbox: where the messages are.
        here: who this instance is.
        counters: where it is counted.

    """

    def __init__(self, inbox: Inbox, here: Identity, counters: Counters) -> None:
        self._inbox = inbox
        self._here = here
        self._counters = counters
        self._open: set[LeaseRequest] = set()
        self._refusing = False

    def lease(self, body: bytes, answer: Answer) -> None:
        """Answer ``POST /messages/lease``: at once, or once there is a message or the wait is over."""
        try:
            if self._refusing:
                raise Problem("draining", "this instance is stopping; ask another one", retry_after=1)
            asked = decode_lease(body)
        except Problem as problem:
            answer(refuse(problem))
            return
        request = LeaseRequest(
            most=int(asked.max),
            lease_ms=max(1, int(asked.lease_seconds * 1000)),
            types=asked.types,
            wait_until=self._inbox.clock.now_ms() + int(asked.wait_seconds * 1000) if asked.wait_seconds else 0,
        )
        self._open.add(request)

        def leased(result: list[Leased] | WorkFailed) -> None:
            self._open.discard(request)
            if isinstance(result, WorkFailed):
                answer(refuse(not_written(result)))
                return
            self._counters.leased += len(result)
            messages = [one.message for one in result]
            given = answer(Reply(200, encode(LeaseAnswer(messages, len(messages), *self._names))))
            if not given and result:
                self._hand_back(result)

        if asked.wait_seconds:
            when_gone(answer, lambda: self._cancel(request))
        self._inbox.lease(request, leased)

    def ack(self, body: bytes, answer: Answer) -> None:
        """Answer ``POST /messages/ack``."""
        self._settle(lambda: [_settlement(Verb.ACK, item) for item in decode_ack(body)], answer)

    def nack(self, body: bytes, answer: Answer) -> None:
        """Answer ``POST /messages/nack``."""
        self._settle(lambda: [_nack(item) for item in decode_nack(body)], answer)

    def extend(self, body: bytes, answer: Answer) -> None:
        """Answer ``POST /messages/extend``."""
        self._settle(
            lambda: [
                _settlement(Verb.EXTEND, item, lease_ms=max(1, int(item.lease_seconds * 1000)))
                for item in decode_extend(body)
            ],
            answer,
        )

    async def dead(self, body: bytes, *, purge: bool) -> DeadAnswer:
        """Put dead letters back, or purge them.

        Raises:
            Problem: the body is wrong, or the disk has no room.

        """
        asked = decode_dead(body)
        items = asked.items if not isinstance(asked.items, UnsetType) else None
        named = None if items is None else [Named(_seq(item.seq), _given(item.message_id)) for item in items]
        change = self._inbox.purge if purge else self._inbox.put_back
        try:
            outcome = await change(named, None if isinstance(asked.reason, UnsetType) else asked.reason)
        except WorkFailed as failed:
            raise not_written(failed) from None
        results: list[SettledItem] = []
        for number, (seq, code) in enumerate(outcome.named):
            message_id = named[number].message_id if named else None
            if code:
                results.append(settled_error(code, seq, message_id))
            else:
                state: State | None = None if purge else "pending"
                results.append(SettledItem(status="ok", http_status=200, seq=seq, message_id=message_id, state=state))
        return DeadAnswer(outcome.changed, self._inbox.gauges.dead, results)

    def refuse(self) -> None:
        """Hand nothing out any more; consumers that wait are answered that there is nothing. Acks are taken."""
        self._refusing = True
        for request in self._open:
            request.cancelled = True
        if self._open:
            self._inbox.poke()

    def _cancel(self, request: LeaseRequest) -> None:
        request.cancelled = True
        self._inbox.poke()

    @property
    def _names(self) -> tuple[str, str]:
        return self._here.cell_id, self._here.instance

    def _settle(self, read: Callable[[], list[Settlement]], answer: Answer) -> None:
        try:
            items = read()
        except Problem as problem:
            answer(refuse(problem))
            return

        def settled(results: list[Settled] | WorkFailed) -> None:
            if isinstance(results, WorkFailed):
                answer(refuse(not_written(results)))
                return
            for item, result in zip(items, results, strict=True):
                self._counters.settled[item.verb.value if not result.code else result.code] += 1
            answer(Reply(200, encode(SettledAnswer([_result(one) for one in results], *self._names))))

        self._inbox.settle(items, settled)

    def _hand_back(self, leased: Sequence[Leased]) -> None:
        """Take back what was handed out to a client that is gone: it never had it."""
        items = [
            Settlement(verb=Verb.NACK, seq=one.message.seq, lease_token=one.lease_token, release=True) for one in leased
        ]
        self._inbox.settle(items, lambda _: None)


def not_written(failed: WorkFailed) -> Problem:
    """Return the problem of a change that could not be written."""
    if failed.disk_full:
        return Problem("disk_full", "the disk of the inbox is full; try again later", retry_after=2)
    return Problem("internal", "it could not be written; see the log of the cell")


def _settlement(verb: Verb, item: AckItem, lease_ms: int = 0) -> Settlement:
    return Settlement(
        verb=verb,
        lease_token=item.lease_token,
        seq=_seq(item.seq),
        message_id=_given(item.message_id),
        lease_ms=lease_ms,
    )


def _nack(item: NackItem) -> Settlement:
    return Settlement(
        verb=Verb.NACK,
        lease_token=item.lease_token,
        seq=_seq(item.seq),
        message_id=_given(item.message_id),
        delay_ms=int(item.delay * 1000),
        reason=item.reason,
        reject=item.reject,
        release=item.release,
    )


def _result(settled: Settled) -> SettledItem:
    if settled.code:
        return settled_error(settled.code, settled.seq, settled.message_id)
    return SettledItem(
        status="ok",
        http_status=200,
        seq=settled.seq,
        message_id=settled.message_id,
        state=cast("State", STATES[settled.state]),
        delivery_count=settled.delivery_count,
        leased_until=iso(settled.leased_until) if STATES[settled.state] == "leased" else None,
    )


def _seq(value: float | UnsetType) -> int | None:
    return None if isinstance(value, UnsetType) else int(value)


def _given(value: T | UnsetType) -> T | None:
    return None if isinstance(value, UnsetType) else value
