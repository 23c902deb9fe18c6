"""The comparison of the books: what was said to be safe, and what was found. Pure.

    forged          an inbox has a message that nobody sent, or not as it was sent
    lost            an acknowledged message is in no inbox, though nobody consumed it and it has not expired
    doubled         a message is in inboxes more than once
    elsewhere       it was acknowledged by one instance and is at another, which was handed nothing over
    misdelivered    it is in the inbox of a cell, mesh or instance it was not for
    refused, stored every answer said that it cannot have been stored, and it is in an inbox
    consumed        it is consumed, and no consumer ever tried to ack it
    rejected        it is dead because it was rejected, and no consumer ever tried to reject it
    expired early   it is dead of age before its time to live was over
    unsettled       it was queued, and its sender still has not settled it
    forgotten       it was queued, and its sender knows nothing of it
    not delivered   its sender says that it is expired, dead or cancelled, and it is in an inbox
    order, and the rules of leasing: too early, handed twice, after ack, acked twice, ack undone

A message sent directly again after an answer that left its fate open may be in another instance's inbox besides the
one that has acknowledged it, because deduplication is per instance; that is counted as ``excused``. So is one that
was sent again to an ephemeral instance which had acknowledged it, and had begun anew since.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from chaos import leasing, ordering
from chaos.evidence import Copy, Evidence, Message, Violation, gather
from chaos.ledger import Fault, Left, Record

#: Least share of attempts that have to end acknowledged, for a run to say something.
LEAST_SHARE = 0.6


@dataclass(kw_only=True)
class Account:
    """The outcome of one run.

    Attributes:
        violations: promises that were not kept.
        counts: what there was of each kind; the keys are words for the report.
        faults: what was done and seen.

    """

    violations: list[Violation] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[Fault] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Share of attempts that were acknowledged."""
        attempts = self.counts["attempts"]
        return self.counts["attempts acknowledged"] / attempts if attempts else 0.0

    @property
    def counted(self) -> list[Fault]:
        """The faults that count."""
        return [fault for fault in self.faults if fault.counts]

    def rules(self) -> Counter[str]:
        """Return how often each rule was violated."""
        return Counter(violation.rule for violation in self.violations)


def compare(records: Iterable[Record], run: str) -> Account:
    """Compare what the writers of a ledger saw.

    Args:
        records: of all writers.
        run: name of the run.

    """
    evidence = gather(records, run)
    account = Account(violations=list(evidence.strays), faults=evidence.faults)
    for message in evidence.messages.values():
        account.violations += _judge(message, evidence, account.counts)
        for copy in message.copies.values():
            account.violations += leasing.check(message, copy, evidence.gone)
    account.violations += ordering.check(evidence.messages.values(), evidence.faults)
    _count(evidence, account.counts)
    return account


def _judge(message: Message, evidence: Evidence, counts: Counter[str]) -> Iterator[Violation]:
    """Say what is wrong with where a message is."""
    here = [copy for copy in message.copies.values() if _stays(copy, evidence)]
    yield from _misdelivered(message, evidence)
    yield from _doubled(message, here, evidence, counts)
    for copy in here:
        yield from _ended(message, copy, evidence)
    if message.begun.queued:
        yield from _queued(message, here, evidence, counts)
    else:
        yield from _direct(message, here, evidence, counts)


def _stays(copy: Copy, evidence: Evidence) -> bool:
    """Tell whether a copy counts as one: its inbox is still there and has it, or it was consumed from it."""
    return copy.acked or (evidence.farewell(copy.place) is None and not evidence.taken_over(copy))


def _misdelivered(message: Message, evidence: Evidence) -> Iterator[Violation]:
    wanted = (message.begun.to_namespace, message.begun.to_cell)
    handed_over = bool(evidence.farewells({message.begun.to_instance}, message.first))
    for copy in message.copies.values():
        wrong = {(one.namespace, one.cell) for one in copy.found} - {wanted}
        other = message.begun.to_instance not in {"", copy.place.instance} and not handed_over
        if wrong or other:
            target = message.begun.to_instance or "/".join(wanted)
            yield Violation("misdelivered", message.number, f"it was for {target} and is at {copy.place}")


