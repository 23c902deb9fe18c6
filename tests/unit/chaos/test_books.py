"""The books: each promise that is not kept is noticed, and what is allowed is not."""

from __future__ import annotations

from typing import Any

import pytest

from chaos.books import compare
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

RUN = "run"
#: When inboxes are read for the last time.
END = 1000.0


def begun(number: int = 1, at: float = 10.0, **more: Any) -> Begun:
    """Return message 1, for the cell pure."""
    return Begun(number=number, message_id=f"m{number}", at=at, to_cell=more.pop("to_cell", "pure"), **more)


def sent(number: int = 1, began: float = 10.0, instance: str = "pure-0", **more: Any) -> Attempt:
    """Return an attempt that was acknowledged after a second."""
    more = {"status": 200, "acknowledged": True, "ended": began + 1, "entry": "alpha-0"} | more
    return Attempt(number=number, began=began, instance=instance, **more)


def unanswered(number: int = 1, began: float = 10.0, **more: Any) -> Attempt:
    """Return an attempt that was not answered."""
    return sent(number, began, **({"instance": "", "status": 0, "acknowledged": False} | more))


def outcome(state: str, number: int = 1, at: float = 500.0, **more: Any) -> Outcome:
    """Return what the sender says of a queued message."""
    return Outcome(number=number, at=at, entry="alpha-0", state=state, **more)


def found(number: int = 1, instance: str = "pure-0", seq: int = 1, state: str = "pending", **more: Any) -> Found:
    """Return a message as the last reading found it."""
    more = {"at": END, "cell": instance.rpartition("-")[0], "seal": seal(RUN, number), "final": True} | more
    return Found(number=number, instance=instance, seq=seq, state=state, **more)


def handed(began: float = 20.0, number: int = 1, instance: str = "pure-0", seq: int = 1, **more: Any) -> Handed:
    """Return a lease of 30 seconds; its token is when it was asked for."""
    more = {"consumer": "one", "seal": seal(RUN, number), "ended": began + 1, "lease": 30.0} | more
    return Handed(began=began, number=number, instance=instance, seq=seq, token=f"t{began:g}", **more)


def returned(action: str = "ack", held: float = 20.0, began: float = 22.0, status: int = 200, **more: Any) -> Return:
    """Return what was asked for the lease that was asked for at ``held``."""
    more = {"instance": "pure-0", "seq": 1, "ended": began + 0.5} | more
    return Return(action=action, token=f"t{held:g}", began=began, status=status, **more)


def inspected(*instances: str) -> list[Record]:
    """Return the last readings."""
    return [Inspected(at=END, cell=name.rpartition("-")[0], instance=name) for name in instances]


def rules(*records: Record) -> set[str]:
    """Return the rules that were violated; every inbox has been read to the end."""
    account = compare([*records, *inspected("pure-0", "pure-1", "solo-0")], RUN)
    return set(account.rules())


DELIVERED = (begun(), sent())
QUEUED = (begun(queued=True), sent(status=202, instance=""))

