"""Messages to siblings and from them: what is on disk at every step, and what becomes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

import inboxes
from cellmesh.inbox import Inbox, Leased, LeaseRequest, Outcome, Transaction, Verdict, WorkFailed, moving
from cellmesh.inbox.moving import Lot, handed_over
from cellmesh.protocol.fields import Priority
from cellmesh.protocol.handover import HandedMessage, HandedRecord, accept_handed
from cellmesh.protocol.messages import Identity, encode
from cellmesh.protocol.receipts import Transition
from inboxes import HandClock, everything, find, message, opened, put, verdicts
from support import eventually

T = TypeVar("T")

#: As much as there is.
ALL = 1 << 40
SIBLING = Identity("pure", "default", "pure-1", "uid-1")


def write(inbox: Inbox, execute: Callable[[Transaction], T]) -> T:
    """Do something in a transaction."""
    return asyncio.run(inbox.write(execute))


def lease(inbox: Inbox, most: int = 100) -> list[str]:
    """Lease messages; return their ids."""

    async def leased() -> list[str]:
        given: asyncio.Future[list[Leased] | WorkFailed] = asyncio.get_running_loop().create_future()
        inbox.lease(LeaseRequest(most=most, lease_ms=60_000), given.set_result)
        result = await given
        assert not isinstance(result, WorkFailed)
        return [one.message.message_id for one in result]

    return asyncio.run(leased())


def pending(inbox: Inbox, sibling: str = "pure-1", size: int = ALL, **more: Any) -> Lot:
    """Begin to send pending messages."""
    chosen = {"ready": [sibling], "stuck": []} | more
    return write(inbox, lambda tx: inbox.siblings.pending(tx, sibling, size, **chosen))


def names(lot: Lot) -> list[str]:
    """Return the ids of the messages of a lot."""
    return [one.handed.message.message_id for one in lot.messages]


def seqs(lot: Lot) -> list[int]:
    """Return their positions."""
    return [one.seq for one in lot.messages]


def begun(inbox: Inbox, sibling: str = "pure-1") -> list[str]:
    """Return the ids of the messages that a sibling may have."""
    return names(write(inbox, lambda tx: inbox.siblings.begun(tx, sibling, ALL)))


def arrived(inbox: Inbox, lot: Lot) -> None:
    """Note that a sibling has all of a lot."""
    write(inbox, lambda tx: inbox.siblings.arrived(tx, seqs(lot)))


def returned(inbox: Inbox, lot: Lot, here: str | None = "pure-0") -> None:
    """Note that a sibling has none of a lot."""
    write(inbox, lambda tx: inbox.siblings.returned(tx, lot, seqs(lot), here))


def take(inbox: Inbox, handed: list[HandedMessage], from_instance: str = "pure-0") -> list[Outcome]:
    """Have an inbox, that of pure-1, take messages over."""
    items = [accept_handed(one, from_instance, SIBLING) for one in handed]
    return write(inbox, lambda tx: inbox.siblings.take(tx, items, from_instance, SIBLING.instance))


def handed(lot: Lot) -> list[HandedMessage]:
    """Return what is sent of a lot."""
    return [one.handed for one in lot.messages]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Inbox, Inbox]]:
    """Open the inboxes of two siblings, which share a clock."""
    with opened(tmp_path / "0") as source, opened(tmp_path / "1") as target:
        yield source, target


def test_what_begins_to_move_is_handed_out_to_nobody(pair: tuple[Inbox, Inbox]) -> None:
    """Expect it pending and counted, but leased by nobody; the rest is."""
    source, _ = pair
    put(source, message("a"), message("b"), message("c"))
    lot = pending(source, size=1)
    assert names(lot) == ["a"]
    assert not lot.maybe
    assert lease(source) == ["b", "c"]
    assert (source.gauges.pending, source.gauges.leased) == (1, 2)
    assert begun(source) == ["a"]
    assert begun(source, "pure-2") == []


def test_what_arrived_is_deleted_and_still_recognised(pair: tuple[Inbox, Inbox]) -> None:
    """Expect it here no more, and a repeat to be a duplicate."""
    source, _ = pair
    put(source, message("a"), message("b"))
    arrived(source, pending(source, size=1))
    assert [one.message_id for one in everything(source)] == ["b"]
    assert source.gauges.pending == 1
    assert verdicts(put(source, message("a"))) == ["duplicate"]
    assert begun(source) == []


def test_what_came_back_is_handed_out_again_in_its_place(pair: tuple[Inbox, Inbox]) -> None:
    """Expect it leased before what came after it."""
    source, _ = pair
    put(source, message("a"), message("b"))
    returned(source, pending(source, size=1))
    assert lease(source) == ["a", "b"]


def test_what_was_leased_meanwhile_is_not_touched_by_a_late_answer(pair: tuple[Inbox, Inbox]) -> None:
    """Expect an acknowledgement for what has come back to change nothing."""
    source, _ = pair
    put(source, message("a"))
    lot = pending(source)
    returned(source, lot)
    assert lease(source) == ["a"]
    arrived(source, lot)
    assert (source.gauges.pending, source.gauges.leased) == (0, 1)
    assert [one.state for one in everything(source)] == ["leased"]


def test_the_highest_priority_moves_first_and_all_of_it_moves(pair: tuple[Inbox, Inbox]) -> None:
    """Expect priority, then position; delayed ones too; leased ones never; and what comes later in the next round."""
    source, _ = pair
    put(source, message("leased", priority=Priority.CRITICAL))
    assert lease(source) == ["leased"]
    put(
        source,
        *[
            message(f"{p}{n}", priority=Priority(p), not_before=n)
            for n in range(2)
            for p in ("low", "critical", "high")
        ],
    )
    moved: list[str] = []
    while lot := pending(source, size=1):
        if not lot.messages:
            break
        moved += names(lot)
        arrived(source, lot)
    assert moved == ["critical0", "critical1", "high0", "high1", "low0", "low1"]
    put(source, message("late", priority=Priority.CRITICAL))
    assert names(pending(source)) == ["late"]


def test_what_no_sibling_takes_is_passed_over(pair: tuple[Inbox, Inbox]) -> None:
    """Expect the others to move."""
    source, _ = pair
    put(source, message("a"), message("b"))
    lot = pending(source, size=1)
    returned(source, lot)
    rest = pending(source)
    assert names(rest) == ["b"]
    returned(source, rest)
    assert names(pending(source)) == []  # the end of the first round
    assert names(pending(source, stuck=seqs(lot))) == ["b"]


def test_what_is_kept_for_an_instance_waits_for_it(pair: tuple[Inbox, Inbox]) -> None:
    """Expect it for that sibling alone while that is ready, and for any if it is not; back in its place afterwards."""
    source, _ = pair
    put(source, message("r", for_instance="pure-2"), message("here", for_instance="pure-0"))
    assert write(source, source.siblings.waited_for) == {"pure-2": 1}
    assert lease(source) == ["here"]
    assert names(pending(source, "pure-1", ready=["pure-1", "pure-2"])) == []
    lot = pending(source, "pure-1")
    assert names(lot) == ["r"]
    assert write(source, source.siblings.waited_for) == {"pure-1": 1}
    returned(source, lot)
    assert write(source, source.siblings.waited_for) == {"pure-2": 1}
    lot = write(source, lambda tx: source.siblings.kept(tx, "pure-2", ALL))
    assert names(lot) == ["r"]
    assert lot.messages[0].handed.message.for_instance == "pure-2"
    returned(source, lot, here=None)
    assert lease(source) == ["r"]


def test_what_is_for_a_sibling_that_is_gone_becomes_pending(pair: tuple[Inbox, Inbox]) -> None:
    """Expect what was kept for it and what it may have to be handed out here, with a note."""
    source, _ = pair
    put(source, message("r", for_instance="pure-1"))
    put(source, message("m"))
    write(source, lambda tx: source.siblings.kept(tx, "pure-1", ALL))
    put(source, message("s", for_instance="pure-1"))
    assert write(source, lambda tx: source.siblings.given_up(tx, "pure-1", "it is gone")) == 2
    assert lease(source) == ["r", "m", "s"]
    known = find(source, "r")
    assert known is not None
    assert "it is gone" in [step.reason for step in known.history]


def test_a_message_goes_with_its_past(tmp_path: Path) -> None:
    """Expect all that a sibling needs to go on with it, measured in time that has passed, not by a clock."""
    clock, other = HandClock(), HandClock(seconds=5_000_000.0)
    with (
        opened(tmp_path / "0", clock=clock.steady()) as source,
        opened(tmp_path / "1", clock=other.steady()) as target,
    ):
        put(
            source,
            message(
                "m",
                {"a": [1, "ü"]},
                ttl=100,
                not_before=50,
                priority=Priority.HIGH,
                message_type="query",
                timestamp="2026-01-31T12:00:00Z",
                reply_to="q",
                conversation_id="c",
                traceparent="t",
                tracestate="s",
                from_namespace="n",
                from_instance="alpha-3",
            ),
        )
        clock.advance(30)
        (one,) = handed(pending(source))
        assert (one.age_ms, one.delay_ms, one.message.ttl, one.message.ttl_remaining) == (30_000, 20_000, 100, 70.0)
        one.log.append(Transition("pending", "2026-01-01T00:00:00.000Z", "told"))
        one.delivery_count = 3
        assert verdicts(take(target, [one])) == ["stored"]
        before, after = find(source, "m"), find(target, "m")
        assert before is not None
        assert after is not None
        changing = {"seq", "received_at", "available_at", "history", "delivery_count", "state"}
        assert {k: v for k, v in plain(before).items() if k not in changing} == {
            k: v for k, v in plain(after).items() if k not in changing
        }
        assert (after.delivery_count, after.received_at) == (3, "1970-02-27T20:52:50.000Z")
        assert [step.reason for step in after.history] == [None, "told"]
        assert lease(target) == []
        other.advance(21)
        write(target, lambda _: None)
        eventually(lambda: lease(target) == ["m"], within=5, message="the message after its delay")
        assert find(target, "m").delivery_count == 4  # type: ignore[union-attr]


def plain(value: Any) -> dict[str, Any]:
    """Return a message as JSON."""
    return dict(msgspec.json.decode(encode(value)))


def test_a_repeat_of_a_hand_over_is_a_duplicate(pair: tuple[Inbox, Inbox]) -> None:
    """Expect a message asked about again to be there once, also after it was consumed, and a changed one refused."""
    source, target = pair
    put(source, message("a"), message("b"))
    lot = handed(pending(source))
    assert verdicts(take(target, lot)) == ["stored", "stored"]
    assert verdicts(take(target, lot)) == ["duplicate", "duplicate"]
    assert lease(target) == ["a", "b"]
    assert verdicts(take(target, lot)) == ["duplicate", "duplicate"]
    lot[0].message.message_type = "another"
    assert verdicts(take(target, lot)) == ["conflict", "duplicate"]
    assert target.gauges.total == 2


def test_a_record_stands_for_a_repeat_but_not_for_a_hand_over(pair: tuple[Inbox, Inbox]) -> None:
    """Expect a repeat of a message whose record came to be a duplicate, and the message itself to be taken."""
    source, target = pair
    put(source, message("gone"), message("open"))
    lot = pending(source, size=1)
    arrived(source, lot)
    found = write(source, source.siblings.records)
    assert [one.message_id for one in found.records] == ["gone"]
    assert found.before is None
    for _ in range(2):
        assert write(target, lambda tx: target.siblings.take_records(tx, found.records)) is None
    assert verdicts(put(target, message("gone"), message("gone", {"other": 1}))) == ["duplicate", "conflict"]
    assert target.gauges.total == 0
    assert verdicts(take(target, handed(lot))) == ["stored"]
    assert verdicts(take(target, handed(lot))) == ["duplicate"]
    assert lease(target) == ["gone"]


def test_records_are_passed_on_newest_first_in_lots(pair: tuple[Inbox, Inbox], monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect all of them in the end, those that came from siblings too, and none of a message that waits here."""
    monkeypatch.setattr(moving, "MAX_RECORDS", 2)
    source, target = pair
    put(source, *[message(f"m{number}") for number in range(5)])
    lot = pending(source)
    arrived(source, lot)
    found: list[str] = []
    before: int | None = moving.NEWEST
    while before is not None:
        records = write(source, lambda tx, before=before: source.siblings.records(tx, before))  # type: ignore[misc]
        write(target, lambda tx, records=records: target.siblings.take_records(tx, records.records))  # type: ignore[misc]
        found += [one.message_id for one in records.records]
        before = records.before
    assert found == ["m4", "m3", "m2", "m1", "m0"]
    put(target, message("own"))
    monkeypatch.setattr(moving, "MAX_RECORDS", 100)
    passed = write(target, target.siblings.records)
    assert sorted(one.message_id for one in passed.records) == sorted(found)


