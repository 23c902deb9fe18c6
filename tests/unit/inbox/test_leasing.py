"""Leases: handed out once, settled once, and as good as before after a restart."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import apsw
import pytest

from cellmesh.inbox import Holder, Inbox, Leased, LeaseRequest, Settlement, Verb, WorkFailed, writer
from cellmesh.inbox import leasing as module
from cellmesh.protocol.fields import Priority
from inboxes import HandClock, find, limits, message, opened, put, verdicts
from leases import LONG, codes, ids, lease, settle, state, written
from support import eventually


def test_the_highest_priority_goes_first_and_the_oldest_within_one(tmp_path: Path) -> None:
    """Expect that order, over several leases, and each message once."""
    with opened(tmp_path) as inbox:
        put(
            inbox,
            *(
                message(f"{p}-{n}", priority=Priority(p))
                for n in range(3)
                for p in ("low", "critical", "normal", "high")
            ),
        )
        taken = lease(inbox, 5) + lease(inbox, 100)
        assert ids(taken) == [f"{p}-{n}" for p in ("critical", "high", "normal", "low") for n in range(3)]
        assert lease(inbox, 10) == []
        assert inbox.gauges.leased == 12
        assert {one.message.state for one in taken} == {"leased"}
        assert {one.message.delivery_count for one in taken} == {1}


def test_only_the_types_asked_for(tmp_path: Path) -> None:
    """Expect the others to stay."""
    with opened(tmp_path) as inbox:
        put(
            inbox, *(message(f"{kind}-{n}", message_type=kind) for n in range(2) for kind in ("query", "event", "sync"))
        )
        assert ids(lease(inbox, 10, types=["event", "sync"])) == ["event-0", "sync-0", "event-1", "sync-1"]
        assert ids(lease(inbox, 10, types=["nothing"])) == []
        assert ids(lease(inbox, 10)) == ["query-0", "query-1"]


@pytest.mark.parametrize("by_id", [False, True])
def test_an_acked_message_is_consumed_and_the_ack_can_be_repeated(tmp_path: Path, by_id: bool) -> None:
    """Expect it never again, and no error for an ack whose answer was lost."""
    with opened(tmp_path) as inbox:
        put(inbox, message("a"), message("b"))
        taken = lease(inbox, 2)
        assert codes(settle(inbox, Verb.ACK, *taken, by_id=by_id)) == ["", ""]
        assert codes(settle(inbox, Verb.ACK, *taken, by_id=by_id)) == ["", ""]
        assert state(inbox, "a") == "consumed"
        assert inbox.gauges.consumed == 2
        assert lease(inbox, 10) == []
    with opened(tmp_path) as inbox:
        assert lease(inbox, 10) == []
        assert codes(settle(inbox, Verb.ACK, *taken)) == ["", ""]


def test_each_item_has_its_own_outcome(tmp_path: Path) -> None:
    """Expect a wrong token and an unknown message to fail alone."""
    with opened(tmp_path) as inbox:
        put(inbox, message("a"), message("b"))
        one, two = lease(inbox, 2)
        wrong = Leased(two.message, "not the token")
        missing = Settlement(verb=Verb.ACK, lease_token=one.lease_token, message_id="nobody's")
        assert codes(settle(inbox, Verb.ACK, one, wrong, one)) == ["", "lease_lost", ""]
        assert codes(asyncio.run(written(lambda done: inbox.settle([missing], done)))) == ["unknown_message"]
        assert (state(inbox, "a"), state(inbox, "b")) == ("consumed", "leased")


def test_a_lease_that_ran_out_is_lost_and_the_message_handed_out_again(tmp_path: Path) -> None:
    """Expect an ack after the deadline to be refused, before and after somebody else has the message."""
    clock = HandClock()
    with opened(tmp_path, clock=clock.steady()) as inbox:
        put(inbox, message("a", ttl=0))
        first = lease(inbox, 1, 1000)
        clock.advance(0.999)
        assert codes(settle(inbox, Verb.EXTEND, *first, lease_ms=1000)) == [""]
        clock.advance(1.0)
        assert codes(settle(inbox, Verb.ACK, *first)) == ["lease_lost"]
        second = eventually(lambda: lease(inbox), within=10)
        assert second[0].message.delivery_count == 2
        assert codes(settle(inbox, Verb.ACK, *first)) == ["lease_lost"]
        assert codes(settle(inbox, Verb.NACK, *first)) == ["lease_lost"]
        assert codes(settle(inbox, Verb.ACK, *second)) == [""]
        history = find(inbox, "a")
        assert history is not None
        assert [step.state for step in history.history] == ["pending", "pending", "leased", "consumed"]
        assert history.history[1].reason == "lease ran out"


def test_after_so_many_deliveries_a_message_is_a_dead_letter(tmp_path: Path) -> None:
    """Expect the reasons of each failure in its history."""
    with opened(tmp_path, limits(max_deliveries=3)) as inbox:
        put(inbox, message("a"))
        for number in range(3):
            settled = settle(inbox, Verb.NACK, *lease(inbox), reason=f"fault {number}")
            assert codes(settled) == [""]
        assert state(inbox, "a") == "dead: max_deliveries"
        assert lease(inbox) == []
        assert (inbox.gauges.dead, inbox.gauges.pending, inbox.gauges.leased) == (1, 0, 0)
        found = find(inbox, "a")
        assert found is not None
        assert [step.reason for step in found.history if step.reason] == [
            "fault 0",
            "fault 1",
            "fault 2",
            "max_deliveries",
        ]


def test_a_message_that_is_handed_back_was_not_delivered(tmp_path: Path) -> None:
    """Expect no count for it, however often."""
    with opened(tmp_path, limits(max_deliveries=1)) as inbox:
        put(inbox, message("a"))
        for _ in range(3):
            assert codes(settle(inbox, Verb.NACK, *lease(inbox), release=True)) == [""]
        assert lease(inbox)[0].message.delivery_count == 1


def test_a_rejected_message_is_a_dead_letter_at_once(tmp_path: Path) -> None:
    """Expect the reason, and that saying it again is no error."""
    with opened(tmp_path) as inbox:
        put(inbox, message("a"))
        taken = lease(inbox)
        assert codes(settle(inbox, Verb.NACK, *taken, reject=True, reason="no such order")) == [""]
        assert codes(settle(inbox, Verb.NACK, *taken, reject=True)) == [""]
        assert codes(settle(inbox, Verb.ACK, *taken)) == ["lease_lost"]
        assert state(inbox, "a") == "dead: rejected"


def test_a_nacked_message_waits_for_its_delay(tmp_path: Path) -> None:
    """Expect it after the delay, not before."""
    clock = HandClock()
    with opened(tmp_path, clock=clock.steady()) as inbox:
        put(inbox, message("a", ttl=0))
        settle(inbox, Verb.NACK, *lease(inbox), delay_ms=5000)
        assert lease(inbox) == []
        clock.advance(4.9)
        assert lease(inbox) == []
        clock.advance(0.2)
        assert ids(eventually(lambda: lease(inbox), within=10)) == ["a"]


def test_a_delayed_message_is_handed_out_when_its_time_has_come(tmp_path: Path) -> None:
    """Expect not_before on the monotonic clock: a step of the wall clock changes nothing; a restart neither."""
    clock = HandClock()
    with opened(tmp_path, clock=clock.steady()) as inbox:
        put(inbox, message("late", ttl=0, not_before=60), message("now", ttl=0))
        clock.wall += 3600
        assert ids(lease(inbox, 10)) == ["now"]
        clock.wall -= 3600
        clock.advance(30)
    with opened(tmp_path, clock=clock.steady()) as inbox:
        assert lease(inbox) == []
        clock.advance(31)
        assert ids(eventually(lambda: lease(inbox), within=10)) == ["late"]


def test_a_clock_set_back_while_nothing_ran_holds_no_message_longer_than_its_delay(tmp_path: Path) -> None:
    """Expect a delay of at most its whole length after the restart."""
    clock = HandClock()
    with opened(tmp_path, clock=clock.steady()) as inbox:
        put(inbox, message("late", ttl=0, not_before=60), message("nacked", ttl=0))
        clock.advance(10)
        settle(inbox, Verb.NACK, *lease(inbox), delay_ms=20_000)
    clock.wall -= 7200
    with opened(tmp_path, clock=clock.steady()) as inbox:
        clock.advance(20.1)
        assert ids(eventually(lambda: lease(inbox), within=10)) == ["nacked"]
        clock.advance(40)
        assert ids(eventually(lambda: lease(inbox), within=10)) == ["late"]


def test_leases_of_clients_survive_a_restart_and_run_their_full_length_anew(tmp_path: Path) -> None:
    """Expect the token to be good for as long as at first, and the message to be handed out to nobody else."""
    clock = HandClock()
    with opened(tmp_path, clock=clock.steady()) as inbox:
        put(inbox, message("a", ttl=0))
        taken = lease(inbox, 1, 10_000)
        clock.advance(9)
    clock.advance(100)
    with opened(tmp_path, clock=clock.steady()) as inbox:
        clock.advance(9.9)
        assert lease(inbox) == []
        assert codes(settle(inbox, Verb.ACK, *taken)) == [""]
        assert state(inbox, "a") == "consumed"


def test_the_totals_know_of_the_leases_that_ended_with_their_process(tmp_path: Path) -> None:
    """Expect them to be what is in the file; else a message that is held back would be forgotten until a restart."""
    with opened(tmp_path, limits(max_deliveries=2)) as inbox:
        put(inbox, message("a"))
        lease(inbox, holder=Holder.HANDLER)
    with opened(tmp_path, limits(max_deliveries=2)) as inbox:
        assert (inbox.gauges.pending, inbox.gauges.leased, inbox.gauges.dead) == (1, 0, 0)
        lease(inbox, holder=Holder.HANDLER)
    with opened(tmp_path, limits(max_deliveries=2)) as inbox:
        assert (inbox.gauges.pending, inbox.gauges.leased, inbox.gauges.dead) == (0, 0, 1)


def test_leases_of_handlers_end_with_their_process_and_count(tmp_path: Path) -> None:
    """Expect the message at once after the restart; one that killed its process often enough is dead."""
    for delivery in (1, 2):
        with opened(tmp_path, limits(max_deliveries=2)) as inbox:
            if delivery == 1:
                put(inbox, message("a", ttl=0))
            (taken,) = lease(inbox, holder=Holder.HANDLER)
            assert taken.message.delivery_count == delivery
    with opened(tmp_path, limits(max_deliveries=2)) as inbox:
        assert lease(inbox) == []
        assert state(inbox, "a") == "dead: max_deliveries"
        assert codes(settle(inbox, Verb.ACK, taken)) == ["lease_lost"]


def test_a_ttl_that_passes_during_a_lease_does_not_void_it(tmp_path: Path) -> None:
    """Expect the ack to be taken; and a message given back after its ttl to be expired."""
    clock = HandClock()
    with opened(tmp_path, clock=clock.steady()) as inbox:
        put(inbox, message("a", ttl=5), message("b", ttl=5))
        one, two = lease(inbox, 2)
        clock.advance(6)
        assert codes(settle(inbox, Verb.ACK, one)) == [""]
        assert codes(settle(inbox, Verb.NACK, two)) == [""]
        assert lease(inbox) == []
        eventually(lambda: state(inbox, "b") == "dead: expired", within=10)
        assert state(inbox, "a") == "consumed"


def test_a_message_that_is_due_to_expire_is_not_handed_out(tmp_path: Path) -> None:
    """Expect its ttl to hold also before upkeep has looked at it."""
    clock = HandClock()
    with opened(tmp_path, clock=clock.steady()) as inbox:
        put(inbox, message("a", ttl=5), message("b", ttl=50))
        clock.advance(5)
        assert ids(lease(inbox, 2)) == ["b"]


def test_a_consumer_that_waits_gets_the_next_message(tmp_path: Path) -> None:
    """Expect those who wait to be served in turn, each with messages of its types."""

    async def consume(inbox: Inbox) -> list[list[str]]:
        until = inbox.clock.now_ms() + 30_000
        asked = [LeaseRequest(1, LONG, types=kinds, wait_until=until) for kinds in (["event"], None, None)]
        waiting = [asyncio.ensure_future(written(lambda done, one=one: inbox.lease(one, done))) for one in asked]
        await asyncio.sleep(0)
        for kind in ("query", "query", "event"):
            stored = asyncio.get_running_loop().create_future()
            number = sum(task.done() for task in waiting)
            inbox.put([message(f"{kind}-{number}", message_type=kind)], stored.set_result)
            await stored
            async with asyncio.timeout(10):
                while sum(task.done() for task in waiting) == number:
                    await asyncio.wait([task for task in waiting if not task.done()], return_when="FIRST_COMPLETED")
        return [ids(task.result()) for task in waiting]

    with opened(tmp_path) as inbox:
        assert asyncio.run(consume(inbox)) == [["event-2"], ["query-0"], ["query-1"]]


def test_a_wait_ends_with_nothing_and_one_that_is_cancelled_takes_nothing(tmp_path: Path) -> None:
    """Expect an empty list at the end of the wait, and a message that comes later to stay for others."""
    with opened(tmp_path) as inbox:
        assert lease(inbox, wait_until=inbox.clock.now_ms() + 50) == []

        async def cancel() -> list[Leased]:
            request = LeaseRequest(1, LONG, wait_until=inbox.clock.now_ms() + 60_000)
            waiting = asyncio.ensure_future(written(lambda done: inbox.lease(request, done)))
            await asyncio.sleep(0)
            request.cancelled = True
            inbox.poke()
            return list(await waiting)

        assert asyncio.run(cancel()) == []
        put(inbox, message("a"))
        assert ids(lease(inbox)) == ["a"]


def test_a_lease_ends_at_so_many_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect at least one message, and the others with the next lease, in order."""
    monkeypatch.setattr(module, "MAX_LEASE_BYTES", 1000)
    with opened(tmp_path) as inbox:
        put(inbox, *(message(f"{n}", {"filling": "x" * 600}) for n in range(4)))
        assert ids(lease(inbox, 10)) == ["0"]
        assert ids(lease(inbox, 10)) == ["1"]
        put(inbox, message("huge", {"filling": "x" * 5000}, priority=Priority.HIGH))
        assert ids(lease(inbox, 10)) == ["huge"]