def _sent_again(message: Message, copy: Copy, evidence: Evidence) -> bool:
    """Tell whether a message was sent again where nothing was known any more of a copy of it.

    That is after the inbox was gone from which it was consumed; or to an instance that had begun anew since it
    acknowledged it, whose siblings know what it had.
    """
    farewell = evidence.farewell(copy.place)
    if farewell is not None:
        return any(attempt.ended >= farewell.at for attempt in message.attempts)
    place = copy.place
    if not place.life:
        return False
    before = evidence.left[place.instance][place.life - 1].at
    by_it = [one for one in message.attempts if one.acknowledged and one.instance == place.instance]
    return any(one.ended < before for one in by_it) and any(one.ended >= before for one in by_it)


def _doubled(message: Message, here: list[Copy], evidence: Evidence, counts: Counter[str]) -> Iterator[Violation]:
    again = [copy for copy in here if _sent_again(message, copy, evidence)]
    if again:
        counts["excused: sent again to an ephemeral instance that had begun anew"] += 1
        here = [copy for copy in here if copy not in again]
    if len(here) < 2:
        return
    instances = Counter((copy.place.instance, copy.place.life) for copy in here)
    excused = not message.begun.queued and max(instances.values()) == 1
    if excused:
        # Each copy but one needs an attempt that may have made it.
        open_ones = [attempt.instance for attempt in message.attempts if attempt.unclear]
        sure = {attempt.instance for attempt in message.attempts if attempt.acknowledged}
        others = [copy.place.instance for copy in here if copy.place.instance not in sure]
        excused = bool(open_ones) and all(name in open_ones or "" in open_ones for name in others)
    if excused:
        counts["excused: sent again after an open outcome, and at two instances"] += 1
    else:
        places = ", ".join(str(copy.place) for copy in here)
        yield Violation("doubled", message.number, f"it is {places}")


def _ended(message: Message, copy: Copy, evidence: Evidence) -> Iterator[Violation]:
    """Say whether a copy has ended, or vanished, as none may."""
    final = copy.final
    asked = any(copy.asked("ack"))
    if final is None:
        inspected = evidence.inspected.get(copy.place.instance)
        seen_dead = any(one.state == "dead" for one in copy.found)
        if evidence.farewell(copy.place) is not None or asked or seen_dead or any(copy.asked("reject", "nack")):
            return  # consumed, or a dead letter, and no history any more
        if inspected is None:
            yield Violation("ledger", message.number, f"{copy.place}: its inbox was never read to the end")
        elif not message.expired_by(inspected.at) and not message.begun.deadly:
            yield Violation("lost", message.number, f"it was at {copy.place}, and nobody has acked it")
    elif final.state == "consumed" and not asked:
        yield Violation("consumed", message.number, f"{copy.place} is consumed, and no consumer tried to ack it")
    elif final.state == "dead" and final.reason == "rejected" and not any(copy.asked("reject")):
        yield Violation("rejected", message.number, f"{copy.place} is rejected, and no consumer tried to")
    elif final.state == "dead" and final.reason == "expired":
        died = min(max(one.at, one.ended) for one in copy.found if one.state == "dead")
        if not message.expired_by(died):
            yield Violation(
                "expired early", message.number, f"{copy.place} is dead {died - message.first:.1f} s after it"
            )


def _direct(message: Message, here: list[Copy], evidence: Evidence, counts: Counter[str]) -> Iterator[Violation]:
    if not message.acknowledged:
        if any(attempt.unclear for attempt in message.attempts):
            counts["outcome open"] += 1
            counts["outcome open: there"] += bool(here)
        elif message.attempts and message.copies:
            yield Violation("refused, stored", message.number, f"it is at {next(iter(message.copies))}")
        return
    yield from _there(message, {one.instance for one in message.attempts if one.acknowledged}, here, evidence, counts)