def test_records_are_forgotten_when_they_are_due(tmp_path: Path) -> None:
    """Expect a repeat to be recognised for as long as at the sibling that it came from, and no longer."""
    clock = HandClock()
    with (
        opened(tmp_path / "0", clock=clock.steady()) as source,
        opened(tmp_path / "1", clock=clock.steady()) as target,
    ):
        put(source, message("m", ttl=0))
        arrived(source, pending(source))
        clock.advance(500)
        records = write(source, source.siblings.records).records
        assert (records[0].age_ms, records[0].keep_ms) == (500_000, 100_000)
        write(target, lambda tx: target.siblings.take_records(tx, records))
        clock.advance(99)
        assert verdicts(put(target, message("m", ttl=0))) == ["duplicate"]
        clock.advance(2)
        eventually(lambda: verdicts(put(target, message("m", ttl=0))) == ["stored"], within=5, message="it forgotten")


def test_records_and_positions_survive_a_restart(tmp_path: Path) -> None:
    """Expect messages to be stored as ever beside records, before and after the file was opened again."""
    with opened(tmp_path / "0") as source:
        put(source, message("a"), message("b"))
        arrived(source, pending(source))
        records = write(source, source.siblings.records).records
    with opened(tmp_path / "1") as target:
        write(target, lambda tx: target.siblings.take_records(tx, records))
        assert [one.seq for one in put(target, message("x"))] == [1]
    with opened(tmp_path / "1") as target:
        assert target.gauges.received == 1
        assert [one.seq for one in put(target, message("y"))] == [2]
        assert verdicts(put(target, message("a"))) == ["duplicate"]
        assert find(target, "a") is None


