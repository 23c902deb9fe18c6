"""Who is next: order, windows and pinning, against a model of the file."""

from __future__ import annotations

import random
from collections.abc import Collection
from typing import Any

import pytest
from msgspec import Raw

from cellmesh.outbox import Parcel
from cellmesh.protocol.messages import CellMessage
from cellmesh.protocol.peers import Peer
from cellmesh.service import lines
from cellmesh.service.lines import PATIENCE, Line

NOW = 1_000_000
MANY = 10**9


def peer(name: str, uid: str = "uid", **fields: Any) -> Peer:
    """Return an instance of the cell pure."""
    return Peer(cell_id="pure", port=1, ip="127.0.0.1", instance=name, uid=uid, **fields)


def members(*names: str) -> dict[str, Peer]:
    """Return instances by name."""
    return {name: peer(name) for name in names}


def parcel(position: int, wanted: str = "", conversation: str | None = None, ttl: float = 0, size: int = 2) -> Parcel:
    """Return a queued message."""
    message = CellMessage(
        message_id=f"m-{position}",
        from_cell="alpha",
        to_cell="pure",
        payload=Raw(b"{}".ljust(size)),
        ttl=ttl,
        conversation_id=conversation,
    )
    made = Parcel(message, wanted, NOW)
    made.position = position
    return made


def nobody(_: str) -> bool:
    """Expect no instance that is not there to come back."""
    return False


def anybody(_: str) -> bool:
    """Expect every instance to come back."""
    return True


def line(*names: str, expects: Any = nobody, start: int | None = None) -> Line:
    """Return a line with these instances ready."""
    made = Line(start)
    made.set_members(members(*names), expects, NOW)
    return made


def take(of: Line, name: str, most: int = MANY, size: int = MANY, now: int = NOW) -> list[int]:
    """Take for a lane; return positions."""
    return [one.position for one in of.take(name, most, size, lambda one: one.size, now)]


def add(to: Line, *parcels: Parcel, now: int = NOW) -> None:
    """Queue messages."""
    for one in parcels:
        to.add(one, now)


def read(of: Line, *parcels: Parcel, now: int = NOW) -> None:
    """Have the line read what it wants; these are in the file."""
    start = of.wanted()
    if start is not None:
        of.loaded(start, [one for one in parcels if one.position >= start], None, now)


def refused(of: Line, name: str, *positions: int) -> list[Parcel]:
    """Take all for a lane, which must be these; return them, refused with proof that they are not there."""
    taken = of.take(name, MANY, MANY, lambda one: one.size, NOW)
    assert [one.position for one in taken] == [*positions]
    return taken


def test_a_lane_takes_what_any_may_and_what_is_for_it_in_order() -> None:
    """Expect the lowest positions first, those for another instance left alone."""
    queue = line("pure-0", "pure-1")
    add(queue, parcel(1), parcel(2, "pure-1"), parcel(3, "pure-0"), parcel(4), parcel(5, "pure-0"))
    assert take(queue, "pure-0", most=3) == [1, 3, 4]
    assert take(queue, "pure-1") == [2]
    assert take(queue, "pure-0") == [5]
    assert not queue.has("pure-0")


def test_a_lane_takes_no_more_bytes_than_fit_but_one_message_always() -> None:
    """Expect one that is too big alone to go alone."""
    queue = line("pure-0")
    sizes = [parcel(number, size=size) for number, size in enumerate((100, 100, 5000, 10), 1)]
    add(queue, *sizes)
    room = 2 * sizes[0].size
    assert [take(queue, "pure-0", size=room) for _ in range(3)] == [[1, 2], [3], [4]]


def test_what_belongs_to_one_conversation_goes_to_one_instance() -> None:
    """Expect every message of it in one lane, in order, whoever asks first."""
    queue = line("pure-0", "pure-1", "pure-2")
    add(queue, *[parcel(number, conversation=f"c-{number % 7}") for number in range(1, 71)])
    lanes = {name: take(queue, name) for name in ("pure-0", "pure-1", "pure-2")}
    assert sorted(position for lane in lanes.values() for position in lane) == list(range(1, 71))
    for lane in lanes.values():
        assert lane == sorted(lane)
    owners = [{name for name, lane in lanes.items() for one in lane if one % 7 == number} for number in range(7)]
    assert all(len(owner) == 1 for owner in owners)
    assert len(set.union(*owners)) > 1


