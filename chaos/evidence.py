"""What a ledger says, put together: by message, and by position in an inbox. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar, cast

from chaos.ledger import (
    Attempt,
    Begun,
    Fault,
    Found,
    Gone,
    Handed,
    Inspected,
    Left,
    Outcome,
    Record,
    Return,
    seal,
)

R = TypeVar("R", bound=Record)

#: Statuses of a return that may have been done: it was about to be asked, not answered, or done.
PERHAPS = frozenset({-1, 0, 200})
#: How often a message is handed out until it is a dead letter.
MAX_DELIVERIES = 5


class Violation(NamedTuple):
    """A promise that was not kept: which rule, for which message, and what was seen."""

    rule: str
    number: int
    text: str


class Place(NamedTuple):
    """A position in an inbox. ``life`` counts the inboxes that an instance of this name had before."""

    instance: str
    life: int
    seq: int

    def __str__(self) -> str:
        return f"{self.instance}{f' (life {self.life + 1})' if self.life else ''} at {self.seq}"


@dataclass(kw_only=True)
class Copy:
    """A message at one place, and everything that was seen of it there."""

    place: Place
    number: int
    found: list[Found] = field(default_factory=list)
    handed: list[Handed] = field(default_factory=list)
    returned: list[Return] = field(default_factory=list)

    @property
    def final(self) -> Found | None:
        """How the last reading of the inbox found it; None: it was not there any more."""
        return next((one for one in reversed(self.found) if one.final), None)

    def asked(self, *actions: str) -> Iterator[Return]:
        """Return what was asked of these kinds and may have been done."""
        return (one for one in self.returned if one.action in actions and one.status in PERHAPS)

    @property
    def acked(self) -> bool:
        """Whether a consumer knows that its ack was taken."""
        return any(one.status == 200 for one in self.asked("ack"))

    @property
    def may_have_ended(self) -> bool:
        """Whether it may have been consumed or a dead letter, which nobody takes over."""
        if any(one.state in {"consumed", "dead"} for one in self.found) or any(self.asked("ack", "reject")):
            return True
        return len(self.handed) >= MAX_DELIVERIES


@dataclass(kw_only=True)
class Message:
    """A message, and everything that was seen of it."""

    begun: Begun
    attempts: list[Attempt] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    copies: dict[Place, Copy] = field(default_factory=dict)

    @property
    def number(self) -> int:
        """Its number."""
        return self.begun.number

    @property
    def acknowledged(self) -> bool:
        """Whether an answer has said that it is on disk: at the receiver, or at the sender if it was queued."""
        return any(attempt.acknowledged for attempt in self.attempts)

    @property
    def outcome(self) -> Outcome | None:
        """What its sender said of it last."""
        return max(self.outcomes, key=lambda one: one.at, default=None)

    @property
    def first(self) -> float:
        """When it was sent for the first time: nothing can have had it before."""
        return min((attempt.began for attempt in self.attempts), default=self.begun.at)

    def expired_by(self, at: float) -> bool:
        """Tell whether its time to live may be over at a moment."""
        return self.begun.ttl > 0 and at >= self.first + self.begun.ttl


@dataclass(kw_only=True)
class Evidence:
    """All that one ledger says.

    Attributes:
        messages: by number.
        strays: what was found and cannot be brought together with a message.
        inspected: last readings, by instance.
        left: instances that are gone for good with their inboxes, by name, in the order of time.
        resting: the same of those whose inbox was kept.
        gone: when the lives of consumers ended.
        faults: in the order of their beginning.

    """

    messages: dict[int, Message] = field(default_factory=dict)
    strays: list[Violation] = field(default_factory=list)
    inspected: dict[str, Inspected] = field(default_factory=dict)
    left: dict[str, list[Left]] = field(default_factory=dict)
    resting: dict[str, list[Left]] = field(default_factory=dict)
    gone: dict[str, float] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def copies(self) -> Iterator[Copy]:
        """Return every copy of every message."""
        for message in self.messages.values():
            yield from message.copies.values()

    def farewell(self, place: Place) -> Left | None:
        """Return how the inbox of a place has gone; None: it is still there."""
        left = self.left.get(place.instance, [])
        return left[place.life] if place.life < len(left) else None

    def farewells(self, names: Iterable[str], since: float) -> list[Left]:
        """Return how instances of these names have gone since a moment."""
        return [
            left
            for name in names
            for left in (*self.left.get(name, ()), *self.resting.get(name, ()))
            if left.at >= since
        ]

    def taken_over(self, copy: Copy) -> bool:
        """Tell whether a copy may have been taken over by another instance: its own has rested, and has it no more."""
        seen = [one.at for one in copy.found] + [one.began for one in copy.handed]
        rests = self.resting.get(copy.place.instance, ())
        return copy.final is None and any(left.at >= min(seen) for left in rests)

    def life(self, instance: str, at: float) -> int:
        """Return how many inboxes an instance of this name had before a moment."""
        return bisect_right([left.at for left in self.left.get(instance, [])], at)


def gather(records: Iterable[Record], run: str) -> Evidence:
    """Bring the records of a ledger together, whatever their order.

    Args:
        records: of all writers.
        run: the run whose messages they are; its name is in their seals.

    """
    sorted_out = _Kinds(records)
    evidence = Evidence()
    for begun in sorted_out.of(Begun):
        if begun.number in evidence.messages:
            evidence.strays.append(Violation("ledger", begun.number, "begun twice: two writers share a number"))
        evidence.messages[begun.number] = Message(begun=begun)
    for left in sorted(sorted_out.of(Left), key=lambda one: one.at):
        (evidence.resting if left.kept else evidence.left).setdefault(left.instance, []).append(left)
    evidence.inspected = {one.instance: one for one in sorted_out.of(Inspected)}
    evidence.gone = {one.consumer: one.at for one in sorted_out.of(Gone)}
    evidence.faults = sorted(sorted_out.of(Fault), key=lambda one: one.began)
    for attempt in sorted_out.of(Attempt):
        if attempt.number in evidence.messages:
            evidence.messages[attempt.number].attempts.append(attempt)
        else:
            evidence.strays.append(Violation("ledger", attempt.number, "an attempt of a message that was never begun"))
    for outcome in sorted_out.of(Outcome):
        if outcome.number in evidence.messages:
            evidence.messages[outcome.number].outcomes.append(outcome)
    _Places(evidence, run).fill(sorted_out)
    return evidence


class _Kinds:
    """Records by their class."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._lists: dict[type[Record], list[Record]] = {}
        for record in records:
            self._lists.setdefault(type(record), []).append(record)

    def of(self, kind: type[R]) -> list[R]:
        """Return those of one class."""
        return cast("list[R]", self._lists.get(kind, []))


