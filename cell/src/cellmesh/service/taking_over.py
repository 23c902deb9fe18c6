"""Messages from siblings: what another instance of this cell hands over because it ends, or has kept for this one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cellmesh.inbox import Inbox, Outcome, Verdict, WorkFailed
from cellmesh.inbox.moving import handed_over
from cellmesh.inbox.transaction import Transaction
from cellmesh.protocol.handover import (
    HandedRecord,
    HandoverAnswer,
    HandoverItem,
    accept_handed,
    decode_handover,
)
from cellmesh.protocol.messages import Checked, Identity, encode
from cellmesh.protocol.problems import Problem
from cellmesh.service.counters import Counters
from cellmesh.service.receiving import problem_of
from cellmesh.service.replies import Claim, Replies
from cellmesh.service.reply import Answer, Reply, refuse

#: What is stored of a request: an outcome for each message, and why the records are not, if they are not.
_Stored = tuple[list[Outcome], Verdict | None]


class TakingOver:
    """Takes what siblings hand over into the inbox.

    Args:
        inbox: where it goes.
        here: who this instance is.
        replies: who waits for a reply; one may have been left with a sibling.
        kept: told the instances that messages were taken for which are not for this one.
        counters: where it is counted.

    """

    def __init__(
        self, inbox: Inbox, here: Identity, replies: Replies, kept: Callable[[str], None], counters: Counters
    ) -> None:
        self._inbox = inbox
        self._here = here
        self._replies = replies
        self._kept = kept
        self._counters = counters
        self.refusing = False

    def handover(self, body: bytes, answer: Answer) -> None:
        """Answer ``POST /handover`` once all that can be taken is on disk."""
        try:
            if self.refusing:
                raise Problem("draining", "this instance is stopping itself; ask another one", retry_after=1)
            handover = decode_handover(body, self._here)
        except Problem as problem:
            answer(refuse(problem))
            return
        good: list[Checked] = []
        claims: list[Claim | None] = []
        refused: list[HandoverItem | None] = []
        now = self._inbox.clock.now_ms()
        for handed in handover.messages:
            handed.log.append(handed_over(handover.from_instance, now))
            try:
                checked = accept_handed(handed, handover.from_instance, self._here)
            except Problem as problem:
                refused.append(_refused(handed.message.message_id, problem))
                continue
            good.append(checked)
            claims.append(self._replies.claim(handed.message, checked))
            refused.append(None)

        def store(tx: Transaction) -> _Stored:
            return self._store(tx, good, handover.records, handover.from_instance)

        def stored(result: _Stored | WorkFailed) -> None:
            outcomes = [] if isinstance(result, WorkFailed) else result[0]
            for number, claim in enumerate(claims):
                if claim is not None:
                    claim.settle(outcomes[number] if outcomes else None)
            if isinstance(result, WorkFailed):
                verdict = Verdict.DISK_FULL if result.disk_full else Verdict.FAILED
                answer(refuse(problem_of(verdict, "", self._inbox)))
                return
            if result[1] is not None and not handover.messages:
                answer(refuse(problem_of(result[1], "", self._inbox)))
                return
            records = len(handover.records) if result[1] is None else 0
            self._note(good, outcomes, records)
            items = iter([self._item(checked, outcome) for checked, outcome in zip(good, outcomes, strict=True)])
            results = [item or next(items) for item in refused]
            said = HandoverAnswer(results, records, self._here.cell_id, self._here.instance)
            answer(Reply(200, encode(said)))

        try:
            self._inbox.writer.submit(store, stored)
        except BaseException:
            for claim in claims:
                if claim is not None:
                    claim.settle(None)
            raise

    def _store(
        self, tx: Transaction, good: Sequence[Checked], records: Sequence[HandedRecord], from_instance: str
    ) -> _Stored:
        outcomes = self._inbox.siblings.take(tx, good, from_instance, self._here.instance) if good else []
        return outcomes, self._inbox.siblings.take_records(tx, records) if records else None

    def _note(self, good: Sequence[Checked], outcomes: Sequence[Outcome], records: int) -> None:
        self._counters.taken_over["records"] += records
        for checked, outcome in zip(good, outcomes, strict=True):
            stored = outcome.verdict is Verdict.STORED
            self._counters.taken_over["messages"] += stored
            if stored and checked.special is not None and checked.special.moving_to is not None:
                self._kept(checked.special.moving_to)

    def _item(self, checked: Checked, outcome: Outcome) -> HandoverItem:
        if outcome.verdict in {Verdict.STORED, Verdict.DUPLICATE}:
            return HandoverItem(
                status="ok",
                http_status=200,
                message_id=checked.message_id,
                duplicate=outcome.verdict is Verdict.DUPLICATE,
            )
        return _refused(checked.message_id, problem_of(outcome.verdict, checked.message_id, self._inbox))


def _refused(message_id: str, problem: Problem) -> HandoverItem:
    return HandoverItem(
        status="error",
        http_status=problem.http_status,
        message_id=message_id,
        code=problem.code,
        error=problem.message,
    )