def test_leased_messages_count_against_the_bounds_and_acked_ones_do_not(tmp_path: Path) -> None:
    """Expect room again only after the ack."""
    with opened(tmp_path, limits(max_messages=2)) as inbox:
        put(inbox, message("a"), message("b"))
        taken = lease(inbox)
        assert verdicts(put(inbox, message("c"))) == ["inbox_full"]
        settle(inbox, Verb.ACK, *taken)
        assert verdicts(put(inbox, message("c"), message("a"))) == ["stored", "duplicate"]


def test_a_group_that_is_rolled_back_hands_out_what_it_took(tmp_path: Path) -> None:
    """Expect a piece of work that fails to spoil neither the lease beside it nor the order."""

    async def both(inbox: Inbox) -> tuple[list[Leased], Any]:
        def broken(tx: Any) -> None:
            raise RuntimeError("the payload must not be in the log")

        spoilt: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        # Held up, so that both come into one group.
        inbox.writer.submit(lambda _: asyncio.run(asyncio.sleep(0.2)), lambda _: None)
        taken = asyncio.ensure_future(written(lambda done: inbox.lease(LeaseRequest(2, LONG), done)))
        await asyncio.sleep(0)
        inbox.writer.submit(broken, spoilt.set_result)
        return await taken, await spoilt

    with opened(tmp_path) as inbox:
        put(inbox, message("a"), message("b"), message("c"))
        taken, failed = asyncio.run(both(inbox))
        assert ids(taken) == ["a", "b"]
        assert isinstance(failed, WorkFailed)
        assert str(failed) == "RuntimeError"
        assert ids(lease(inbox, 10)) == ["c"]
        assert (inbox.gauges.pending, inbox.gauges.leased) == (0, 3)


