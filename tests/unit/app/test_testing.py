"""Cells in the process of a test, and through them what a cell's code can do."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cellmesh import Cell, Message, Reject, Retry, SendError
from cellmesh.errors import AppError
from cellmesh.service.answering import Answers
from cellmesh.testing import Mesh, mesh


def play(test: Callable[[Mesh], Awaitable[None]], *cells: Cell, **options: Any) -> None:
    """Run a mesh and do something with it."""

    async def run() -> None:
        async with asyncio.timeout(60), mesh(*cells, **options) as running:
            await test(running)

    asyncio.run(run())


def echo(name: str = "echo") -> Cell:
    """Return a cell that says what it is told."""
    cell = Cell(name)

    @cell.on("query")
    async def say(message: Message) -> dict[str, Any]:
        return {"said": message.payload, "by": name, "conversation": message.conversation_id}

    return cell


def test_a_cell_answers_who_asks() -> None:
    """Expect the reply as a message, with whom it is from and what it answers."""

    async def test(running: Mesh) -> None:
        reply = await running.ask("echo", "query", {"text": "hi"}, message_id="q-1", conversation_id="c-1")
        assert reply.payload == {"said": {"text": "hi"}, "by": "echo", "conversation": "c-1"}
        assert (reply.from_cell, reply.to_cell, reply.type) == ("echo", "test", "reply")
        assert (reply.reply_to, reply.conversation_id) == ("q-1", "c-1")
        await running.settled()
        (kept,) = await running.messages("echo")
        assert (kept.message.id, kept.state) == ("q-1", "consumed")

    play(test, echo())


def test_cells_send_to_each_other() -> None:
    """Expect a chain through three cells, by coroutines and by functions in threads."""
    first, second = Cell("first"), Cell("second")

    @first.on("query")
    async def through(message: Message) -> dict[str, Any]:
        return {"first": (await first.ask("second", "query", message.payload)).payload}

    @second.on("query")
    def further(message: Message) -> dict[str, Any]:
        return {"second": second.wait(second.ask("echo", "query", message.payload)).payload}

    async def test(running: Mesh) -> None:
        reply = await running.ask("first", "query", {"n": 1})
        assert reply.payload["first"]["second"]["said"] == {"n": 1}

    play(test, first, second, echo())


def test_what_a_handler_sends_belongs_to_the_same_trace() -> None:
    """Expect the trace context of its message carried on, in a thread too, and the reply within it."""
    relay, sink = Cell("relay"), Cell("sink")
    seen: list[tuple[str, str | None]] = []

    @relay.on("a")
    async def from_coroutine(message: Message) -> None:
        await relay.send("sink", "from-coroutine")

    @relay.on("b")
    def from_thread(message: Message) -> None:
        relay.wait(relay.send("sink", "from-thread"))

    @sink.on()
    async def keep(message: Message) -> None:
        seen.append((message.type, message.traceparent))

    async def test(running: Mesh) -> None:
        for name in ("a", "b"):
            body = {
                "from_cell": "x",
                "message_id": name,
                "message_type": name,
                "payload": {},
                "traceparent": f"00-{name}",
            }
            await asyncio.to_thread(_post, f"{running.url('relay')}/message", body)
        await running.settled()
        assert sorted(seen) == [("from-coroutine", "00-a"), ("from-thread", "00-b")]

    play(test, relay, sink)


def _post(url: str, body: Any) -> None:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 200


def test_sending_says_who_has_it() -> None:
    """Expect the instance, and that a repeat is known; as payload anything that is a JSON object."""

    @dataclass
    class Order:
        item: str

    async def test(running: Mesh) -> None:
        sent = await running.send("echo", "event", Order("pen"), message_id="e-1")
        assert (sent.message_id, sent.to_cell, sent.instance) == ("e-1", "echo", "echo-0")
        assert (sent.queued, sent.duplicate) == (False, False)
        assert sent.target_url == f"{running.url('echo')}/message"
        assert (await running.send("echo", "event", Order("pen"), message_id="e-1")).duplicate
        (kept,) = await running.messages("echo")
        assert (kept.message.payload, kept.state) == ({"item": "pen"}, "pending")
        with pytest.raises(TypeError, match="payload must be a JSON object"):
            await running.send("echo", "event", [1])

    play(test, echo())


def test_a_queued_message_is_delivered_later() -> None:
    """Expect it taken at once, known when it comes again, and with its receiver in the end."""

    async def test(running: Mesh) -> None:
        sent = await running.send("echo", "event", {"n": 1}, queued=True, message_id="e-1", not_before=0.01)
        assert (sent.message_id, sent.to_cell, sent.queued, sent.duplicate) == ("e-1", "echo", True, False)
        assert (await running.send("echo", "event", {"n": 1}, queued=True, message_id="e-1")).duplicate
        await running.settled()
        assert [kept.message.id for kept in await running.messages("echo")] == ["e-1"]
        with pytest.raises(SendError) as failed:
            await running.send("no blanks", "event", queued=True)
        assert (failed.value.code, failed.value.maybe_delivered) == ("unknown_cell", False)

    play(test, echo())


@pytest.mark.parametrize("queued", [False, True])
def test_a_broadcast_says_what_became_of_each_copy(queued: bool) -> None:
    """Expect every other cell to have it, under one id; of those named, the one that is not there as failed."""

    async def test(running: Mesh) -> None:
        told = await running.broadcast("event", {"n": 1}, queued=queued)
        assert {result.to_cell for result in told.results} == {"echo", "other"}
        assert (told.failed, told.queued) == ((), queued)
        await running.settled()
        for name in ("echo", "other"):
            assert [kept.message.id for kept in await running.messages(name)] == [told.message_id]
        if queued:
            return
        told = await running.broadcast("event", to=["echo", "nobody"], timeout=1)
        (failed,) = told.failed
        assert failed.to_cell == "nobody"
        assert failed.error is not None
        assert (failed.error.code, failed.error.maybe_delivered) == ("unknown_cell", False)

    play(test, echo(), echo("other"))


def test_a_broadcast_to_nobody_is_an_error() -> None:
    """Expect the code that says so."""

    async def test(running: Mesh) -> None:
        with pytest.raises(SendError) as failed:
            await running.broadcast("event")
        assert failed.value.code == "no_receivers"

    play(test)


def test_a_send_that_fails_says_why() -> None:
    """Expect the code for programs, and whether it may have arrived."""

    async def test(running: Mesh) -> None:
        with pytest.raises(SendError, match="no cell and no registration is named 'nobody'") as failed:
            await running.send("nobody", "event", message_id="e-1")
        error = failed.value
        assert (error.code, error.status, error.message_id) == ("unknown_cell", 404, "e-1")
        assert (error.to_cell, error.maybe_delivered, error.delivered) == ("nobody", False, False)
        with pytest.raises(SendError) as failed:
            await running.send("echo", "event", {"text": "x" * 2_000_000})
        assert failed.value.code == "body_too_large"
        with pytest.raises(SendError, match=r"^ttl: ") as failed:
            await running.send("echo", "event", ttl=-1)
        assert failed.value.code == "invalid_field"

    play(test, echo())


def test_no_reply_in_time_is_an_error_that_says_it_was_delivered() -> None:
    """Expect the message with the cell, where nobody handles its type."""

    async def test(running: Mesh) -> None:
        with pytest.raises(SendError) as failed:
            await running.ask("echo", "unhandled", timeout=0.2, message_id="q-1")
        assert (failed.value.code, failed.value.delivered, failed.value.message_id) == ("reply_timeout", True, "q-1")
        assert [kept.state for kept in await running.messages("echo")] == ["pending"]

    play(test, echo())


def test_an_ask_that_is_given_up_waits_no_more() -> None:
    """Expect a time-out of the author's own to work as with any coroutine; the late reply is pending."""
    slow, go_on = Cell("slow"), asyncio.Event()

    @slow.on()
    async def handler(message: Message) -> dict[str, int]:
        await go_on.wait()
        return {"n": 1}

    async def test(running: Mesh) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await running.ask("slow", "query", timeout=30)
        go_on.set()
        await running.settled()
        assert [(kept.state, kept.message.payload) for kept in await running.messages("test")] == [
            ("pending", {"n": 1})
        ]

    play(test, slow)


