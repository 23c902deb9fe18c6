"""Messages in: decode, check, store, and only then acknowledge.

Callbacks, not coroutines, from the socket to the writer thread and back: on this path a task and a future
for each message would cost as much as writing it.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from functools import partial

from msgspec import Raw

from cellmesh.inbox import Inbox, Outcome, Verdict
from cellmesh.inbox.clock import iso
from cellmesh.protocol.messages import (
    CellMessage,
    Checked,
    Identity,
    accept,
    decode_batch,
    decode_legacy,
    decode_message,
    encode,
)
from cellmesh.protocol.problems import Problem, invalid
from cellmesh.protocol.receipts import BatchItem, Durability, LegacyReceipt, Receipt
from cellmesh.service.counters import Counters
from cellmesh.service.replies import Replies
from cellmesh.service.reply import Answer, Reply, failure, refuse

log = logging.getLogger(__name__)

#: Seconds after which a sender may try again when the disk is full.
FULL_RETRY_AFTER = 2

#: The position of a message among those stored together, and what is told its outcome; None: it was not tried.
Interested = tuple[int, Callable[[Outcome | None], None]]


def new_id() -> str:
    """Return a new message id: a UUID of version 7 (RFC 9562), which grows with time.

    Neighbours in time are neighbours in the receiver's index, so a group commit writes few of its pages.
    """
    number = time.time_ns() // 1_000_000 << 80 | int.from_bytes(os.urandom(10))
    text = f"{number & ~(0xF << 76 | 0x3 << 62) | 0x7 << 76 | 0x2 << 62:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


class Receiver:
    """Takes messages into the inbox.

    Args:
        inbox: where they go.
        here: who this instance is.
        replies: who waits for a reply.
        kept: told the instances that messages were taken for which are not for this one.
        durability: what receipts say of the data directory.
        offer: messages and bytes of a batch, offered to senders and enforced.
        counters: where outcomes are counted.

    """

    def __init__(
        self,
        inbox: Inbox,
        here: Identity,
        replies: Replies,
        kept: Callable[[str], None],
        durability: Durability,
        offer: tuple[int, int],
        counters: Counters,
    ) -> None:
        self._inbox = inbox
        self._here = here
        self._replies = replies
        self._kept = kept
        self._durability = durability
        self._batch_messages = offer[0]
        self._headers = ((b"cellmesh-batch", b"%d,%d" % offer),)
        self._counters = counters
        self.refusing = False

    def message(self, body: bytes, answer: Answer) -> None:
        """Answer ``POST /message``; the offer of batches goes with every answer."""
        try:
            self._check_open()
            message = decode_message(body, new_id)
            checked = self._accept(message)
        except Problem as problem:
            reply = self._refuse(problem)
            answer(Reply(reply.status, reply.body, self._headers + reply.headers))
            return

        def say(outcomes: Sequence[Outcome]) -> Reply:
            reply = self._receipt(checked, outcomes[0])
            return Reply(reply.status, reply.body, self._headers + reply.headers)

        special = message.reply_to is not None or checked.special is not None
        self._store((checked,), say, answer, self._interested((message,), (checked,)) if special else ())

    def legacy(self, body: bytes, answer: Answer) -> None:
        """Answer ``POST /message/legacy``."""
        try:
            self._check_open()
            message = decode_legacy(body, new_id)
            checked = self._accept(message)
        except Problem as problem:
            answer(self._refuse(problem))
            return

        def say(outcomes: Sequence[Outcome]) -> Reply:
            reply = self._receipt(checked, outcomes[0])
            if reply.status != 200:
                return reply
            received_at = iso(outcomes[0].received_at)
            return Reply(200, encode(LegacyReceipt("received", checked.message_id, received_at, self._here.cell_id)))

        self._store((checked,), say, answer, self._interested((message,), (checked,)))

    def batch(self, body: bytes, answer: Answer) -> None:
        """Answer ``POST /message/batch``: one outcome per item, whatever the others are."""
        self._take_batch(body, answer, ordered=False)

    def ordered_batch(self, body: bytes, answer: Answer) -> None:
        """Answer a batch that is to be stored in order: behind an item without room none of its priority is."""
        self._take_batch(body, answer, ordered=True)

    def _take_batch(self, body: bytes, answer: Answer, *, ordered: bool) -> None:
        try:
            self._check_open()
            items = decode_batch(body, new_id)
            if not items:
                raise invalid("body", "an empty array; send at least one message")
            if len(items) > self._batch_messages:
                raise Problem(
                    "body_too_large",
                    f"body: {len(items)} messages; at most {self._batch_messages} in one batch, send several",
                    field="body",
                )
        except Problem as problem:
            answer(self._refuse(problem))
            return
        self._counters.batches_received += 1
        good: list[Checked] = []
        messages: list[CellMessage] = []
        refused: list[BatchItem | None] = []
        for item in items:
            try:
                if isinstance(item, Problem):
                    raise item
                good.append(self._accept(item))
                messages.append(item)
                refused.append(None)
            except Problem as problem:
                reply = self._refuse(problem)
                refused.append(BatchItem(reply.status, Raw(reply.body)))

        def say(outcomes: Sequence[Outcome]) -> Reply:
            receipts = map(self._item, good, outcomes)
            return Reply(200, encode([item or next(receipts) for item in refused]))

        if good:
            self._store(good, say, answer, self._interested(messages, good), ordered=ordered)
        else:
            answer(say([]))

    def _store(
        self,
        items: Sequence[Checked],
        say: Callable[[Sequence[Outcome]], Reply],
        answer: Answer,
        interested: Sequence[Interested],
        *,
        ordered: bool = False,
    ) -> None:
        """Store messages and answer with what ``say`` makes of the outcomes; whatever happens, answer.

        Before that, those who are interested in a message hear of its outcome.
        """

        def stored(outcomes: Sequence[Outcome]) -> None:
            for position, tell in interested:
                tell(outcomes[position])
            try:
                reply = say(outcomes)
            except Exception as error:
                reply = failure("a receipt", error)
            answer(reply)

        try:
            self._inbox.put(items, stored, ordered=ordered)
        except BaseException:
            for _, tell in interested:
                tell(None)
            raise

    def _interested(self, messages: Sequence[CellMessage], checked: Sequence[Checked]) -> list[Interested]:
        """Return who wants to hear of messages: those who wait for a reply, and who passes messages on."""
        found: list[Interested] = []
        for position, (message, one) in enumerate(zip(messages, checked, strict=True)):
            if one.special is not None and one.special.moving_to is not None:
                found.append((position, partial(self._tell, one.special.moving_to)))
            elif self._replies and (claim := self._replies.claim(message, one)) is not None:
                found.append((position, claim.settle))
        return found

    def _tell(self, instance: str, outcome: Outcome | None) -> None:
        if outcome is not None and outcome.verdict is Verdict.STORED:
            self._kept(instance)

    def _accept(self, message: CellMessage) -> Checked:
        if self.refusing and not self._replies.awaits(message):
            raise _draining()
        return accept(message, self._here)

    def _item(self, checked: Checked, outcome: Outcome) -> BatchItem:
        reply = self._receipt(checked, outcome)
        return BatchItem(reply.status, Raw(reply.body))

    def _check_open(self) -> None:
        # Replies that somebody waits for are part of what is under way, and still taken.
        if self.refusing and not self._replies:
            raise _draining()

    def _receipt(self, checked: Checked, outcome: Outcome) -> Reply:
        verdict = outcome.verdict
        duplicate = verdict is Verdict.DUPLICATE
        if duplicate or verdict is Verdict.STORED:
            self._counters.received["duplicate" if duplicate else "stored"] += 1
            return Reply(
                200,
                encode(
                    Receipt(
                        "received",
                        checked.message_id,
                        True,
                        iso(outcome.received_at),
                        self._here.cell_id,
                        self._here.instance,
                        self._durability,
                        duplicate,
                    )
                ),
            )
        return self._refuse(problem_of(verdict, checked.message_id, self._inbox))

    def _refuse(self, problem: Problem) -> Reply:
        self._counters.received[problem.code] += 1
        return refuse(problem)


def _draining() -> Problem:
    return Problem("draining", "this instance is stopping; send to another one, or again in a moment", retry_after=1)


def problem_of(verdict: Verdict, message_id: str, inbox: Inbox) -> Problem:
    """Return the problem of a message that was not stored."""
    if verdict is Verdict.CONFLICT:
        return Problem(
            "id_conflict",
            "message_id: this sender used it before for another message; a new message needs a new id",
            field="message_id",
        )
    if verdict is Verdict.INBOX_FULL:
        return Problem("inbox_full", "the inbox is full; try again later", retry_after=inbox.retry_after())
    if verdict is Verdict.DISK_FULL:
        return Problem("disk_full", "the disk of the inbox is full; try again later", retry_after=FULL_RETRY_AFTER)
    return Problem("internal", f"the message {message_id} could not be stored; see the log of the cell")
