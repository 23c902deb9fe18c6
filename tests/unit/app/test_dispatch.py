"""What handlers do, and what it means for the message."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from cellmesh import Cell, Message, Reject, Retry
from cellmesh.app.host import Dispatch
from cellmesh.app.message import current
from cellmesh.app.threads import Threads
from cellmesh.protocol.receipts import StoredMessage
from cellmesh.service.outcomes import Done, Failed, Later, Outcome, Rejected

PAYLOAD = {"text": "secret"}


def stored(message_type: str = "query") -> StoredMessage:
    """Return a message of an inbox."""
    return StoredMessage(
        message_id="m-1",
        from_cell="alpha",
        to_cell="pure",
        message_type=message_type,
        payload=Raw(msgspec.json.encode(PAYLOAD)),
        timestamp="",
        priority="normal",
        ttl=60,
        acknowledged=True,
        seq=1,
        received_at="",
        state="leased",
    )


@contextlib.contextmanager
def dispatching(cell: Cell) -> Iterator[Dispatch]:
    """Return what hands messages to the handlers of a cell."""
    threads = Threads()
    try:
        yield Dispatch(cell, threads)
    finally:
        threads.close()


def outcome_of(handler: Callable[[Message], Any], message_type: str = "query", **options: Any) -> Outcome:
    """Hand one message to one handler."""
    cell = Cell("pure")
    cell.on("query", **options)(handler)

    async def play() -> Outcome:
        with dispatching(cell) as dispatch:
            return await dispatch.handle(stored(message_type))

    return asyncio.run(play())


def both(body: Callable[[Message], Any]) -> list[Callable[[Message], Any]]:
    """Return a handler as a function and as a coroutine."""

    async def coroutine(message: Message) -> Any:
        return body(message)

    return [body, coroutine]


@dataclasses.dataclass
class Data:
    """A reply."""

    n: int


class Struct(msgspec.Struct):
    """A reply."""

    n: int


@pytest.mark.parametrize("value", [{"n": 1}, Data(1), Struct(1)])
def test_what_a_handler_returns_is_the_reply(value: Any) -> None:
    """Expect it as JSON, of functions and coroutines alike."""
    for handler in both(lambda _: value):
        assert outcome_of(handler) == Done(b'{"n":1}')


def test_a_handler_that_returns_nothing_has_no_reply() -> None:
    """Expect the message done."""
    for handler in both(lambda _: None):
        assert outcome_of(handler) == Done(None)


@pytest.mark.parametrize("value", [[1], "secret", 1, {1, 2}])
def test_only_an_object_can_be_a_reply(value: Any) -> None:
    """Expect a failure that says what it got, and nothing of what is in it."""
    for handler in both(lambda _: value):
        outcome = outcome_of(handler)
        assert isinstance(outcome, Failed)
        assert f"got {type(value).__name__}" in outcome.reason
        assert "secret" not in outcome.reason


def test_what_no_json_can_say_is_a_failure() -> None:
    """Expect the type of what is wrong in the reason."""
    for handler in both(lambda _: {"n": object()}):
        outcome = outcome_of(handler)
        assert isinstance(outcome, Failed)
        assert "object" in outcome.reason


def _raise(error: BaseException) -> Callable[[Message], Any]:
    def handler(_: Message) -> Any:
        raise error

    return handler


def test_an_exception_is_a_failure_with_its_type_and_place(caplog: pytest.LogCaptureFixture) -> None:
    """Expect neither its text, which may quote the message, nor a stack trace, in reason or log."""
    for handler in both(_raise(ValueError("secret"))):
        with caplog.at_level(logging.INFO):
            outcome = outcome_of(handler)
        assert isinstance(outcome, Failed)
        assert outcome.reason == "ValueError"
        assert outcome.place == f"{__file__} line {_raise.__code__.co_firstlineno + 2}"
        assert "secret" not in caplog.text


def test_at_level_debug_the_stack_trace_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Expect what an author needs who looks for the fault."""
    with caplog.at_level(logging.DEBUG):
        outcome_of(_raise(ValueError("secret")))
    assert "Traceback" in caplog.text
    assert "ValueError: secret" in caplog.text


def test_a_rejection_is_final_and_says_why() -> None:
    """Expect the author's own words."""
    for handler in both(_raise(Reject("no such order"))):
        assert outcome_of(handler) == Rejected("no such order")