def test_what_is_refused_is_next_in_the_same_lane() -> None:
    """Expect the lane to begin with it again, and others not to take it meanwhile."""
    queue = line("pure-0", "pure-1")
    add(queue, parcel(1), parcel(2), parcel(3))
    taken = queue.take("pure-0", 2, MANY, lambda one: one.size, NOW)
    assert take(queue, "pure-1") == [3]
    queue.give_back(taken, NOW)
    assert take(queue, "pure-1") == []
    assert take(queue, "pure-0") == [1, 2]


def test_what_is_refused_goes_to_another_after_a_while() -> None:
    """Expect others to take it once it has waited long enough for the lane that was refused."""
    queue = line("pure-0", "pure-1")
    add(queue, parcel(1), parcel(2))
    queue.give_back(refused(queue, "pure-0", 1, 2), NOW)
    assert not queue.due(NOW + PATIENCE - 1)
    assert take(queue, "pure-1", now=NOW + PATIENCE - 1) == []
    assert queue.due(NOW + PATIENCE)
    assert take(queue, "pure-1", now=NOW + PATIENCE) == [1, 2]


def test_it_waits_for_half_of_what_is_left_of_its_life_at_most() -> None:
    """Expect a message of ten seconds to be anybody's after five."""
    queue = line("pure-0", "pure-1")
    add(queue, parcel(1, ttl=10))
    queue.give_back(refused(queue, "pure-0", 1), NOW)
    assert not queue.due(NOW + 4_999)
    assert queue.due(NOW + 5_000)
    assert take(queue, "pure-1", now=NOW + 5_000) == [1]


def test_what_is_meant_for_one_that_went_and_returns_does_not_overtake() -> None:
    """Expect it to wait where the other lane has gone on, and to go there where it has not."""
    queue = line("pure-0", "pure-1")
    early = parcel(1, conversation="c")
    owner = "pure-0" if lines.rendezvous("c", [peer("pure-0"), peer("pure-1")]).key == "pure-0" else "pure-1"
    other = {"pure-0": "pure-1", "pure-1": "pure-0"}[owner]
    late = parcel(9, conversation="c")
    add(queue, early, *[parcel(number) for number in range(2, 6)], late)
    assert take(queue, other) == [2, 3, 4, 5]
    queue.set_members(members(other), anybody, NOW)
    read(queue, early, late)
    assert take(queue, other) == [9]
    queue.set_members(members("pure-0", "pure-1"), anybody, NOW + 10)
    read(queue, early)
    assert take(queue, owner, now=NOW + 10) == [1]


def test_while_nobody_is_there_it_is_not_forgotten_who_has_refused() -> None:
    """Expect a message that came back to go to the same lane, as the other has gone on, when both return."""
    queue = line("pure-0", "pure-1", expects=anybody)
    first = parcel(1)
    add(queue, first)
    taken = refused(queue, "pure-0", 1)
    add(queue, parcel(2))
    queue.end(take(queue, "pure-1"))
    queue.give_back(taken, NOW)
    queue.set_members({}, anybody, NOW)
    queue.set_members(members("pure-0", "pure-1"), anybody, NOW)
    read(queue, first)
    assert take(queue, "pure-1") == []
    assert take(queue, "pure-0") == [1]


def test_what_is_meant_for_one_that_went_for_good_goes_elsewhere_at_once() -> None:
    """Expect no waiting for an instance that is not expected."""
    queue = line("pure-0", "pure-1")
    all_of_them = [parcel(number, conversation=f"c-{number}") for number in range(1, 9)]
    add(queue, *all_of_them)
    first = take(queue, "pure-0")
    queue.set_members(members("pure-0"), nobody, NOW)
    read(queue, *all_of_them)
    assert sorted(first + take(queue, "pure-0")) == list(range(1, 9))


def test_what_is_meant_for_one_that_does_not_return_waits_no_longer_than_that_is_expected() -> None:
    """Expect another to have it as soon as its instance is given up."""
    expected = True
    queue = line("pure-0", "pure-1")
    first = parcel(1, conversation="c")
    owner = lines.rendezvous("c", [peer("pure-0"), peer("pure-1")]).key
    other = {"pure-0": "pure-1", "pure-1": "pure-0"}[owner]
    add(queue, first, parcel(2))
    queue.end(take(queue, other))
    queue.set_members(members(other), lambda _: expected, NOW)
    read(queue, first)
    assert not queue.due(NOW + 1000)
    assert take(queue, other) == []
    expected = False
    assert queue.due(NOW + 2000)
    assert take(queue, other, now=NOW + 2000) == [1]