GOOD: dict[str, tuple[Record, ...]] = {
    "acknowledged and there": (*DELIVERED, found()),
    "acknowledged and leased": (*DELIVERED, found(state="leased"), handed()),
    "consumed": (*DELIVERED, handed(), returned(), found(state="consumed")),
    "consumed and out of the history": (*DELIVERED, handed(), returned()),
    "consumed by one whose answer was lost": (*DELIVERED, handed(), returned(status=0), found(state="consumed")),
    "consumed by one killed over it": (*DELIVERED, handed(), returned(status=-1), found(state="consumed")),
    "dead of age in time": (begun(ttl=60), sent(), found(state="dead", reason="expired")),
    "dead and out of the history": (
        begun(ttl=60),
        sent(),
        found(state="dead", reason="expired", at=80.0, final=False),
    ),
    "seen pending, then expired and out of the history": (begun(ttl=60), sent(), found(at=12.0, final=False)),
    "rejected": (*DELIVERED, handed(), returned("reject"), found(state="dead", reason="rejected")),
    "not acknowledged, not there": (begun(), unanswered()),
    "not acknowledged, there": (begun(), unanswered(), found()),
    "refused": (begun(), unanswered(status=503, maybe_delivered=False)),
    "sent again at the same instance": (begun(), unanswered(), sent(began=20.0, duplicate=True), found()),
    "sent again at another after an open outcome": (
        begun(),
        unanswered(),
        sent(began=20.0, instance="pure-1"),
        found(),
        found(instance="pure-1"),
    ),
    "open at one that was named, acknowledged by another": (
        begun(),
        unanswered(status=504, maybe_delivered=True, instance="pure-0"),
        sent(began=20.0, instance="pure-1"),
        found(),
        found(instance="pure-1"),
    ),
    "handed over": (
        *DELIVERED,
        found(at=12.0, final=False),
        Left(at=50.0, instance="pure-0", handed_over=True),
        found(instance="pure-1"),
    ),
    "handed over before anyone looked": (
        *DELIVERED,
        Left(at=50.0, instance="pure-0", handed_over=True),
        found(instance="pure-1"),
    ),
    "consumed, then its instance left": (
        *DELIVERED,
        handed(),
        returned(),
        Left(at=50.0, instance="pure-0", handed_over=True),
    ),
    "gone with an ephemeral instance": (*DELIVERED, Left(at=50.0, instance="pure-0")),
    "handed over by an ephemeral instance that could not hand over all": (
        *DELIVERED,
        Left(at=50.0, instance="pure-0"),
        found(instance="pure-1"),
    ),
    "consumed from an ephemeral inbox, and sent again to the next": (
        *DELIVERED,
        handed(),
        returned(),
        Left(at=50.0, instance="pure-0"),
        sent(began=60.0),
        found(),
    ),
    "handed over and consumed, and sent again to the instance that began anew": (
        *DELIVERED,
        Left(at=50.0, instance="pure-0", handed_over=True),
        handed(30.0, instance="pure-1", seq=7),
        returned(held=30.0, began=32.0, instance="pure-1", seq=7),
        sent(began=49.5),
        found(),
    ),
    "queued, and gone with an ephemeral sender": (*QUEUED, Left(at=50.0, instance="alpha-0"), outcome("")),
    "rejected, then its instance left": (
        *DELIVERED,
        handed(),
        returned("reject"),
        Left(at=50.0, instance="pure-0", handed_over=True),
    ),
    "on the volume of an instance that rested": (
        *DELIVERED,
        found(at=12.0, final=False),
        Left(at=50.0, instance="pure-0", kept=True),
        found(),
    ),
    "handed over by an instance with a volume": (
        *DELIVERED,
        found(at=12.0, final=False),
        Left(at=50.0, instance="pure-0", handed_over=True, kept=True),
        found(instance="pure-1"),
    ),
    "consumed at an instance with a volume, which rested": (
        *DELIVERED,
        handed(),
        returned(),
        Left(at=50.0, instance="pure-0", handed_over=True, kept=True),
        found(state="consumed"),
    ),
    "the same position in a new life of an ephemeral instance": (
        *DELIVERED,
        found(at=12.0, final=False),
        Left(at=50.0, instance="pure-0"),
        begun(2, at=60.0),
        sent(2, 60.0),
        found(2),
    ),
    "queued and delivered": (*QUEUED, outcome("delivered", instance="pure-0"), found()),
    "queued twice": (*QUEUED, sent(began=15.0, status=202, instance=""), outcome("delivered"), found()),
    "queued and unconfirmed, there": (*QUEUED, outcome("unconfirmed"), found()),
    "queued and unconfirmed, not there": (*QUEUED, outcome("unconfirmed")),
    "queued and expired": (begun(queued=True, ttl=60), sent(status=202, instance=""), outcome("expired")),
    "queued and dead": (*QUEUED, outcome("dead", code="unknown_cell")),
    "never queued": (begun(queued=True), unanswered(), outcome("")),
    "queued, its answer was lost": (begun(queued=True), unanswered(), outcome("delivered", instance="pure-0"), found()),
    "the first word of the sender is not its last": (
        *QUEUED,
        outcome("queued", at=400.0),
        outcome("delivered", at=500.0),
        found(),
    ),
    "for an instance": (begun(to_instance="pure-1"), sent(instance="pure-1"), found(instance="pure-1")),
    "leased again after it ran out": (*DELIVERED, handed(), handed(60.0, consumer="two"), found(state="leased")),
    "leased again after a nack": (*DELIVERED, handed(), returned("nack"), handed(23.0), found(state="leased")),
    "leased again after a nack that was not answered": (
        *DELIVERED,
        handed(),
        returned("nack", status=0, delay=5.0),
        handed(28.0),
        found(state="leased"),
    ),
    "leased again after its delay": (
        *DELIVERED,
        handed(),
        returned("nack", delay=5.0),
        handed(28.0),
        found(state="leased"),
    ),
    "leased again after a hand-back": (*DELIVERED, handed(), returned("release"), handed(23.0), found(state="leased")),
    "leased again after an extension that made it shorter": (
        *DELIVERED,
        handed(),
        returned("extend", lease=5.0),
        handed(28.0),
        found(state="leased"),
    ),
    "leased again after such an extension that was not answered": (
        *DELIVERED,
        handed(),
        returned("extend", lease=5.0, status=0),
        handed(28.0),
        found(state="leased"),
    ),
    "leased again after its handler's process was killed": (
        *DELIVERED,
        handed(inside=True),
        Gone(consumer="one", at=22.0),
        handed(24.0, consumer="two", inside=True),
        found(state="leased"),
    ),
    "an ack that came too late": (
        *DELIVERED,
        handed(),
        handed(60.0, consumer="two"),
        returned(began=62.0, status=409, code="lease_lost"),
        returned(held=60.0, began=63.0),
        found(state="consumed"),
    ),
    "acked twice with one token": (
        *DELIVERED,
        handed(),
        returned(),
        returned(began=30.0),
        found(state="consumed"),
    ),
    "delayed": (begun(not_before=5.0), sent(), handed(20.0), found(state="leased")),
    "read before it was acked": (
        *DELIVERED,
        found(at=12.0, final=False),
        handed(),
        returned(),
        found(state="consumed"),
    ),
    "deadly, and dead": (begun(deadly=True), sent(), handed(), found(at=12.0, final=False)),
}