class _Places:
    """Puts what was found and handed out at its place."""

    def __init__(self, evidence: Evidence, run: str) -> None:
        self._evidence = evidence
        self._run = run
        self._there: dict[Place, Copy] = {}

    def fill(self, records: _Kinds) -> None:
        """Bring in the records that name a place."""
        for found in sorted(records.of(Found), key=lambda one: one.at):
            copy = self._copy(found.instance, found.seq, found.at, found.number, found.seal)
            if copy is not None:
                copy.found.append(found)
        holders: dict[tuple[str, int, str], Copy] = {}
        for handed in sorted(records.of(Handed), key=lambda one: one.ended):
            copy = self._copy(handed.instance, handed.seq, handed.began, handed.number, handed.seal)
            if copy is not None:
                copy.handed.append(handed)
                holders[handed.instance, handed.seq, handed.token] = copy
        # Of each request there is a record from before it and, if its writer lived on, one from after it.
        asked: dict[tuple[str, int, str, str, float], Return] = {}
        for given in records.of(Return):
            key = (given.instance, given.seq, given.token, given.action, given.began)
            if key not in asked or asked[key].status == -1:
                asked[key] = given
        for given in sorted(asked.values(), key=lambda one: one.began):
            holder = holders.get((given.instance, given.seq, given.token))
            if holder is not None:
                holder.returned.append(given)

    def _copy(self, instance: str, seq: int, at: float, number: int, given: str) -> Copy | None:
        place = Place(instance, self._evidence.life(instance, at), seq)
        message = self._evidence.messages.get(number)
        copy = self._there.get(place)
        if message is None or given != seal(self._run, number):
            self._forged(number, f"{place} is a message that was never begun, or not as it was begun")
        elif copy is None:
            copy = self._there[place] = message.copies[place] = Copy(place=place, number=number)
            return copy
        elif copy.number == number:
            return copy
        else:
            self._forged(number, f"{place} was message {copy.number} before")
        return None

    def _forged(self, number: int, text: str) -> None:
        self._evidence.strays.append(Violation("forged", number, text))