def test_a_message_that_may_be_somewhere_goes_nowhere_else() -> None:
    """Expect it with its instance only, however long that is away."""
    queue = line("pure-0", "pure-1")
    add(queue, parcel(1))
    (lost,) = refused(queue, "pure-0", 1)
    lost.instance, lost.maybe = "pure-0", True
    queue.give_back([lost], NOW)
    queue.set_members(members("pure-1"), nobody, NOW)
    assert not queue.due(NOW + 10 * PATIENCE)
    assert take(queue, "pure-1", now=NOW + 10 * PATIENCE) == []
    queue.set_members(members("pure-0", "pure-1"), nobody, NOW)
    read(queue, lost)
    assert take(queue, "pure-1") == []
    assert take(queue, "pure-0") == [1]


@pytest.mark.parametrize(("durability", "taken"), [("volume", [1]), ("ephemeral", []), (None, [1])])
def test_an_instance_without_a_volume_forgets_with_its_life(durability: Any, taken: list[int]) -> None:
    """Expect a message that may be in its former life not to be sent to the next."""
    queue = Line(None)
    queue.set_members({"pure-0": peer("pure-0", "first", durability=durability)}, nobody, NOW)
    add(queue, parcel(1))
    (lost,) = refused(queue, "pure-0", 1)
    lost.instance, lost.uid, lost.maybe = "pure-0", "first", True
    queue.give_back([lost], NOW)
    queue.set_members({"pure-0": peer("pure-0", "second", durability=durability)}, nobody, NOW)
    assert take(queue, "pure-0") == taken


def test_a_message_that_rests_lets_others_pass() -> None:
    """Expect those behind it first, and it when its time has come."""
    queue = line("pure-0")
    add(queue, parcel(1), parcel(2))
    taken = queue.take("pure-0", 1, MANY, lambda one: one.size, NOW)
    taken[0].instance, taken[0].rests_until = "pure-0", NOW + 500
    queue.give_back(taken, NOW)
    assert take(queue, "pure-0") == [2]
    assert queue.next_due() == NOW + 500
    assert queue.due(NOW + 500)
    assert take(queue, "pure-0", now=NOW + 500) == [1]


def test_what_has_expired_is_passed_over() -> None:
    """Expect it gone from memory; the file says what became of it."""
    queue = line("pure-0")
    add(queue, parcel(1, ttl=1), parcel(2, ttl=60))
    assert take(queue, "pure-0", now=NOW + 1000) == [2]
    queue.end([2])
    assert queue.idle


def test_a_reply_waits_for_the_instance_it_is_for_while_that_is_expected() -> None:
    """Expect another to have it only when that one is not expected any more."""
    queue = line("pure-1", expects=lambda name: name == "pure-0")
    reply = parcel(1)
    reply.home = "pure-0"
    add(queue, reply)
    assert take(queue, "pure-1") == []
    queue.set_members(members("pure-1", "pure-2"), nobody, NOW)
    read(queue, reply)
    assert take(queue, "pure-1") == [1]


