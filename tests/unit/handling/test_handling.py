"""Messages to a handler of this process: what becomes of them, on a real inbox."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from cellmesh.inbox import WorkFailed
from cellmesh.protocol.receipts import MessageWithHistory, StoredMessage
from cellmesh.service.outcomes import Backoff, Done, Failed, Later, Outcome, Rejected
from handled import Handle, Running, Scripted, handled_by
from inboxes import HandClock
from support import eventually_async


class Called(Running):
    """An inbox whose handler does what the test says."""

    handler: Scripted


@contextlib.asynccontextmanager
async def running(
    directory: Path, handle: Handle, *, types: Sequence[str] | None = None, concurrency: int = 8, **options: Any
) -> AsyncIterator[Called]:
    """Run a handler that does what the test says."""
    scripted = Scripted(handle, types=types, concurrency=concurrency)
    async with handled_by(directory, scripted, **options) as one:
        called = cast("Called", one)
        called.handler = scripted
        yield called


async def done(_: StoredMessage) -> Outcome:
    """Handle a message."""
    return Done()


def returning(outcome: Outcome) -> Handle:
    """Return a handler with always the same outcome."""

    async def handle(_: StoredMessage) -> Outcome:
        return outcome

    return handle


def test_a_message_that_is_handled_is_consumed_and_not_handed_out_again(tmp_path: Path) -> None:
    """Expect each of many messages once, whatever their order of ends."""

    async def play() -> None:
        async with running(tmp_path, done) as one:
            await one.put(*(f"m{number}" for number in range(100)))
            await eventually_async(lambda: one.counters.handled == {"handled": 100}, within=10)
            assert one.inbox.gauges.consumed == 100
            assert sorted(one.handler.given) == sorted(f"m{number}" for number in range(100))

    asyncio.run(play())


def test_a_failing_handler_is_tried_again_after_a_while_and_then_no_more(tmp_path: Path) -> None:
    """Expect as many deliveries as the limit says, then a dead letter whose history has the reason."""

    async def play() -> None:
        async with running(tmp_path, returning(Failed("ValueError"))) as one:
            await one.put("bad")
            dead = await one.becomes("bad", "dead")
            assert (dead.reason, dead.delivery_count) == ("max_deliveries", 3)
            assert one.handler.given == ["bad"] * 3
            assert [step.reason for step in dead.history if step.state == "pending"][1:] == ["ValueError"] * 3

    asyncio.run(play())


def test_between_tries_there_is_a_pause_that_grows() -> None:
    """Expect it doubled with each delivery, by half left to chance, and bounded."""
    backoff = Backoff(first=1.0, most=8.0)
    for tries, whole in ((1, 1.0), (2, 2.0), (3, 4.0), (4, 8.0), (5, 8.0), (10_000, 8.0)):
        drawn = [backoff.after(tries) for _ in range(200)]
        assert min(drawn) >= whole / 2
        assert max(drawn) <= whole
        assert max(drawn) - min(drawn) > whole / 4


def test_a_failed_message_is_held_back(tmp_path: Path) -> None:
    """Expect it pending, with the time from which on it may be handed out, and not given to the handler."""

    async def play() -> None:
        async with running(tmp_path, returning(Failed("ValueError")), backoff=Backoff(60.0, 60.0)) as one:
            await one.put("bad")
            held = await eventually_async(lambda: _held(one), within=10)
            assert held.delivery_count == 1
            assert one.handler.given == ["bad"]

    async def _held(one: Running) -> MessageWithHistory | None:
        found = await one.found("bad")
        return found if found.available_at is not None else None

    asyncio.run(play())


def test_a_rejected_message_is_a_dead_letter_at_once(tmp_path: Path) -> None:
    """Expect one delivery and the reason in the history."""

    async def play() -> None:
        async with running(tmp_path, returning(Rejected("no text in it"))) as one:
            await one.put("bad")
            dead = await one.becomes("bad", "dead")
            assert (dead.reason, dead.delivery_count) == ("rejected", 1)
            assert "no text in it" in {step.reason for step in dead.history}
            assert one.handler.given == ["bad"]

    asyncio.run(play())


def test_a_message_that_is_put_off_counts_no_delivery(tmp_path: Path) -> None:
    """Expect it handed out more often than the limit allows, and handled in the end."""
    left = [Later(0.01, "not now")] * 7

    async def handle(_: StoredMessage) -> Outcome:
        return left.pop() if left else Done()

    async def play() -> None:
        async with running(tmp_path, handle) as one:
            await one.put("later")
            assert (await one.becomes("later", "consumed")).delivery_count == 1
            assert len(one.handler.given) == 8

    asyncio.run(play())


def test_a_slow_handler_is_given_its_message_once(tmp_path: Path) -> None:
    """Expect the lease renewed as long as it runs, here twice its length."""
    go_on = asyncio.Event()

    async def handle(_: StoredMessage) -> Outcome:
        await go_on.wait()
        return Done()

    async def play() -> None:
        async with running(tmp_path, handle, lease=2.0) as one:
            await one.put("slow")
            renewed = set()

            async def twice_over() -> bool:
                found = await one.found("slow")
                renewed.add(found.leased_until)
                return len(renewed - {None}) > 6

            await eventually_async(twice_over, within=30, message="the lease to be renewed six times")
            go_on.set()
            assert (await one.becomes("slow", "consumed")).delivery_count == 1
            assert one.handler.given == ["slow"]

    asyncio.run(play())


def test_a_lease_that_ran_out_under_a_running_handler_is_taken_over_by_it(tmp_path: Path) -> None:
    """Expect one call and an ack, when the whole process stood still for longer than the lease."""
    clock = HandClock()
    go_on = asyncio.Event()

    async def handle(_: StoredMessage) -> Outcome:
        await go_on.wait()
        return Done()

    async def play() -> None:
        async with running(tmp_path, handle, clock=clock, lease=300.0) as one:
            await one.put("slow")
            await one.becomes("slow", "leased")
            clock.advance(301)

            async def again() -> bool:
                found = await one.found("slow")
                return found.state == "leased" and found.delivery_count == 2

            await eventually_async(again, within=10, message="the message to be handed out again")
            go_on.set()
            await one.becomes("slow", "consumed")
            assert one.handler.given == ["slow"]

    asyncio.run(play())


def test_a_message_is_consumed_only_once_its_reply_is_on_disk(tmp_path: Path) -> None:
    """Expect it leased while the reply is not sent yet."""

    async def play() -> None:
        async with running(tmp_path, returning(Done(b'{"n":1}'))) as one:
            one.sending.clear()
            await one.put("asked")
            await eventually_async(lambda: one.handler.given == ["asked"] and one.handler.now == 0, within=10)
            assert (await one.found("asked")).state == "leased"
            one.sending.set()
            await one.becomes("asked", "consumed")
            assert one.replies == [("asked", b'{"n":1}')]

    asyncio.run(play())


def test_a_reply_is_not_answered(tmp_path: Path) -> None:
    """Expect what the handler returns for a message with reply_to sent nowhere."""

    async def play() -> None:
        async with running(tmp_path, returning(Done(b'{"n":1}'))) as one:
            await one.put("reply", reply_to="asked")
            await one.becomes("reply", "consumed")
            assert one.replies == []

    asyncio.run(play())


def test_a_reply_that_cannot_be_sent_is_the_handlers_failure(tmp_path: Path) -> None:
    """Expect the message tried again, then dead, with the code as the reason."""

    async def play() -> None:
        async with running(tmp_path, returning(Done(b"{}"))) as one:
            one.refusal = "body_too_large"
            await one.put("asked")
            dead = await one.becomes("asked", "dead")
            assert "reply: body_too_large" in {step.reason for step in dead.history}

    asyncio.run(play())


def test_no_more_messages_are_handled_at_once_than_allowed(tmp_path: Path) -> None:
    """Expect three of ten, and the others pending."""
    go_on = asyncio.Event()

    async def handle(_: StoredMessage) -> Outcome:
        await go_on.wait()
        return Done()

    async def play() -> None:
        async with running(tmp_path, handle, concurrency=3) as one:
            await one.put(*(f"m{number}" for number in range(10)))
            await eventually_async(lambda: one.handler.now == 3, within=10)
            gauges = one.inbox.gauges
            assert (gauges.leased, gauges.pending) == (3, 7)
            go_on.set()
            await eventually_async(lambda: one.inbox.gauges.consumed == 10, within=10)
            assert one.handler.most == 3

    asyncio.run(play())


def test_messages_of_other_types_are_left_alone(tmp_path: Path) -> None:
    """Expect them pending, for whoever takes them."""

    async def play() -> None:
        async with running(tmp_path, done, types=["query"]) as one:
            await one.put("other", message_type="event")
            await one.put("ours", message_type="query")
            await one.becomes("ours", "consumed")
            assert (await one.found("other")).state == "pending"

    asyncio.run(play())


def test_while_the_handler_is_away_one_message_after_the_other_tries(tmp_path: Path) -> None:
    """Expect a backlog not to be handed out and back again as fast as the disk allows."""
    away = True

    async def handle(_: StoredMessage) -> Outcome:
        await asyncio.sleep(0)  # others have their turn, if there are any
        return Later(0.05, "away", all=True) if away else Done()

    async def play() -> None:
        nonlocal away
        async with running(tmp_path, handle, concurrency=4) as one:
            await one.put(*(f"m{number}" for number in range(50)))
            await eventually_async(lambda: len(one.handler.given) >= 8, within=10)
            assert len(one.handler.given) <= 12
            one.handler.most = 0
            await eventually_async(lambda: len(one.handler.given) >= 15, within=10)
            assert one.handler.most == 1
            away = False
            await eventually_async(lambda: one.inbox.gauges.consumed == 50, within=10)

    asyncio.run(play())


def test_what_is_waited_for_when_the_handler_goes_away_waits_as_well(tmp_path: Path) -> None:
    """Expect a request for messages that is under way when a pause begins to give the handler none in the pause."""
    busy = asyncio.Event()
    together: list[int] = []

    async def handle(_: StoredMessage) -> Outcome:
        await busy.wait()
        await asyncio.sleep(0.02)
        together.append(one_handler[0].now)
        return Later(0.3, "answered 429", all=True) if len(together) < 3 else Done()

    one_handler: list[Scripted] = []

    async def play() -> None:
        async with running(tmp_path, handle, concurrency=8) as one:
            one_handler.append(one.handler)
            await one.put("first")
            await eventually_async(lambda: one.handler.now == 1, within=10)
            await eventually_async(lambda: one.inbox.writer.consumers_waiting == 1, within=10)
            busy.set()
            await one.becomes("first", "pending")
            await one.put(*(f"m{number}" for number in range(5)))
            await eventually_async(lambda: one.inbox.gauges.consumed == 6, within=20)
            assert together[:3] == [1, 1, 1]

    asyncio.run(play())


def test_stopping_takes_no_more_and_lets_handlers_finish(tmp_path: Path) -> None:
    """Expect the one under way consumed, those that came later pending and never handed out."""
    go_on = asyncio.Event()

    async def handle(_: StoredMessage) -> Outcome:
        await go_on.wait()
        return Done()

    async def play() -> None:
        async with running(tmp_path, handle) as one:
            await one.put("first")
            await eventually_async(lambda: one.handler.now == 1, within=10)
            one.handling.stop()
            await one.put("second")
            go_on.set()
            await one.becomes("first", "consumed")
            await eventually_async(lambda: one.handling.running == 0, within=10)
            second = await one.found("second")
            assert (second.state, second.delivery_count) == ("pending", 0)

    asyncio.run(play())


def test_what_is_abandoned_is_handed_back_without_counting(tmp_path: Path) -> None:
    """Expect handlers cancelled and their messages pending, as if never delivered."""
    cancelled: list[str] = []

    async def handle(stored: StoredMessage) -> Outcome:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(stored.message_id)
            raise
        return Done()

    async def play() -> None:
        async with running(tmp_path, handle) as one:
            await one.put("a", "b")
            await eventually_async(lambda: one.handler.now == 2, within=10)
            await one.handling.abandon()
            assert sorted(cancelled) == ["a", "b"]
            for name in ("a", "b"):
                found = await one.found(name)
                assert (found.state, found.delivery_count) == ("pending", 0)

    asyncio.run(play())


def test_a_handler_that_does_not_let_itself_be_cancelled_loses_its_message(tmp_path: Path) -> None:
    """Expect the message handed back all the same."""
    go_on = asyncio.Event()

    async def handle(_: StoredMessage) -> Outcome:
        while not go_on.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await go_on.wait()
        return Done()

    async def play() -> None:
        async with running(tmp_path, handle) as one:
            await one.put("a")
            await eventually_async(lambda: one.handler.now == 1, within=10)
            await one.handling.abandon()
            found = await one.found("a")
            assert (found.state, found.delivery_count) == ("pending", 0)
            go_on.set()
            await eventually_async(lambda: one.handler.now == 0, within=10)

    asyncio.run(play())


def test_a_handler_past_its_time_keeps_its_place_until_it_ends(tmp_path: Path) -> None:
    """Expect its message not handed to a second call meanwhile, and no other in its place."""
    thread: list[asyncio.Future[None]] = []

    async def handle(stored: StoredMessage) -> Outcome:
        if stored.message_id == "stuck" and not thread:
            thread.append(asyncio.get_running_loop().create_future())
            return Failed("time-out", still=thread[0])
        return Done()

    async def play() -> None:
        async with running(tmp_path, handle, concurrency=2) as one:
            await one.put("stuck")
            await eventually_async(lambda: one.handling.lingering == 1, within=10)
            await one.put("other")
            await one.becomes("other", "consumed")
            assert one.handler.given.count("stuck") == 1
            assert (await one.found("stuck")).delivery_count <= 2
            thread[0].set_result(None)
            await one.becomes("stuck", "consumed")
            assert one.handling.lingering == 0

    asyncio.run(play())


def test_an_ack_that_finds_no_room_on_the_disk_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect the message handled once and consumed when there is room."""
    monkeypatch.setattr("cellmesh.service.handling.DISK_PAUSE", 0.02)

    async def play() -> None:
        async with running(tmp_path, done) as one:
            settle, failures = one.inbox.settle, [1, 2, 3]

            def failing(items: Any, answer: Any) -> None:
                if failures:
                    failures.pop()
                    answer(WorkFailed("database or disk is full", disk_full=True))
                else:
                    settle(items, answer)

            monkeypatch.setattr(one.inbox, "settle", failing)
            await one.put("m")
            await one.becomes("m", "consumed")
            assert (one.handler.given, failures) == (["m"], [])

    asyncio.run(play())


def test_a_handler_that_cannot_even_be_run_fails_its_message_only(tmp_path: Path) -> None:
    """Expect the message dead in the end, others handled, and the pool alive."""

    async def handle(stored: StoredMessage) -> Outcome:
        if stored.message_id == "bad":
            raise KeyError("secret")
        return Done()

    async def play() -> None:
        async with running(tmp_path, handle) as one:
            await one.put("bad", "good")
            await one.becomes("good", "consumed")
            dead = await one.becomes("bad", "dead")
            assert "KeyError" in {step.reason for step in dead.history}
            assert "secret" not in str(dead.history)

    asyncio.run(play())