def test_what_is_due_and_cannot_be_written_is_tried_at_intervals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Expect a lease that runs out on a full disk not to keep the writer busy, and to end once there is room."""
    clock, tries = HandClock(), []
    step = module.Leasing.step

    def full(self: module.Leasing, tx: Any) -> bool:
        tries.append(1)
        raise apsw.FullError("database or disk is full")

    with opened(tmp_path, clock=clock.steady()) as inbox:
        put(inbox, message("a", ttl=0))
        lease(inbox, 1, 1000)
        monkeypatch.setattr(module.Leasing, "step", full)
        clock.advance(2)
        eventually(lambda: tries, within=10)
        began = time.monotonic()
        eventually(lambda: len(tries) >= 3, within=10)
        assert time.monotonic() - began >= writer.UPKEEP_INTERVAL
        monkeypatch.setattr(module.Leasing, "step", step)
        assert ids(eventually(lambda: lease(inbox), within=10)) == ["a"]


def test_what_expired_does_not_fill_the_memory(tmp_path: Path) -> None:
    """Expect the order kept in memory to be made anew once most of it has expired without a consumer."""
    clock = HandClock()
    with opened(tmp_path, clock=clock.steady()) as inbox:
        for start in range(0, 6000, 250):
            put(inbox, *(message(f"{n}", message_type=str(n % 7), ttl=5) for n in range(start, start + 250)))
        clock.advance(6)
        eventually(lambda: inbox.gauges.pending == 0, within=30)
        eventually(lambda: inbox.writer.leasing.ready.size == 0, within=10)
        put(inbox, message("new"))
        assert ids(lease(inbox, 10)) == ["new"]


def test_only_what_is_handed_out_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect a lease of many large messages to read no more payloads than it may hand out, and all to come whole."""
    monkeypatch.setattr(module, "MAX_LEASE_BYTES", 100_000)
    read: list[int] = []
    find = module.Leasing._find

    def counting(self: module.Leasing, *arguments: Any) -> Any:
        found = find(self, *arguments)
        read.append(sum(len(row[module.rows.PAYLOAD] or b"") for row in found.values()))
        return found

    monkeypatch.setattr(module.Leasing, "_find", counting)
    with opened(tmp_path) as inbox:
        sizes = {f"{n}": 40_000 if n % 2 else 10 for n in range(40)}
        put(inbox, *(message(name, {"filling": "x" * size}) for name, size in sizes.items()))
        got: list[Leased] = []
        while taken := lease(inbox, 1000):
            assert sum(len(bytes(one.message.payload)) for one in taken) <= 100_000
            got += taken
        assert ids(got) == list(sizes)
        assert {one.message.message_id: len(bytes(one.message.payload)) - 14 for one in got} == sizes
        assert max(read) <= 100_000