def test_what_is_on_its_way_is_so_after_a_restart(tmp_path: Path) -> None:
    """Expect what had begun and what is kept to be found again, and to be handed out to nobody."""
    with opened(tmp_path) as inbox:
        put(inbox, message("moving"), message("kept", for_instance="pure-2"), message("open"))
        assert names(pending(inbox, size=1)) == ["moving"]
    with opened(tmp_path) as inbox:
        assert write(inbox, inbox.siblings.waited_for) == {"pure-1": 1, "pure-2": 1}
        assert begun(inbox) == ["moving"]
        assert lease(inbox) == ["open"]


def test_what_comes_back_from_where_it_was_going_is_pending_again(pair: tuple[Inbox, Inbox]) -> None:
    """Expect a message that a sibling hands back, before it has said that it has it, to be handed out here, once."""
    source, _ = pair
    put(source, message("m"), message("other"))
    lot = pending(source, "pure-1", size=1)
    back = [accept_handed(one, "pure-1", inboxes.HERE) for one in handed(lot)]
    assert verdicts(write(source, lambda tx: source.siblings.take(tx, back, "pure-2", "pure-0"))) == ["duplicate"]
    assert begun(source) == ["m"]
    assert verdicts(write(source, lambda tx: source.siblings.take(tx, back, "pure-1", "pure-0"))) == ["duplicate"]
    assert begun(source) == []
    assert lease(source) == ["m", "other"]


