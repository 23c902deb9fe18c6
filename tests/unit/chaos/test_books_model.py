"""The books against a model: a mesh that keeps every promise, and the same with one of them broken.

The model has inboxes that deduplicate, lease and expire, senders that retry at the same instance, an outbox, consumers
that die, and answers that are lost; all of it drawn by hypothesis. What it writes down must balance. Then one thing in
its world is changed behind its back, and the books have to say which promise that breaks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from chaos.books import compare
from chaos.ledger import Attempt, Begun, Found, Gone, Handed, Inspected, Outcome, Record, Return, seal

RUN = "model"
INSTANCES = {"pure-0": "pure", "pure-1": "pure", "solo-0": "solo"}
#: Seconds of every lease.
LEASE = 30.0
TTL = 40.0


@dataclass
class Kept:
    """A message in an inbox."""

    number: int
    seq: int
    expires: float
    state: str = "pending"
    reason: str = ""
    token: str = ""
    leased_until: float = 0.0


@dataclass
class World:
    """The model, and what is written down of it.

    Attributes:
        draw: what decides.
        records: the ledger.
        now: time, which passes with everything that is done.
        inboxes: by instance.
        known: where each message was stored, by number: nobody stores it again.
        seqs: the next position, of all inboxes together.
        queued: in the outbox of the one sender, in order: number, cell, when it expires.

    """

    draw: Callable[[st.SearchStrategy[Any]], Any]
    records: list[Record] = field(default_factory=list)
    now: float = 1000.0
    inboxes: dict[str, list[Kept]] = field(default_factory=lambda: {name: [] for name in INSTANCES})
    known: dict[int, str] = field(default_factory=dict)
    queued: list[tuple[int, str, float]] = field(default_factory=list)
    seqs: Iterator[int] = field(default_factory=lambda: count(1))
    numbers: int = 0
    lives: int = 0

    def chance(self) -> bool:
        """Return one of two."""
        return bool(self.draw(st.booleans()))

    def passes(self, most: float = 3.0) -> float:
        """Let time pass; return the time."""
        self.now += self.draw(st.floats(0.01, most))
        for inbox in self.inboxes.values():
            for one in inbox:
                if one.state == "leased" and one.leased_until <= self.now:
                    one.state = "pending"
                if one.state == "pending" and one.expires <= self.now:
                    one.state, one.reason = "dead", "expired"
        return self.now

    def store(self, number: int, cell: str, ttl: float) -> str:
        """Store a message, unless it is known; return by whom it is kept."""
        if number not in self.known:
            name = self.draw(st.sampled_from([name for name, of in INSTANCES.items() if of == cell]))
            inbox = self.inboxes[name]
            inbox.append(Kept(number, next(self.seqs), self.now + ttl if ttl else float("inf")))
            self.known[number] = name
        return self.known[number]

    def begin(self, *, queued: bool) -> tuple[int, str, float]:
        """Begin a message."""
        number, self.numbers = self.numbers, self.numbers + 1
        cell, ttl = self.draw(st.sampled_from(["pure", "solo"])), self.draw(st.sampled_from([0.0, 0.0, TTL]))
        self.records.append(
            Begun(number=number, message_id=f"m{number}", at=self.passes(), to_cell=cell, queued=queued, ttl=ttl)
        )
        return number, cell, ttl

    def attempt(self, number: int, began: float, **more: Any) -> None:
        """Write an attempt down."""
        self.records.append(Attempt(number=number, began=began, ended=self.passes(), entry="alpha-0", **more))

    def send(self) -> None:
        """Send a message directly, until it is acknowledged or given up."""
        number, cell, ttl = self.begin(queued=False)
        for _ in range(self.draw(st.integers(1, 3))):
            began = self.passes()
            what = self.draw(st.sampled_from(["refused", "request lost", "answer lost", "done", "done"]))
            if what == "refused":
                self.attempt(number, began, status=503, maybe_delivered=False)
            elif what == "request lost":
                self.attempt(number, began, status=0)
            else:
                kept_by = self.store(number, cell, ttl)
                if what == "answer lost":
                    self.attempt(number, began, status=504, maybe_delivered=True, instance=kept_by)
                else:
                    self.attempt(number, began, status=200, acknowledged=True, instance=kept_by)
                    return

    def queue(self) -> None:
        """Queue a message; the answer may be lost."""
        number, cell, ttl = self.begin(queued=True)
        began = self.passes()
        self.queued.append((number, cell, self.now + ttl if ttl else float("inf")))
        if self.chance():
            self.attempt(number, began, status=0)
        self.attempt(number, self.now, status=202, acknowledged=True)

    def deliver(self, *, to_the_end: bool = False) -> None:
        """Deliver some of what is queued, in its order."""
        for _ in range(len(self.queued) if to_the_end else self.draw(st.integers(0, 3))):
            if self.queued:
                number, cell, expires = self.queued.pop(0)
                state, name = "expired", ""
                if expires > self.passes():
                    left = expires - self.now if expires < float("inf") else 0.0
                    state, name = "delivered", self.store(number, cell, left)
                self.records.append(
                    Outcome(number=number, at=self.passes(), entry="alpha-0", state=state, instance=name)
                )

    def consume(self) -> None:
        """Lease something, and do something with it, or die over it."""
        name = self.draw(st.sampled_from(sorted(INSTANCES)))
        began, consumer = self.passes(), f"eater.{self.lives}"
        waiting = [one for one in self.inboxes[name] if one.state == "pending"]
        for one in waiting[: self.draw(st.integers(1, 2))]:
            token = f"t{len(self.records)}"
            one.state, one.token, one.leased_until = "leased", token, self.now + LEASE
            self.records.append(
                Handed(
                    consumer=consumer,
                    instance=name,
                    seq=one.seq,
                    number=one.number,
                    seal=seal(RUN, one.number),
                    began=began,
                    ended=self.passes(1.0),
                    token=token,
                    lease=LEASE,
                )
            )
            action = self.draw(st.sampled_from(["ack", "ack", "ack", "nack", "reject", "extend", "forget", "die"]))
            if action == "die":
                self.records.append(Gone(consumer=consumer, at=self.passes()))
                self.lives += 1
                return
            if action != "forget":
                self.settle(name, one, action)

    def settle(self, name: str, one: Kept, action: str) -> None:
        """Give a message back; the answer may be lost, and so may the consumer before it has asked."""
        asked = Return(action=action, instance=name, seq=one.seq, token=one.token, began=self.passes(), lease=LEASE)
        self.records.append(asked)
        if self.chance() and self.chance():
            return  # it did not come to it
        self.passes(1.0)
        if one.state != "leased" or one.token != asked.token:
            self.records.append(replace(asked, ended=self.now, status=409, code="lease_lost"))
            return
        one.state = {"ack": "consumed", "nack": "pending", "reject": "dead", "extend": "leased"}[action]
        one.reason = "rejected" if action == "reject" else ""
        if action == "extend":
            one.leased_until = self.now + LEASE
        self.records.append(replace(asked, ended=self.passes(0.5), status=200 if self.chance() or self.chance() else 0))

    def look(self, *, final: bool = False) -> None:
        """Read all inboxes."""
        for name, cell in INSTANCES.items():
            at = self.passes(0.2)
            for one in self.inboxes[name]:
                self.records.append(
                    Found(
                        at=at,
                        ended=at,
                        cell=cell,
                        instance=name,
                        seq=one.seq,
                        number=one.number,
                        seal=seal(RUN, one.number),
                        state=one.state,
                        reason=one.reason,
                        final=final,
                    )
                )
            if final:
                self.records.append(Inspected(at=at, cell=cell, instance=name))

    def live(self) -> None:
        """Do any number of things."""
        deeds = [self.send, self.send, self.queue, self.queue, self.deliver, self.consume, self.consume, self.look]
        for deed in self.draw(st.lists(st.sampled_from(deeds), min_size=5, max_size=40)):
            deed()
        self.deliver(to_the_end=True)


def rules(world: World) -> set[str]:
    """Read everything for the last time; return the rules that were broken."""
    world.look(final=True)
    return set(compare(world.records, RUN).rules())


@given(st.data())
@settings(max_examples=60)
def test_a_mesh_that_keeps_its_promises_balances(data: st.DataObject) -> None:
    """Whatever is lost, dies, expires or is sent again."""
    world = World(data.draw)
    world.live()
    assert rules(world) == set()


@given(st.data())
@settings(max_examples=30)
def test_a_message_that_vanishes_is_lost(data: st.DataObject) -> None:
    """One that was acknowledged, and that nobody had tried to consume."""
    world = World(data.draw)
    world.send()
    world.records.append(Begun(number=900, message_id="m900", at=world.passes(), to_cell="solo"))
    kept_by = world.store(900, "solo", 0.0)
    world.attempt(900, world.now, status=200, acknowledged=True, instance=kept_by)
    if world.chance():
        world.look()
    world.inboxes["solo-0"] = [one for one in world.inboxes["solo-0"] if one.number != 900]
    world.known[900] = kept_by
    world.send()
    assert rules(world) == {"lost"}


@given(st.data())
@settings(max_examples=30)
def test_a_message_that_is_stored_again_is_doubled(data: st.DataObject) -> None:
    """In the same inbox, or one that no attempt was for."""
    world = World(data.draw)
    world.live()
    there = [(name, one) for name, inbox in world.inboxes.items() for one in inbox]
    if there:
        name, one = data.draw(st.sampled_from(there))
        inbox = world.inboxes[name]
        inbox.append(Kept(one.number, next(world.seqs), float("inf")))
        assert "doubled" in rules(world)


@given(st.data())
@settings(max_examples=30)
def test_a_message_that_is_handed_out_under_a_lease_is_noticed(data: st.DataObject) -> None:
    """To anybody, before the lease has run out and without its having been given back."""
    world = World(data.draw)
    world.send()
    name = data.draw(st.sampled_from(sorted(INSTANCES)))
    world.records.append(Begun(number=900, message_id="m900", at=world.passes(), to_cell=INSTANCES[name]))
    world.known[900] = name
    inbox = world.inboxes[name]
    inbox.append(Kept(900, next(world.seqs), float("inf"), "leased"))
    world.attempt(900, world.now, status=200, acknowledged=True, instance=name)
    for consumer in ("one", data.draw(st.sampled_from(["one", "two"]))):
        began = world.passes()
        world.records.append(
            Handed(
                consumer=consumer,
                instance=name,
                seq=inbox[-1].seq,
                number=900,
                seal=seal(RUN, 900),
                began=began,
                ended=world.passes(),
                token=f"t{began}",
                lease=LEASE,
            )
        )
    assert rules(world) == {"handed twice"}


@given(st.data())
@settings(max_examples=30)
def test_messages_that_change_places_are_out_of_order(data: st.DataObject) -> None:
    """Two that were queued one after the other, to a cell of one instance."""
    world = World(data.draw)
    for number in (900, 901):
        world.records.append(
            Begun(number=number, message_id=f"m{number}", at=world.passes(), to_cell="solo", queued=True)
        )
        world.attempt(number, world.now, status=202, acknowledged=True)
        world.queued.append((number, "solo", float("inf")))
        world.passes()
    world.queued.reverse()
    world.deliver(to_the_end=True)
    assert rules(world) == {"order"}