def test_leases_that_were_settled_early_do_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect what is kept in memory to grow with what is leased, not with how long it might have been."""
    monkeypatch.setattr(module, "SLACK", 50)
    with opened(tmp_path) as inbox:
        put(inbox, message("held"))
        (held,) = lease(inbox)
        for start in range(0, 1000, 100):
            put(inbox, *(message(f"{n}") for n in range(start, start + 100)))
            settle(inbox, Verb.ACK, *lease(inbox, 100))
        for _ in range(100):
            assert codes(settle(inbox, Verb.EXTEND, held, lease_ms=LONG)) == [""]
        leasing = inbox.writer.leasing
        assert len(leasing._running) <= 2 * 101 + 50
        assert list(leasing._deadlines) == [held.message.seq]
        assert codes(settle(inbox, Verb.ACK, held)) == [""]
        assert leasing.next_due() is None


def test_what_expired_while_it_was_held_back_does_not_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Expect delays far beyond the ttl to be forgotten with their messages."""
    monkeypatch.setattr(module, "SLACK", 50)
    clock = HandClock()
    with opened(tmp_path, clock=clock.steady()) as inbox:
        put(inbox, message("stays", ttl=0))
        (stays,) = lease(inbox)
        for start in range(0, 300, 100):
            put(inbox, *(message(f"{n}", ttl=5) for n in range(start, start + 100)))
            settle(inbox, Verb.NACK, *lease(inbox, 100), delay_ms=86_400_000)
        settle(inbox, Verb.NACK, stays, delay_ms=7000)
        clock.advance(6)
        eventually(lambda: inbox.gauges.dead == 300, within=10)
        eventually(lambda: len(inbox.writer.leasing._delayed) <= 52, within=10)
        clock.advance(2)
        assert ids(eventually(lambda: lease(inbox), within=10)) == ["stays"]