GOOD |= {
    "for an instance that has handed over": (
        begun(to_instance="pure-0"),
        sent(),
        Left(at=50.0, instance="pure-0", handed_over=True),
        found(instance="pure-1"),
    ),
    "sent to the next life while the old one was ending": (
        *DELIVERED,
        handed(),
        returned(),
        sent(began=40.0, ended=60.0),
        Left(at=50.0, instance="pure-0", handed_over=True),
        found(at=70.0),
    ),
    "queued still, for an ephemeral instance that is gone": (
        *QUEUED,
        Left(at=50.0, instance="pure-0"),
        outcome("queued", instance="pure-0"),
    ),
}

BAD: dict[str, tuple[str, tuple[Record, ...]]] = {
    "nowhere": ("lost", DELIVERED),
    "seen, and gone": ("lost", (*DELIVERED, found(final=False, at=12.0))),
    "leased, and gone": ("lost", (*DELIVERED, handed())),
    "consumed in vain": ("lost", (*DELIVERED, handed(), returned(status=409))),
    "gone before its time": ("lost", (begun(ttl=5000), sent(), found(final=False, at=12.0))),
    "not handed over": ("lost", (*DELIVERED, Left(at=50.0, instance="pure-0", handed_over=True))),
    "not on the volume any more": (
        "lost", (*DELIVERED, found(at=12.0, final=False), Left(at=50.0, instance="pure-0", kept=True)),
    ),
    "on the volume still, though handed over": (
        "doubled",
        (
            *DELIVERED, found(at=12.0, final=False), Left(at=50.0, instance="pure-0", handed_over=True, kept=True),
            found(), found(instance="pure-1"),
        ),
    ),
    "consumed at an instance with a volume, and handed over": (
        "doubled",
        (
            *DELIVERED, handed(), returned(), Left(at=50.0, instance="pure-0", handed_over=True, kept=True),
            found(instance="pure-1"),
        ),
    ),
    "at another, though its instance had rested before only": (
        "elsewhere", (*DELIVERED, Left(at=5.0, instance="pure-0", kept=True), found(instance="pure-1")),
    ),
    "consumed from an ephemeral inbox, sent again before that was gone, and in the next": (
        "doubled",
        (*DELIVERED, handed(), returned(), sent(began=40.0), Left(at=50.0, instance="pure-0"), found()),
    ),
    "queued, and nowhere though its sender left nothing unsent": (
        "lost", (*QUEUED, Left(at=50.0, instance="alpha-0", handed_over=True), outcome("")),
    ),
    "at two positions": ("doubled", (*DELIVERED, found(), found(seq=2))),
    "at two instances": ("doubled", (*DELIVERED, found(), found(instance="pure-1"))),
    "at two positions after an open outcome": ("doubled", (begun(), unanswered(), sent(), found(), found(seq=2))),
    "at an instance that no open attempt was for": (
        "doubled",
        (
            begun(), unanswered(status=504, maybe_delivered=True, instance="pure-2"), sent(),
            found(), found(instance="pure-1"),
        ),
    ),
    "twice after a clear refusal": (
        "doubled",
        (begun(), unanswered(status=503, maybe_delivered=False), sent(), found(), found(instance="pure-1")),
    ),
    "queued, and at two instances": (
        "doubled", (*QUEUED, unanswered(), outcome("delivered"), found(), found(instance="pure-1")),
    ),
    "consumed here, and there too": (
        "doubled",
        (
            *DELIVERED, handed(), returned(), Left(at=50.0, instance="pure-0", handed_over=True),
            found(instance="pure-1"),
        ),
    ),
    "acknowledged by another": ("elsewhere", (*DELIVERED, found(instance="pure-1"))),
    "in another cell's inbox": ("misdelivered", (begun(), unanswered(), found(instance="solo-0"))),
    "in another mesh": ("misdelivered", (*DELIVERED, found(namespace="other"))),
    "at another instance": (
        "misdelivered", (begun(to_instance="pure-1"), sent(instance="pure-0"), found(instance="pure-0")),
    ),
    "handed out by another cell": (
        "misdelivered", (begun(), unanswered(), handed(instance="solo-0"), found(instance="solo-0")),
    ),
    "refused, and there": ("refused, stored", (begun(), unanswered(status=503, maybe_delivered=False), found())),
    "nobody's": ("forged", (found(9),)),
    "altered": ("forged", (*DELIVERED, found(), found(seq=2, seal="other"))),
    "a position that is another's now": ("forged", (*DELIVERED, begun(2), sent(2), found(at=12.0), found(2))),
    "consumed by nobody": ("consumed", (*DELIVERED, found(state="consumed"))),
    "consumed though the ack was refused": (
        "consumed", (*DELIVERED, handed(), returned(status=409), found(state="consumed")),
    ),
    "rejected by nobody": ("rejected", (*DELIVERED, handed(), found(state="dead", reason="rejected"))),
    "dead too early": (
        "expired early", (begun(ttl=60), sent(), found(state="dead", reason="expired", at=40.0)),
    ),
    "dead though it lives for ever": ("expired early", (*DELIVERED, found(state="dead", reason="expired"))),
    "given up too early": (
        "expired early", (begun(queued=True, ttl=60), sent(status=202, instance=""), outcome("expired", at=40.0)),
    ),
    "still queued": ("unsettled", (*QUEUED, outcome("queued"))),
    "queued and forgotten": ("forgotten", (*QUEUED, outcome(""))),
    "queued and nobody looked": ("ledger", QUEUED),
    "said to be delivered": ("lost", (*QUEUED, outcome("delivered", instance="pure-0"))),
    "delivered by one, found at another": (
        "elsewhere", (*QUEUED, outcome("delivered", instance="pure-0"), found(instance="pure-1")),
    ),
    "expired, and delivered": (
        "not delivered", (begun(queued=True, ttl=60), sent(status=202, instance=""), outcome("expired"), found()),
    ),
    "dead, and delivered": ("not delivered", (*QUEUED, outcome("dead"), found())),
    "dead, and consumed": ("not delivered", (*QUEUED, outcome("dead"), handed(), returned())),
    "never queued, and delivered": ("not delivered", (begun(queued=True), unanswered(), outcome(""), found())),
    "handed out twice": ("handed twice", (*DELIVERED, handed(), handed(40.0, consumer="two"), found(state="leased"))),
    "handed to a consumer's next life": (
        "handed twice",
        (*DELIVERED, handed(), Gone(consumer="one", at=22.0), handed(24.0, consumer="two"), found(state="leased")),
    ),
    "handed out though its lease was extended": (
        "handed twice",
        (*DELIVERED, handed(), returned("extend", began=40.0, lease=30.0) , handed(60.0), found(state="leased")),
    ),
    "handed out before its delay": (
        "handed twice", (*DELIVERED, handed(), returned("nack", delay=20.0), handed(30.0), found(state="leased")),
    ),
    "handed out though its handler lives": (
        "handed twice",
        (
            *DELIVERED, handed(inside=True), Gone(consumer="one", at=900.0),
            handed(24.0, consumer="two", inside=True), found(state="leased"),
        ),
    ),
    "handed out after its ack": (
        "after ack", (*DELIVERED, handed(), returned(), handed(60.0), found(state="leased")),
    ),
    "acked under two leases": (
        "acked twice",
        (
            *DELIVERED, handed(), handed(60.0, consumer="two"), returned(began=62.0), returned(held=60.0, began=63.0),
            found(state="consumed"),
        ),
    ),
    "pending after its ack": ("ack undone", (*DELIVERED, handed(), returned(), found())),
    "handed out before its time": (
        "too early", (begun(not_before=15.0), sent(), handed(20.0), found(state="leased")),
    ),
    "a number used twice": ("ledger", (begun(), begun(), sent(), found())),
    "an attempt of nobody": ("ledger", (sent(9),)),
}  # fmt: skip