class Model:
    """A line against a model of the file: messages by position, lanes with at most one batch under way each.

    Args:
        orderly: nobody goes for good, and nothing takes so long that others help out: then order is kept.

    """

    NAMES = ("pure-0", "pure-1", "pure-2")

    def __init__(self, *, orderly: bool) -> None:
        self.orderly = orderly
        self.queued: dict[int, Parcel] = {}
        self.under_way: dict[str, list[Parcel]] = {}
        self.now = NOW
        self.position = 0
        self.there: set[str] = set()
        self.line = Line(None)
        self.delivered: dict[str, list[int]] = {name: [] for name in self.NAMES}
        #: A read under way: what it was asked, what it found.
        self.reading: tuple[int, int, list[int], int | None] | None = None
        self.come_and_go(self.NAMES)

    def run(self, rng: random.Random, steps: int) -> None:
        """Do something at random, many times."""
        for _ in range(steps):
            dice = rng.random()
            name = rng.choice(self.NAMES)
            if dice < 0.2:
                self.queue(
                    rng.choice(("", "", "", "pure-0", "pure-2")), rng.choice((None, None, *"abc")), rng.randint(1, 8)
                )
            elif dice < 0.25:
                self.come_and_go(rng.sample(self.NAMES, rng.randint(0, 3)), expected=rng.random() < 0.5)
            elif dice < 0.45:
                self.read()
            elif dice < 0.6:
                self.finish_reading()
            elif dice < 0.8:
                self.take(name, rng.randint(1, 9))
            elif dice < 0.88:
                self.settle(name)
            elif dice < 0.97:
                self.settle(name, rng.randint(0, 4), lost=rng.random() < 0.3)
            else:
                self.wait(0 if self.orderly else rng.randint(1, 2 * PATIENCE))
            self.check()

    def finish(self) -> None:
        """Deliver all that can be: nothing may have been forgotten."""
        self.orderly = False
        self.come_and_go(self.NAMES)
        for _ in range(3 * self.position + 50):
            self.finish_reading()
            self.wait(PATIENCE)
            for name in self.NAMES:
                self.settle(name)
                self.take(name, 3)
            if self.reading is None:
                self.read()
        assert sorted(self.queued) == []
        assert self.line.idle

    def queue(self, wanted: str, conversation: str | None, count: int) -> None:
        """Queue messages: on disk, then known to the line."""
        for _ in range(count):
            self.position += 1
            made = parcel(self.position, wanted, None if wanted else conversation)
            self.queued[self.position] = made
            self.line.add(made, self.now)

    def come_and_go(self, there: Collection[str], *, expected: bool = True) -> None:
        """Change which instances are ready, and whether others are expected."""
        self.there = set(there)
        self.line.set_members(
            members(*sorted(there)), lambda name: name in self.there or expected or self.orderly, self.now
        )

    def read(self) -> None:
        """Begin to read what the line wants."""
        start = self.line.wanted()
        if start is None or self.reading is not None:
            return
        found = [
            position
            for position, one in sorted(self.queued.items())
            if position >= start
            and (not one.wanted or one.wanted in self.line.members)
            and (one.instance is None or one.instance in self.line.members)
        ]
        rest = found[3] + 1 if len(found) > 4 else None
        self.reading = (start, self.line.epoch, found[:4] if rest else found, rest)

    def finish_reading(self) -> None:
        """Hand over what was read, unless the instances have changed."""
        if self.reading is None:
            return
        start, epoch, found, rest = self.reading
        self.reading = None
        if epoch == self.line.epoch:
            # What was delivered meanwhile is known to the line, as it was under way.
            self.line.loaded(start, [self.fresh(one) for one in found if one in self.queued], rest, self.now)

    def fresh(self, position: int) -> Parcel:
        """Return a message as it is read: with nothing that is known in memory only."""
        of = self.queued[position]
        made = parcel(position, of.wanted, of.message.conversation_id)
        made.instance, made.maybe = of.instance, of.maybe
        return made

    def take(self, name: str, most: int) -> None:
        """Let a lane take a batch."""
        if name in self.under_way or name not in self.there:
            return
        had = self.line.has(name)
        taken = self.line.take(name, most, MANY, lambda one: one.size, self.now)
        assert bool(taken) == had
        if not taken:
            return
        positions = [one.position for one in taken]
        assert positions == sorted(positions)
        for one in taken:
            assert one.position in self.queued
            assert one.wanted in {"", name}
            assert one.instance in {None, name}
            assert all(one.position != other.position for batch in self.under_way.values() for other in batch)
            self.queued[one.position] = one
        self.under_way[name] = taken

    def settle(self, name: str, first: int = MANY, *, lost: bool = False) -> None:
        """Have the first few of a batch acknowledged, and the others refused, or unanswered."""
        batch = self.under_way.pop(name, [])
        for one in batch[:first]:
            assert not self.orderly or one.position > max(self.delivered[name], default=0)
            self.delivered[name].append(one.position)
            del self.queued[one.position]
            self.line.end([one.position])
        for one in batch[first:]:
            one.instance, one.maybe = (name, True) if lost or one.maybe else (None, False)
        self.line.give_back(batch[first:], self.now)

    def wait(self, ms: int) -> None:
        """Let time pass."""
        self.now += ms
        self.line.due(self.now)

    def check(self) -> None:
        """No lane has much more than a window in memory, but for what has come back."""
        for bucket in self.line._buckets.values():
            assert sum(one.tried is None for one in bucket.parcels) <= 2 * lines.WINDOW


@pytest.mark.parametrize("orderly", [False, True])
def test_whatever_happens_each_message_is_sent_and_by_one_lane_at_a_time(
    monkeypatch: pytest.MonkeyPatch, orderly: bool
) -> None:
    """Expect nothing forgotten, nothing twice at once, and, while nobody goes for good, each lane in order."""
    monkeypatch.setattr(lines, "WINDOW", 4)
    for seed in range(500):
        model = Model(orderly=orderly)
        try:
            model.run(random.Random(seed), 60)
            model.finish()
        except AssertionError as error:
            raise AssertionError(f"with seed {seed}") from error