def test_what_was_handed_over_and_is_handed_back_is_stored_again_once(pair: tuple[Inbox, Inbox]) -> None:
    """Expect it in one of the inboxes, also where an answer was lost and it is sent a second time."""
    source, target = pair

    def sent(lot: Lot, by: str) -> list[HandedMessage]:
        return [
            msgspec.structs.replace(one, log=[*one.log, handed_over(by, source.clock.now_ms())]) for one in handed(lot)
        ]

    def back(by: Inbox, to: list[HandedMessage]) -> list[str]:
        items = [accept_handed(one, "pure-1", inboxes.HERE) for one in to]
        return verdicts(write(by, lambda tx: by.siblings.take(tx, items, "pure-1", "pure-0")))

    put(source, message("m"))
    lot = pending(source, "pure-1")
    there = sent(lot, "pure-0")
    assert verdicts(take(target, there)) == ["stored"]
    arrived(source, lot)
    lot = pending(target, "pure-0")
    again = sent(lot, "pure-1")
    assert back(source, again) == ["stored"]
    assert back(source, again) == ["duplicate"]
    arrived(target, lot)
    assert verdicts(take(target, there)) == ["duplicate"]
    assert verdicts(put(source, message("m"))) == verdicts(put(target, message("m"))) == ["duplicate"]
    assert (lease(source), lease(target)) == (["m"], [])


