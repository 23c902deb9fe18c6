"""The promise about order: queued messages of one sending instance, at one receiving instance and priority. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from chaos.evidence import Message, Place, Violation


def check(messages: Iterable[Message]) -> Iterator[Violation]:
    """Say which queued messages overtook others.

    A message whose 202 had come before another was sent for the first time was queued before it, and has to stand
    before it in the receiver's inbox. Of two that were under way at once nothing is known, and nothing is said.
    What was handed over by one instance to another was given a new position there, and is left out.
    """
    lanes: dict[tuple[str, str, int, str], list[tuple[Place, Message, float]]] = defaultdict(list)
    for message in messages:
        accepted = [attempt for attempt in message.attempts if attempt.acknowledged]
        if not message.begun.queued or not accepted or len(message.copies) != 1:
            continue
        place = next(iter(message.copies))
        outcome = message.outcome
        if outcome is not None and outcome.instance not in {"", place.instance}:
            continue
        lane = (accepted[0].entry, place.instance, place.life, message.begun.priority)
        lanes[lane].append((place, message, min(attempt.ended for attempt in accepted)))
    for (entry, _, _, priority), lane_of in lanes.items():
        yield from _overtaken(entry, priority, sorted(lane_of, key=lambda one: one[0].seq))


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