def test_retry_waits_as_long_as_it_says() -> None:
    """Expect its seconds, at least a little."""
    for handler in both(_raise(Retry(5, "the printer is out of paper"))):
        assert outcome_of(handler) == Later(5.0, "the printer is out of paper")
    assert outcome_of(_raise(Retry(0))) == Later(0.1, "again in 0 s")


@pytest.mark.parametrize("error", [SystemExit(3), StopIteration(), asyncio.CancelledError(), MemoryError()])
def test_nothing_that_a_handler_raises_ends_more_than_its_message(error: BaseException) -> None:
    """Expect a failure."""
    for handler in both(_raise(error)):
        outcome = outcome_of(handler)
        assert isinstance(outcome, Failed)
        assert outcome.reason in {type(error).__name__, "RuntimeError"}  # Python itself converts a StopIteration


def test_messages_go_to_the_handler_of_their_type() -> None:
    """Expect the named one first, then the one for all others; and only those types asked for."""
    cell = Cell("pure")
    cell.on("query", "command")(lambda message: {"by": "named"})
    assert Dispatch(cell, Threads()).types == ["query", "command"]
    cell.on()(lambda message: {"by": "other"})

    async def play() -> None:
        with dispatching(cell) as dispatch:
            assert dispatch.types is None
            for name, by in (("query", "named"), ("command", "named"), ("event", "other")):
                assert await dispatch.handle(stored(name)) == Done(b'{"by":"%b"}' % by.encode())

    asyncio.run(play())


def test_a_coroutine_that_takes_too_long_is_cancelled() -> None:
    """Expect a failure that says so, and nothing of it running on."""
    ended: list[str] = []

    async def handler(_: Message) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("ended")

    outcome = outcome_of(handler, timeout=0.05)
    assert isinstance(outcome, Failed)
    assert outcome.reason == "time-out of 0.05 s"
    assert (outcome.still, ended) == (None, ["ended"])


def test_a_function_that_takes_too_long_is_known_to_run_on() -> None:
    """Expect a failure at once, and to hear when the thread has ended."""
    go_on = threading.Event()
    cell = Cell("pure", timeout=0.05)
    cell.on("query")(lambda _: go_on.wait(30) and None)

    async def play() -> None:
        with dispatching(cell) as dispatch:
            outcome = await dispatch.handle(stored())
            assert isinstance(outcome, Failed)
            assert outcome.still is not None
            assert not outcome.still.done()
            go_on.set()
            async with asyncio.timeout(30):
                await outcome.still

    asyncio.run(play())


def test_a_handlers_own_time_out_is_an_exception_like_others() -> None:
    """Expect it not to be taken for ours."""
    for handler in both(_raise(TimeoutError("secret"))):
        outcome = outcome_of(handler)
        assert isinstance(outcome, Failed)
        assert outcome.reason == "TimeoutError"


def test_handlers_know_the_message_they_handle() -> None:
    """Expect it in the context, in threads too, and none outside."""
    for handler in both(lambda _: {"id": message.id if (message := current.get()) else None}):
        assert outcome_of(handler) == Done(b'{"id":"m-1"}')
    assert current.get() is None


def test_threads_are_used_again() -> None:
    """Expect one thread for one call after the other, and several for several at once."""

    async def play() -> None:
        threads = Threads()
        names = {await threads.run(lambda: threading.current_thread().name) for _ in range(50)}
        assert len(names) <= 2
        barrier = threading.Barrier(5)
        await asyncio.gather(*(threads.run(lambda: barrier.wait(30)) for _ in range(5)))
        threads.close()

    asyncio.run(play())


def test_objects_that_can_be_called_are_handlers_too() -> None:
    """Expect a method, and an object with a coroutine for __call__."""

    class Counter:
        async def __call__(self, message: Message) -> dict[str, str]:
            return {"by": "call"}

        def method(self, message: Message) -> dict[str, str]:
            return {"by": "method"}

    found: list[Callable[[Message], Awaitable[Any] | Any]] = [Counter(), Counter().method]
    assert [outcome_of(handler) for handler in found] == [Done(b'{"by":"call"}'), Done(b'{"by":"method"}')]


def test_no_thread_of_a_handler_keeps_the_process() -> None:
    """Expect daemons."""

    async def play() -> bool:
        threads = Threads()
        daemon: bool = await threads.run(lambda: threading.current_thread().daemon)
        threads.close()
        return daemon

    assert asyncio.run(play())
