"""What is sent: streams of messages, each message made from the seed and its number alone."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from chaos.ledger import payload

#: Seconds within which ``/send`` has to answer.
TIMEOUT = 10.0
PRIORITIES = ("low", "normal", "normal", "normal", "high", "critical")
#: Times to live, seconds, and how often each; in the shortest a message can grow too old to be consumed, or to leave.
TTLS = {0: 16, 3600: 3, 5: 1}
#: Seconds in which a message may not be handed out yet.
LATER = (0.0,) * 18 + (0.5, 2.0)
#: Numbers of deadly messages begin here, and those of messages with an id that another one has.
DEADLY, REUSING = 1_000_000_000, 2_000_000_000


@dataclass(frozen=True)
class Stream:
    """What one kind of client sends.

    Attributes:
        clients: how many there are.
        to_cell: the receiver.
        to_instance: the instance of it; empty: any.
        queued: by the outbox.
        conversations: in so many conversations; 0: in none.
        ttl: of every message, seconds; None: as it comes.
        deadly: what kills who handles it.

    """

    clients: int
    to_cell: str
    to_instance: str = ""
    queued: bool = False
    conversations: int = 0
    ttl: float | None = None
    deadly: bool = False


STREAMS = (
    Stream(7, "pure"),
    Stream(2, "pure", "pure-0"),
    Stream(2, "pure", "pure-1"),
    Stream(7, "solo"),
    Stream(4, "pure", queued=True),
    Stream(2, "pure", queued=True, conversations=3),
    Stream(2, "pure", "pure-0", queued=True),
    Stream(4, "solo", queued=True),
    Stream(2, "app"),
    Stream(2, "app", queued=True),
    Stream(2, "light"),
    Stream(2, "light", queued=True),
    # A cell that there is not: waited for, and in the end given up.
    Stream(1, "nobody", queued=True, ttl=10.0),
)


def message(stream: Stream, run: str, number: int, rng: random.Random) -> dict[str, Any]:
    """Return the body of ``POST /send`` for a message.

    Args:
        stream: it is part of.
        run: name of the run.
        number: of the message.
        rng: of this message.

    """
    ttl = rng.choices(list(TTLS), list(TTLS.values()))[0] if stream.ttl is None else stream.ttl
    fields: dict[str, Any] = {
        "message_id": f"{run}-{number}",
        "to_cell": stream.to_cell,
        "message_type": "ledger",
        "priority": rng.choice(PRIORITIES),
        "ttl": ttl,
        "payload": payload(run, number, pad="x" * rng.randrange(600)),
    }
    if stream.queued:
        fields["mode"] = "queued"
    else:
        fields["timeout"] = TIMEOUT
    if stream.to_instance:
        fields["to_instance"] = stream.to_instance
    if stream.conversations:
        # At one priority: of several, the highest would go first.
        fields["conversation_id"] = f"{run}-{stream.to_cell}-{rng.randrange(stream.conversations)}"
        fields["priority"] = "normal"
    if later := rng.choice(LATER):
        fields["not_before"] = later
    if stream.deadly:
        # At once, before all others.
        fields |= {"priority": "critical", "ttl": 0}
        fields.pop("not_before", None)
        fields["payload"]["deadly"] = True
    return fields