def test_failing_handlers_are_tried_again_and_end_as_dead_letters() -> None:
    """Expect the deliveries counted, and the reason."""
    cell = Cell("failing")
    tries: list[int] = []

    @cell.on("fails")
    async def fails(message: Message) -> None:
        tries.append(message.delivery_count)
        raise ValueError

    @cell.on("rejects")
    def rejects(message: Message) -> None:
        raise Reject("no")

    @cell.on("second-time")
    async def second(message: Message) -> None:
        if message.delivery_count == 1:
            raise OSError

    @cell.on("waits")
    def waits(message: Message) -> None:
        if not waited:
            waited.append(1)
            raise Retry(0)

    waited: list[int] = []

    async def test(running: Mesh) -> None:
        for name in ("fails", "rejects", "second-time", "waits"):
            await running.send("failing", name, message_id=name)
        await running.settled()
        found = {kept.message.id: (kept.state, kept.reason) for kept in await running.messages("failing")}
        assert found == {
            "fails": ("dead", "max_deliveries"),
            "rejects": ("dead", "rejected"),
            "second-time": ("consumed", None),
            "waits": ("consumed", None),
        }
        assert tries == [1, 2, 3]

    play(test, cell, max_deliveries=3)


def test_a_request_that_is_handled_again_has_the_same_reply() -> None:
    """Expect one reply at whoever asked, the first, also if the handler says something else the second time."""
    cell = Cell("twice")

    @cell.on()
    async def handler(message: Message) -> dict[str, int]:
        return {"n": 1}

    async def test(running: Mesh) -> None:
        await running.send("twice", "query", message_id="q-1")
        await running.settled()
        (first,) = await running.messages("test")
        assert first.message.payload == {"n": 1}
        # As after a kill between the reply and the ack: the message is handled and answered once more.
        twice = running._cell("twice").service
        stored = await twice.inbox.find("q-1")
        assert stored is not None
        answers = Answers(twice.here, twice.submit)
        for payload in (b'{"n":1}', b'{"n":2}'):
            assert await answers.answer(stored, payload) == ""
        assert await running.messages("test") == [first]

    play(test, cell)