def _queued(message: Message, here: list[Copy], evidence: Evidence, counts: Counter[str]) -> Iterator[Violation]:
    outcome = message.outcome
    state = outcome.state if outcome else ""
    if not message.acknowledged and not state:
        if here:
            yield Violation("not delivered", message.number, f"it was never queued, and is at {here[0].place}")
        return
    counts[f"queued: {state or 'unknown to the sender'}"] += 1
    if outcome is None:
        yield Violation("ledger", message.number, "it was queued, and nobody looked what became of it")
    elif not state:
        lefts = [*_senders(message, evidence)]
        if all(left is None for left in lefts):
            yield Violation("forgotten", message.number, f"{outcome.entry} acknowledged it and does not know it")
        elif not here and any(left is not None and not left.handed_over for left in lefts):
            counts["gone with an ephemeral instance that was to send it"] += 1
        elif not here:
            yield Violation("lost", message.number, f"{outcome.entry} acknowledged it, has left, and it is nowhere")
    elif state == "queued" and any(not left.kept for left in evidence.farewells({outcome.instance}, message.first)):
        # Only that one would have recognised it; that it may have it is said when nobody could any more.
        counts["queued: to an ephemeral instance that is gone"] += 1
    elif state == "queued":
        yield Violation("unsettled", message.number, f"{outcome.entry} still has it, after {outcome.attempts} attempts")
    elif state == "delivered":
        yield from _there(message, {outcome.instance} - {""}, here, evidence, counts)
    elif state in {"expired", "dead", "cancelled"}:
        if here:
            yield Violation("not delivered", message.number, f"its sender says {state}, and it is at {here[0].place}")
        if state == "expired" and not message.expired_by(outcome.at):
            yield Violation(
                "expired early", message.number, f"its sender gave it up {outcome.at - message.first:.1f} s after it"
            )


def _senders(message: Message, evidence: Evidence) -> Iterator[Left | None]:
    """Return the farewell of each instance that has queued a message; None: it is still there."""
    for attempt in message.attempts:
        if attempt.acknowledged:
            left = [one for one in evidence.left.get(attempt.entry, []) if one.at >= attempt.ended]
            yield left[0] if left else None


def _there(
    message: Message, by: set[str], here: list[Copy], evidence: Evidence, counts: Counter[str]
) -> Iterator[Violation]:
    """Say whether an acknowledged message is where it should be.

    Args:
        message: which.
        by: the instances that have acknowledged it.
        here: its copies that count.
        evidence: all there is.
        counts: where what is no violation is counted.

    """
    who = " and ".join(sorted(by)) or "an instance that is not named"
    farewells = evidence.farewells(by, message.first)
    gone = [left for left in farewells if not left.kept]
    if not here:
        if message.expired_by(max((one.at for one in farewells), default=0.0)):
            counts["gone with their instance, expired"] += 1
        elif any(copy.may_have_ended for copy in message.copies.values()):
            counts["gone with their instance, ended before"] += 1
        elif gone and not all(left.handed_over for left in gone):
            counts["gone with an ephemeral instance"] += 1
        else:
            yield Violation("lost", message.number, f"acknowledged by {who}, and in no inbox")
        return
    places = {copy.place.instance for copy in message.copies.values()}
    if by and not by & places:
        if farewells:
            counts["handed over"] += 1
        else:
            yield Violation("elsewhere", message.number, f"acknowledged by {who}, and at {here[0].place}")


def _count(evidence: Evidence, counts: Counter[str]) -> None:
    """Count what the report says of a run."""
    for message in evidence.messages.values():
        counts["messages"] += 1
        counts["messages acknowledged"] += message.acknowledged
        counts["sent directly"] += not message.begun.queued
        for attempt in message.attempts:
            counts["attempts"] += 1
            counts["attempts acknowledged"] += attempt.acknowledged
            counts["attempts without an answer"] += attempt.status == 0
            counts["answered as known already"] += attempt.duplicate
        counts["in an inbox"] += bool(message.copies)
        for copy in message.copies.values():
            counts["handed to consumers"] += len(copy.handed)
            counts["handed out again"] += max(0, len(copy.handed) - 1)
            counts["consumed"] += copy.acked
            final = copy.final
            if final is not None and final.state == "dead":
                counts[f"dead letters: {final.reason}"] += 1
            elif final is not None:
                counts[f"found {final.state}"] += 1
            elif copy.found:
                counts["seen earlier, history trimmed"] += 1