def test_what_expired_in_front_is_passed_over_in_few_statements(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Expect a lease of one message not to look at thousands one by one."""
    looks: list[int] = []
    find = module.Leasing._find

    def counting(self: module.Leasing, tx: Any, seqs: list[int]) -> Any:
        looks.append(len(seqs))
        return find(self, tx, seqs)

    monkeypatch.setattr(module.Leasing, "_find", counting)
    clock = HandClock()
    with opened(tmp_path, clock=clock.steady()) as inbox:
        for start in range(0, 3000, 250):
            put(inbox, *(message(f"{n}", ttl=5, priority=Priority.HIGH) for n in range(start, start + 250)))
        put(inbox, *(message(f"alive-{n}", ttl=0) for n in range(3)))
        clock.advance(5)
        eventually(lambda: inbox.gauges.dead == 3000, within=30)
        assert [ids(lease(inbox)) for _ in range(4)] == [["alive-0"], ["alive-1"], ["alive-2"], []]
        assert len(looks) < 20


def test_a_reject_after_a_nack_is_not_taken_for_the_same(tmp_path: Path) -> None:
    """Expect the second to be told that the lease is over: the message is no dead letter."""
    with opened(tmp_path) as inbox:
        put(inbox, message("a"))
        taken = lease(inbox)
        assert codes(settle(inbox, Verb.NACK, *taken)) == [""]
        assert codes(settle(inbox, Verb.NACK, *taken)) == [""]
        assert codes(settle(inbox, Verb.NACK, *taken, reject=True)) == ["lease_lost"]
        assert state(inbox, "a") == "pending"


def test_a_token_settles_only_the_message_that_is_named(tmp_path: Path) -> None:
    """Expect an item whose position and id are of two messages to be unknown."""
    with opened(tmp_path) as inbox:
        put(inbox, message("a"), message("b"))
        one, _ = lease(inbox, 2)
        items = [Settlement(verb=Verb.ACK, lease_token=one.lease_token, seq=1, message_id=name) for name in ("b", "a")]
        settled = asyncio.run(written(lambda done: inbox.settle(items, done)))
        assert codes(settled) == ["unknown_message", ""]


def test_a_consumer_that_waits_is_not_given_what_could_not_be_written(tmp_path: Path) -> None:
    """Expect nothing at the end of its wait if the lease was rolled back, and the message for the next one."""
    clock = HandClock()
    with opened(tmp_path, clock=clock.steady()) as inbox, ThreadPoolExecutor() as pool:
        put(inbox, message("late", ttl=0, not_before=1))
        waiting = pool.submit(lease, inbox, wait_until=inbox.clock.now_ms() + 3000)
        eventually(lambda: inbox.writer.consumers_waiting == 1, within=10)
        inbox._store.connection.set_commit_hook(lambda: True)
        clock.advance(2)
        eventually(lambda: not inbox.writer.leasing._delayed, within=10)
        clock.advance(2)
        assert waiting.result(10) == []
        inbox._store.connection.set_commit_hook(None)
        (taken,) = eventually(lambda: lease(inbox), within=10)
        assert (taken.message.message_id, taken.message.delivery_count) == ("late", 1)
        assert (inbox.gauges.pending, inbox.gauges.leased) == (0, 1)
