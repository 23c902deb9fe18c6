"""The promise about order: queued messages of one sending instance, at one receiving instance and priority. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from chaos.evidence import Message, Place, Violation
from chaos.ledger import Fault

#: Seconds after a fault is recovered from in which instances may still come and go because of it.
ECHO = 20.0


def check(messages: Iterable[Message], faults: Sequence[Fault] = ()) -> Iterator[Violation]:
    """Say which queued messages overtook others.

    A message whose 202 had come before another was sent for the first time was queued before it, and has to stand
    before it in the receiver's inbox. Of two that were under way at once nothing is known, and nothing is said.
    What was handed over by one instance to another was given a new position there, and is left out. So is what was
    for any instance of a cell of several, while something was done to one of them: it may have been meant for one that
    went, and then comes after what the other has taken meanwhile.

    Args:
        messages: all there are.
        faults: all there were.

    """
    messages = list(messages)
    instances: dict[str, set[str]] = defaultdict(set)
    for message in messages:
        instances[message.begun.to_cell].update(place.instance for place in message.copies)
    known = set().union(*instances.values())
    lanes: dict[tuple[str, str, int, str], list[tuple[Place, Message, float]]] = defaultdict(list)
    for message in messages:
        accepted = [attempt for attempt in message.attempts if attempt.acknowledged]
        if not message.begun.queued or not accepted or len(message.copies) != 1:
            continue
        (place, copy), *_ = message.copies.items()
        outcome, ended = message.outcome, min(attempt.ended for attempt in accepted)
        if outcome is not None and outcome.instance not in {"", place.instance}:
            continue
        ours = instances[message.begun.to_cell]
        if not message.begun.to_instance and len(ours) > 1:
            seen = min([one.at for one in copy.found] + [one.ended for one in copy.handed])
            if any(_concerns(fault, ours, known) and _at_once(fault, ended, seen) for fault in faults):
                continue
        lanes[accepted[0].entry, place.instance, place.life, message.begun.priority].append((place, message, ended))
    for (entry, _, _, priority), lane_of in lanes.items():
        yield from _overtaken(entry, priority, sorted(lane_of, key=lambda one: one[0].seq))


def _concerns(fault: Fault, ours: set[str], known: set[str]) -> bool:
    """Tell whether a fault was done to one of these instances, or to something that is none of those known."""
    victims = set(fault.victim.split(" to "))
    return bool(victims & ours) or not victims & known


def _at_once(fault: Fault, begin: float, end: float) -> bool:
    """Tell whether a fault, or what came of it, was between two moments."""
    return fault.began <= end and (fault.healed or fault.began) + max(fault.recovery, 0.0) + ECHO >= begin


def _overtaken(entry: str, priority: str, lane: list[tuple[Place, Message, float]]) -> Iterator[Violation]:
    latest: Message | None = None
    latest_place: Place | None = None
    for place, message, accepted in lane:
        if latest is not None and accepted < latest.first:
            yield Violation(
                "order",
                message.number,
                f"{entry} queued it ({priority}) before message {latest.number} was sent; "
                f"it stands at {place}, that one at {latest_place}",
            )
        if latest is None or message.first > latest.first:
            latest, latest_place = message, place