@pytest.mark.parametrize("story", GOOD)
def test_what_is_allowed_is_no_violation(story: str) -> None:
    """Each of these may happen."""
    assert rules(*GOOD[story]) == set()


@pytest.mark.parametrize("story", BAD)
def test_what_must_not_happen_is_noticed(story: str) -> None:
    """Each of these breaks one promise."""
    rule, records = BAD[story]
    assert rule in rules(*records)


def test_an_inbox_that_was_not_read_to_the_end_proves_nothing() -> None:
    """It is said, not passed over."""
    assert compare([*DELIVERED, found(final=False, at=12.0)], RUN).rules() == {"ledger": 1}


def test_the_account_counts() -> None:
    """Shares and numbers of the report."""
    account = compare([*GOOD["consumed"], begun(2), unanswered(2), begun(3), *inspected("pure-0")], RUN)
    assert account.share == 0.5
    assert {name: account.counts[name] for name in ("messages", "messages acknowledged", "attempts", "consumed")} == {
        "messages": 3,
        "messages acknowledged": 1,
        "attempts": 2,
        "consumed": 1,
    }
    assert account.counts["outcome open"] == 1
    assert compare([], RUN).share == 0.0


def test_a_fault_counts_if_it_was_done_and_requests_were_in_flight() -> None:
    """Others are in the account, and do not count."""
    one = {"kind": "kill", "victim": "pure-0", "began": 1.0}
    faults = [
        Fault(index=0, healed=2.0, in_flight=3, **one),  # type: ignore[arg-type]
        Fault(index=1, healed=2.0, **one),  # type: ignore[arg-type]
        Fault(index=2, in_flight=3, **one),  # type: ignore[arg-type]
    ]
    account = compare(faults, RUN)
    assert len(account.faults) == 3
    assert account.counted == faults[:1]


