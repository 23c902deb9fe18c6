"""Rules about what consumers were handed, for one copy of a message at a time. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from chaos.evidence import PERHAPS, Copy, Message, Violation
from chaos.ledger import Handed, Return

#: Seconds by which the ledger's wall clock and the cell's steady one may drift apart during a lease.
DRIFT = 0.05


def check(message: Message, copy: Copy, gone: Mapping[str, float]) -> Iterator[Violation]:
    """Say what is wrong with how a copy of a message was handed out.

    Args:
        message: which.
        copy: of it, with who was handed it, and what they asked for it.
        gone: when the lives of consumers ended.

    """
    number = message.number
    if copy.handed and message.begun.not_before:
        early = copy.handed[0]
        if early.ended < message.first + message.begun.not_before - DRIFT:
            after = early.ended - message.first
            yield Violation("too early", number, f"{copy.place} was handed out {after:.2f} s after it was sent")
    for before, after_it in zip(copy.handed, copy.handed[1:], strict=False):
        yield from _twice(copy, before, after_it, gone)
    done = [one for one in copy.returned if one.action == "ack" and one.status == 200]
    for ack in done:
        if later := [one for one in copy.handed if one.began > ack.ended]:
            yield Violation("after ack", number, f"{copy.place} was acked, and then handed to {later[0].consumer}")
    if len({ack.token for ack in done}) > 1:
        yield Violation("acked twice", number, f"{copy.place}: the acks of {len(done)} leases were taken")
    final = copy.final
    if final is not None and done and final.state != "consumed" and final.at > done[0].ended:
        yield Violation("ack undone", number, f"{copy.place} was acked, and was found {final.state} later")


def _twice(copy: Copy, before: Handed, again: Handed, gone: Mapping[str, float]) -> Iterator[Violation]:
    """Say whether a message was handed out again though its lease had not run out."""
    deadline = before.began + before.lease
    back: list[Return] = []
    for given in copy.returned:
        if given.token != before.token:
            continue
        if given.action == "extend" and given.status in PERHAPS and given.began < again.ended:
            # It ends that long from then, be that later or earlier; which of the two, only an answer tells.
            ends = given.began + given.lease
            deadline = ends if given.status == 200 and given.ended <= again.began else min(deadline, ends)
        elif given.action in {"nack", "release", "reject"} and given.status in PERHAPS and given.began < again.ended:
            back.append(given)
    if before.inside and gone.get(before.consumer, again.ended) < again.ended:
        return  # the process that held it is dead, and its leases with it
    if back:
        # Of a nack whose answer is known, the delay is too.
        known = [given.began + given.delay for given in back if given.action == "nack"]
        deadline = min(deadline, *known) if len(known) == len(back) else 0.0
    if again.ended < deadline - DRIFT:
        early = deadline - again.ended
        yield Violation(
            "handed twice",
            copy.number,
            f"{copy.place} was handed to {again.consumer} {early:.2f} s before the lease of {before.consumer} ran out",
        )