def test_hooks_run_around_the_handlers() -> None:
    """Expect them in order, able to send, before the first message and after the last."""
    cell = Cell("hooked")
    events: list[str] = []

    @cell.on_start
    async def first() -> None:
        reply = await cell.ask("echo", "query", {"n": 1})
        events.append(f"start {reply.payload['by']}")

    @cell.on_start
    def second() -> None:
        cell.wait(cell.send("echo", "event"))
        events.append("start in a thread")

    @cell.on()
    def handler(message: Message) -> None:
        events.append("message")

    @cell.on_stop
    async def last() -> None:
        events.append("stop")

    async def test(running: Mesh) -> None:
        await running.send("hooked", "event")
        await running.settled()

    play(test, echo(), cell)
    assert events == ["start echo", "start in a thread", "message", "stop"]


def test_a_start_that_fails_fails_the_test() -> None:
    """Expect its type, text and line."""
    cell = Cell("broken")

    @cell.on_start
    async def start() -> None:
        raise ValueError("no database")

    async def test(_: Mesh) -> None:
        raise AssertionError

    with pytest.raises(AppError, match=r"^on_start: ValueError: no database \(.*test_testing.py line \d+\)$"):
        play(test, cell)
    play(_nothing, echo())


async def _nothing(_: Mesh) -> None:
    """Do nothing."""


def test_a_cell_can_be_run_again_after_its_end(tmp_path: Path) -> None:
    """Expect what was kept in its directory, and two runs at once refused."""
    cell = echo()

    async def send(running: Mesh) -> None:
        await running.send("echo", "event", message_id="e-1", ttl=0)
        with pytest.raises(RuntimeError, match="runs already"):
            async with mesh(cell):
                pass

    async def look(running: Mesh) -> None:
        assert [kept.message.id for kept in await running.messages("echo")] == ["e-1"]

    play(send, cell, data_dir=tmp_path)
    play(look, cell, data_dir=tmp_path)


def test_what_is_left_is_named() -> None:
    """Expect an assertion error of ``settled`` with the messages that are not handled."""
    cell = Cell("stuck", concurrency=1)

    @cell.on()
    async def handler(message: Message) -> None:
        await asyncio.Event().wait()

    async def test(running: Mesh) -> None:
        await running.send("stuck", "query", message_id="q-1")
        with pytest.raises(AssertionError, match=r"1 messages are not handled within 0.1 s: q-1 \(query, from test"):
            await running.settled(within=0.1)

    play(test, cell, max_deliveries=1)


@pytest.mark.parametrize("cells", [[Cell()], [Cell("a"), Cell("a")], [Cell("test")]])
def test_names_must_be_there_and_differ(cells: list[Cell]) -> None:
    """Expect a clear error before anything is started."""
    with pytest.raises(ValueError, match="name"):
        play(_nothing, *cells)


def test_a_cell_that_is_not_in_the_mesh_is_named_with_those_that_are() -> None:
    """Expect the names."""

    async def test(running: Mesh) -> None:
        with pytest.raises(KeyError, match="no cell 'nobody' in this mesh; there are echo, test"):
            await running.messages("nobody")

    play(test, echo())