def queued(number: int, began: float, seq: int, **more: Any) -> list[Record]:
    """Return a message that was queued within a second, and where it came to stand."""
    entry, instance = more.pop("entry", "alpha-0"), more.pop("instance", "pure-0")
    return [
        begun(number, at=began, queued=True, **more),
        sent(number, began, status=202, instance="", entry=entry),
        outcome("delivered", number, instance=instance),
        found(number, instance=instance, seq=seq),
    ]


@pytest.mark.parametrize(
    ("second", "broken"),
    [
        ({}, True),
        ({"began": 10.5}, False),  # under way at once: either may be first
        ({"entry": "beta-0"}, False),
        ({"priority": "high"}, False),
        ({"instance": "pure-1", "seq": 1}, False),
    ],
)
def test_order_is_promised_within_one_lane(second: dict[str, Any], broken: bool) -> None:
    """One sending instance, one receiving instance, one priority; and only for what was queued one after the other."""
    records = [*queued(1, 10.0, seq=5), *queued(2, **({"began": 20.0, "seq": 4} | second))]
    assert rules(*records) == ({"order"} if broken else set())


def test_the_message_that_overtook_need_not_be_the_next_one() -> None:
    """One in between, of which nothing is known, hides nothing."""
    records = [*queued(3, 30.0, seq=1), *queued(2, 10.2, seq=2), *queued(1, 10.0, seq=3)]
    assert "order" in rules(*records)


