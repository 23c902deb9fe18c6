"""Messages pushed to a program over HTTP: what it gets, and what its answers mean."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cellmesh.service.outcomes import Done, Failed, Later, Outcome, Rejected
from cellmesh.service.pushing import Push, read
from cellmesh.transport.http1 import Answer
from handled import Running, handled_by
from pushed import Program, Said, program
from support import eventually_async, free_port


@contextlib.asynccontextmanager
async def pushing(directory: Path, url: str, timeout: float = 10.0, **options: Any) -> AsyncIterator[Running]:
    """Push the messages of an inbox to a program."""
    push = Push(url, timeout=timeout, concurrency=options.pop("concurrency", 4), types=options.pop("types", ()))
    try:
        async with handled_by(directory, push, **options) as running:
            yield running
    finally:
        push.close()


def test_the_program_gets_the_message_as_the_inbox_shows_it(tmp_path: Path) -> None:
    """Expect its fields in the body, what tells it apart in headers, and no token of its lease."""

    async def play(server: Program) -> None:
        async with pushing(tmp_path, f"{server.url}/hook?a=b") as one:
            await one.put("m-1", payload={"text": "hi"}, message_type="query", traceparent="00-ab-cd-01")
            shown = await one.becomes("m-1", "consumed")
            (request,) = server.requests
            assert request.path == "/hook?a=b"
            assert request.message["payload"] == {"text": "hi"}
            for name in ("message_id", "from_cell", "to_cell", "message_type", "seq", "received_at", "delivery_count"):
                assert request.message[name] == getattr(shown, name)
            assert "lease_token" not in request.message
            assert request.headers["content-type"] == "application/json"
            assert request.headers["cellmesh-message-id"] == "m-1"
            assert request.headers["cellmesh-from-cell"] == "alpha"
            assert request.headers["cellmesh-delivery-count"] == "1"
            assert request.headers["traceparent"] == "00-ab-cd-01"
            assert "tracestate" not in request.headers

    with program() as server:
        asyncio.run(play(server))


def test_nothing_that_a_sender_writes_adds_a_header(tmp_path: Path) -> None:
    """Expect line ends and what is not ASCII percent-encoded in ids, and a strange traceparent left out."""
    strange = "a\r\nX-Evil: 1 100% ü"

    async def play(server: Program) -> None:
        async with pushing(tmp_path, server.url) as one:
            await one.put(strange, payload={}, from_cell="b\nc", traceparent="x\r\nX-Evil: 2")
            await one.becomes(strange, "consumed")
            (request,) = server.requests
            assert request.headers["cellmesh-message-id"] == "a%0D%0AX-Evil:%201%20100%25%20%C3%BC"
            assert request.headers["cellmesh-from-cell"] == "b%0Ac"
            assert "traceparent" not in request.headers
            assert "x-evil" not in request.headers
            assert request.message["message_id"] == strange

    with program() as server:
        asyncio.run(play(server))


@pytest.mark.parametrize(
    ("status", "headers", "body", "outcome"),
    [
        (200, {}, b"", Done(None)),
        (204, {}, b"", Done(None)),
        (202, {}, b' {"n": 1}\n', Done(b'{"n": 1}')),
        (200, {}, b"OK", Done(None)),
        (200, {}, b"[1]", Done(None)),
        (200, {}, b'{"n": ', Done(None)),
        (200, {}, b'{"n": 1e999}', Done(None)),
        (200, {}, b'{"n": "\xff"}', Done(None)),
        (400, {}, b"secret", Rejected("answered 400")),
        (404, {"retry-after": "5"}, b"", Rejected("answered 404")),
        (422, {}, b"", Rejected("answered 422")),
        (429, {}, b"", Failed("answered 429")),
        (429, {"retry-after": "5"}, b"", Later(5.0, "answered 429, Retry-After 5 s", all=True)),
        (503, {"retry-after": "7"}, b"", Later(7.0, "answered 503, Retry-After 7 s", all=True)),
        (503, {"retry-after": "0"}, b"", Later(1.0, "answered 503, Retry-After 1 s", all=True)),
        (503, {"retry-after": "999999999"}, b"", Later(3600.0, "answered 503, Retry-After 3600 s", all=True)),
        (503, {"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, b"", Later(1.0, "answered 503, Retry-After 1 s", True)),
        (503, {}, b"", Failed("answered 503")),
        (500, {"retry-after": "5"}, b"secret", Failed("answered 500")),
        (302, {"location": "http://elsewhere/"}, b"", Failed("answered 302")),
    ],
)
def test_what_an_answer_means(status: int, headers: dict[str, str], body: bytes, outcome: Outcome) -> None:
    """Expect each status as documented, and nothing of the body in a reason."""
    assert read(Answer(status, {k.encode(): v.encode() for k, v in headers.items()}, body)) == outcome


def test_a_json_object_in_the_answer_is_the_reply(tmp_path: Path) -> None:
    """Expect it sent as it came, and other bodies not, which is said once."""

    def script(request: Any) -> Said:
        return Said(body=b'{"n": 1}' if request.message["message_id"] == "asked" else b"thanks")

    async def play(server: Program) -> None:
        async with pushing(tmp_path, server.url) as one:
            await one.put("asked", "other", "third")
            for name in ("asked", "other", "third"):
                await one.becomes(name, "consumed")
            assert one.replies == [("asked", b'{"n": 1}')]

    with program(script) as server, _logged() as log:
        asyncio.run(play(server))
    assert len([line for line in log if "no JSON object" in line]) == 1
    assert "thanks" not in str(log)


@contextlib.contextmanager
def _logged() -> Any:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("cellmesh.service.pushing")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def test_an_error_of_the_program_is_tried_again_and_then_no_more(tmp_path: Path) -> None:
    """Expect as many requests as deliveries are allowed, each with its number."""

    async def play(server: Program) -> None:
        async with pushing(tmp_path, server.url) as one:
            await one.put("bad")
            dead = await one.becomes("bad", "dead")
            assert dead.reason == "max_deliveries"
            assert [request.headers["cellmesh-delivery-count"] for request in server.requests] == ["1", "2", "3"]
            assert "answered 500" in {step.reason for step in dead.history}

    with program(lambda _: Said(500, b"secret")) as server:
        asyncio.run(play(server))


def test_a_refusal_is_a_dead_letter_with_its_status(tmp_path: Path) -> None:
    """Expect one request."""

    async def play(server: Program) -> None:
        async with pushing(tmp_path, server.url) as one:
            await one.put("bad")
            dead = await one.becomes("bad", "dead")
            assert (dead.reason, len(server.requests)) == ("rejected", 1)
            assert "answered 422" in {step.reason for step in dead.history}

    with program(lambda _: Said(422)) as server:
        asyncio.run(play(server))


def test_retry_after_waits_and_counts_no_delivery(tmp_path: Path) -> None:
    """Expect more requests than deliveries are allowed."""
    left = [Said(503, headers=(("Retry-After", "1"),))] * 4

    async def play(server: Program) -> None:
        async with pushing(tmp_path, server.url) as one:
            await one.put("later")
            assert (await one.becomes("later", "consumed", within=30)).delivery_count == 1
            assert [request.headers["cellmesh-delivery-count"] for request in server.requests] == ["1"] * 5

    with program(lambda _: left.pop() if left else Said()) as server:
        asyncio.run(play(server))


def test_no_answer_in_time_is_tried_again(tmp_path: Path) -> None:
    """Expect the next request on another connection, counted."""
    go_on = threading.Event()
    calls: list[int] = []

    def script(_: Any) -> Said:
        calls.append(1)
        if len(calls) == 1:
            go_on.wait(30)
        return Said()

    async def play(server: Program) -> None:
        async with pushing(tmp_path, server.url, timeout=0.3) as one:
            await one.put("slow")
            found = await one.becomes("slow", "consumed")
            assert found.delivery_count == 2
            assert "no answer within 0.3 s" in {step.reason for step in found.history}
            go_on.set()

    with program(script) as server:
        asyncio.run(play(server))


def test_a_connection_that_is_closed_without_an_answer_is_tried_again(tmp_path: Path) -> None:
    """Expect it counted: the message may be what ended the program."""
    left = [Said(0)]

    async def play(server: Program) -> None:
        async with pushing(tmp_path, server.url) as one:
            await one.put("m")
            assert (await one.becomes("m", "consumed")).delivery_count == 2

    with program(lambda _: left.pop() if left else Said()) as server:
        asyncio.run(play(server))


def test_without_a_connection_nothing_is_counted_and_messages_wait(tmp_path: Path) -> None:
    """Expect them delivered once the program is up, however often it was tried, and both said once."""
    port = free_port()

    async def play() -> None:
        async with pushing(tmp_path, f"http://127.0.0.1:{port}", concurrency=2) as one:
            await one.put(*(f"m{number}" for number in range(10)))
            await eventually_async(lambda: one.counters.handled["deferred"] >= 5, within=20)
            with program(port=port) as server:
                await eventually_async(lambda: one.inbox.gauges.consumed == 10, within=20)
                assert {(await one.found(f"m{number}")).delivery_count for number in range(10)} == {1}
                assert sorted(server.ids) == sorted(f"m{number}" for number in range(10))

    with _logged() as log:
        asyncio.run(play())
    assert len([line for line in log if "messages wait for it" in line]) == 1
    assert len([line for line in log if "answers now" in line]) == 1


def test_types_that_are_not_asked_for_are_not_pushed(tmp_path: Path) -> None:
    """Expect them pending."""

    async def play(server: Program) -> None:
        async with pushing(tmp_path, server.url, types=("query",)) as one:
            await one.put("other", message_type="event")
            await one.put("ours", message_type="query")
            await one.becomes("ours", "consumed")
            assert (await one.found("other")).state == "pending"
            assert server.ids == ["ours"]

    with program() as server:
        asyncio.run(play(server))


def test_no_more_are_under_way_than_allowed(tmp_path: Path) -> None:
    """Expect two of ten at a time."""
    go_on = threading.Event()

    def script(_: Any) -> Said:
        go_on.wait(30)
        return Said()

    async def play(server: Program) -> None:
        async with pushing(tmp_path, server.url, concurrency=2) as one:
            await one.put(*(f"m{number}" for number in range(10)))
            await eventually_async(lambda: len(server.requests) == 2, within=10)
            assert one.inbox.gauges.leased == 2
            go_on.set()
            await eventually_async(lambda: one.inbox.gauges.consumed == 10, within=10)

    with program(script) as server:
        asyncio.run(play(server))