def test_what_expires_on_its_way_is_no_dead_letter_until_that_is_known(tmp_path: Path) -> None:
    """Expect one that a sibling may have to stay, with nothing left of its ttl; and to expire once it is back."""
    clock = HandClock()
    with opened(tmp_path, clock=clock.steady()) as inbox:
        put(inbox, message("moving", ttl=10), message("kept", ttl=10, for_instance="pure-2"))
        lot = pending(inbox, size=1)
        clock.advance(11)
        eventually(lambda: inbox.gauges.dead == 1, within=5, message="the kept one to expire")
        known = find(inbox, "kept")
        assert known is not None
        assert (known.state, known.reason) == ("dead", "expired")
        assert write(inbox, inbox.siblings.waited_for) == {"pure-1": 1}
        again = write(inbox, lambda tx: inbox.siblings.begun(tx, "pure-1", ALL))
        assert [one.handed.message.ttl_remaining for one in again.messages] == [0.0]
        returned(inbox, lot)
        eventually(lambda: inbox.gauges.dead == 2, within=5, message="the other one to expire")


def test_an_inbox_has_its_bounds_for_siblings_too(tmp_path: Path, pair: tuple[Inbox, Inbox]) -> None:
    """Expect what there is no room for to be refused by itself, and repeats to be recognised all the same."""
    source, _ = pair
    put(source, *[message(f"m{number}") for number in range(4)])
    lot = handed(pending(source))
    with opened(tmp_path / "small", inboxes.limits(max_messages=2)) as small:
        assert verdicts(take(small, lot)) == ["stored", "stored", "inbox_full", "inbox_full"]
        assert verdicts(take(small, lot)) == ["duplicate", "duplicate", "inbox_full", "inbox_full"]
    with opened(tmp_path / "full", inboxes.limits(disk_reserve=1 << 60)) as full:
        assert verdicts(take(full, lot[:1])) == ["disk_full"]
        record = HandedRecord("m", "0" * 32, "0" * 32, 1, 1000)
        assert write(full, lambda tx: full.siblings.take_records(tx, [record])) is Verdict.DISK_FULL


def test_messages_taken_over_are_handed_out_with_those_that_came(pair: tuple[Inbox, Inbox]) -> None:
    """Expect the order of positions, whoever brought them, also where both came in one group."""
    source, target = pair
    put(source, *[message(f"h{number}") for number in range(3)])
    items = [accept_handed(one, "pure-0", SIBLING) for one in handed(pending(source))]

    async def both() -> None:
        stored = inboxes.storing(target, [message("first")])
        taken = asyncio.ensure_future(target.write(lambda tx: target.siblings.take(tx, items, "pure-0", "pure-1")))
        await asyncio.sleep(0)
        later = inboxes.storing(target, [message("second")])
        await asyncio.gather(stored, taken, later)

    asyncio.run(both())
    assert lease(target) == [one.message_id for one in everything(target)]
    assert target.gauges.leased == 5