@pytest.mark.parametrize(
    ("changed", "fault", "broken"),
    [
        ({}, {}, True),
        ({}, {"victim": "pure-1"}, False),  # it may have been meant for that one
        ({}, {"victim": "discovery"}, False),
        ({}, {"victim": "alpha-0 to pure-1"}, False),
        ({}, {"victim": "solo-0"}, True),
        ({}, {"victim": "pure-1", "began": 2000.0}, True),
        ({}, {"victim": "pure-1", "began": -50.0, "healed": -40.0}, True),
        ({"to_instance": "pure-0"}, {"victim": "pure-1"}, True),
        ({"to_instance": "pure-0"}, {"victim": "pure-0"}, True),
    ],
)
def test_a_message_for_any_instance_may_come_late_if_one_of_them_was_harmed(
    changed: dict[str, Any], fault: dict[str, Any], broken: bool
) -> None:
    """One for this instance may not, whatever happens."""
    records = [
        *queued(1, 10.0, seq=5, **changed),
        *queued(2, 20.0, seq=4, **changed),
        *queued(3, 20.0, seq=1, instance="pure-1"),
        *queued(4, 20.0, seq=1, instance="solo-0", to_cell="solo"),
    ]
    if fault:
        records.append(Fault(**({"index": 0, "kind": "harm", "began": 15.0, "healed": 16.0, "in_flight": 1} | fault)))
    assert rules(*records) == ({"order"} if broken else set())


def test_direct_messages_have_no_order() -> None:
    """None is promised."""
    assert rules(begun(), sent(), found(seq=2), begun(2, at=20.0), sent(2, 20.0), found(2, seq=1)) == set()
