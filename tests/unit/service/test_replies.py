"""Replies that somebody waits for: claimed as they arrive, and never lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw

import inboxes
from cellmesh.inbox import Inbox
from cellmesh.protocol.messages import CellMessage, encode
from cellmesh.protocol.receipts import StoredMessage
from cellmesh.protocol.sends import SendRequest
from cellmesh.service.counters import Counters
from cellmesh.service.receiving import Receiver
from cellmesh.service.replies import Replies, Waiter
from cellmesh.service.reply import Reply
from inboxes import HERE


class Desk:
    """A receiver with an inbox of its own, and those who wait for replies."""

    def __init__(self, inbox: Inbox) -> None:
        self.inbox = inbox
        self.replies = Replies(inbox, HERE)
        self.receiver = Receiver(inbox, HERE, self.replies, lambda _: None, "volume", (10, 100_000), Counters())

    def give(self, path: str, body: Any) -> asyncio.Future[Reply]:
        """Give a request to an endpoint of the receiver; the future has its answer."""
        answered: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        getattr(self.receiver, path)(encode(body), answered.set_result)
        return answered

    async def receive(self, **fields: Any) -> dict[str, Any]:
        """Receive one message and return the answer."""
        answer = json.loads((await self.give("message", reply(**fields))).body)
        assert isinstance(answer, dict)
        return answer

    async def state(self, message_id: str) -> str | None:
        """Return the state of a message in the inbox."""
        found = await self.inbox.find(message_id)
        return None if found is None else found.state


def reply(**fields: Any) -> dict[str, Any]:
    """Return a reply of alpha to the message ``asked`` with these fields changed."""
    return {"message_id": "r", "from_cell": "alpha", "payload": {"answer": 42}, "reply_to": "asked"} | fields


@contextlib.asynccontextmanager
async def opened(directory: Path, **limits: int) -> AsyncIterator[Desk]:
    """Run a receiver."""
    inbox = Inbox(directory, inboxes.limits(**limits))
    try:
        async with asyncio.timeout(30):
            yield Desk(inbox)
    finally:
        inbox.close()


async def ended(waiter: Waiter) -> StoredMessage | None:
    """Return what a waiter has got without waiting longer."""
    return await waiter.reply(0)


FORMS = {
    "a message": ("message", reply()),
    "a batch": ("batch", [reply(message_id="other", reply_to=None), reply(), {"bad": 1}]),
    "the legacy form": ("legacy", {"message_id": "r", "from_cell": "alpha", "content": 42, "reply_to": "asked"}),
    "the legacy form at /message": (
        "message",
        {"message_id": "r", "from_cell": "alpha", "content": 42, "reply_to": "asked"},
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_reply_that_is_awaited_is_consumed_and_given(tmp_path: Path, form: str) -> None:
    """Expect it in every form: on disk as consumed, and given as the inbox shows it."""

    async def talk() -> None:
        async with opened(tmp_path) as desk:
            waiter = desk.replies.expect("asked", "alpha")
            path, body = FORMS[form]
            assert (await desk.give(path, body)).status == 200
            got = await waiter.reply(10)
            assert got is not None
            assert (got.message_id, got.from_cell, got.reply_to, got.state) == ("r", "alpha", "asked", "consumed")
            found = await desk.inbox.find("r")
            assert found is not None
            assert encode(got) == encode({k: v for k, v in json.loads(encode(found)).items() if k != "history"})
            assert desk.inbox.gauges.consumed == 1

    asyncio.run(talk())


@pytest.mark.parametrize(
    "fields",
    [
        {"from_cell": "gamma"},
        {"from_namespace": "elsewhere"},
        {"reply_to": "another"},
        {"reply_to": None},
        {"not_before": 1},
        {"for_instance": "pure-1"},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_what_is_no_reply_for_the_waiter_is_pending(tmp_path: Path, fields: dict[str, Any]) -> None:
    """Expect a message of another cell or mesh, to another message, for later or for elsewhere to leave it waiting."""

    async def talk() -> None:
        async with opened(tmp_path) as desk:
            waiter = desk.replies.expect("asked", "alpha")
            await desk.receive(**fields)
            assert await desk.state("r") == "pending"
            assert await ended(waiter) is None

    asyncio.run(talk())


def test_a_reply_that_is_late_is_pending(tmp_path: Path) -> None:
    """Expect it kept for consumers when nobody waits any more."""

    async def talk() -> None:
        async with opened(tmp_path) as desk:
            waiter = desk.replies.expect("asked", "alpha")
            assert await ended(waiter) is None
            await desk.receive()
            assert await desk.state("r") == "pending"
            desk.replies.forget("asked", "alpha", waiter)
            assert not desk.replies

    asyncio.run(talk())


def test_one_reply_is_given_the_others_are_pending(tmp_path: Path) -> None:
    """Expect of two replies in one batch the first to be given and the second to be kept."""

    async def talk() -> None:
        async with opened(tmp_path) as desk:
            waiter = desk.replies.expect("asked", "alpha")
            await desk.give("batch", [reply(message_id="one"), reply(message_id="two")])
            got = await waiter.reply(10)
            assert got is not None
            assert got.message_id == "one"
            assert (await desk.state("one"), await desk.state("two")) == ("consumed", "pending")

    asyncio.run(talk())


def test_two_that_wait_for_one_reply_both_get_it(tmp_path: Path) -> None:
    """Expect a program that asked again with the same id to be answered as the first would have been."""

    async def talk() -> None:
        async with opened(tmp_path) as desk:
            waiters = [desk.replies.expect("asked", "alpha") for _ in range(2)]
            await desk.receive()
            assert [got and got.message_id for got in [await waiter.reply(10) for waiter in waiters]] == ["r", "r"]

    asyncio.run(talk())


def test_a_claimed_waiter_outlives_its_time_until_the_commit(tmp_path: Path) -> None:
    """Expect the reply, though the time was over before it was on disk."""

    async def talk() -> None:
        async with opened(tmp_path) as desk:
            waiter = desk.replies.expect("asked", "alpha")
            stored = desk.give("message", reply())
            waiter.end()
            assert not stored.done()
            got = await waiter.reply(0)
            assert got is not None
            assert await desk.state("r") == "consumed"

    asyncio.run(talk())


def test_a_reply_that_cannot_be_stored_leaves_the_waiter_waiting(tmp_path: Path) -> None:
    """Expect 429 for the reply, and the same reply to be taken once there is room; or None at the end."""

    async def talk() -> None:
        async with opened(tmp_path, max_messages=1) as desk:
            await desk.receive(message_id="filling", reply_to=None)
            waiter, over = desk.replies.expect("asked", "alpha"), desk.replies.expect("asked", "alpha")
            refused = desk.give("message", reply())
            over.end()
            assert (await refused).status == 429
            assert await over.reply(10) is None
            assert waiter.free

    asyncio.run(talk())


def test_a_repeat_of_a_reply_that_is_here_already_is_no_reply(tmp_path: Path) -> None:
    """Expect a reply that came too late, and comes again, to be a duplicate and stay as it is."""

    async def talk() -> None:
        async with opened(tmp_path) as desk:
            await desk.receive()
            waiter = desk.replies.expect("asked", "alpha")
            assert (await desk.receive())["duplicate"] is True
            assert await desk.state("r") == "pending"
            assert waiter.free

    asyncio.run(talk())


def test_a_stopping_cell_takes_replies_that_are_awaited_and_nothing_else(tmp_path: Path) -> None:
    """Expect 503 for all other messages, also for those in the batch of the reply."""

    async def talk() -> None:
        async with opened(tmp_path) as desk:
            waiter = desk.replies.expect("asked", "alpha")
            desk.receiver.refusing = True
            assert (await desk.give("message", reply(message_id="x", reply_to="other"))).status == 503
            answer = await desk.give("batch", [reply(message_id="y", reply_to=None), reply()])
            assert [item["status"] for item in json.loads(answer.body)] == [503, 200]
            assert await waiter.reply(10) is not None
            desk.replies.forget("asked", "alpha", waiter)
            assert (await desk.give("batch", [reply(message_id="z")])).status == 503

    asyncio.run(talk())


@pytest.mark.parametrize(
    ("stored", "asked", "home"),
    [
        ({"from_instance": "alpha-1"}, {}, "alpha-1"),
        ({"from_instance": "alpha-1", "from_namespace": "default"}, {}, "alpha-1"),
        ({"from_instance": "alpha-1", "from_namespace": "elsewhere"}, {}, None),
        ({"from_instance": "alpha-1"}, {"to_instance": "alpha-0"}, None),
        ({"from_instance": "alpha-1"}, {"to_cell": "gamma"}, None),
        ({"from_instance": "alpha-1"}, {"reply_to": "nothing"}, None),
        ({"from_instance": "alpha-1"}, {"reply_to": None}, None),
        ({}, {}, None),
    ],
)
def test_a_reply_goes_home(tmp_path: Path, stored: dict[str, Any], asked: dict[str, Any], home: str | None) -> None:
    """Expect the instance that sent the message which is replied to, if it is that cell's and nobody said otherwise."""

    async def talk() -> None:
        async with opened(tmp_path) as desk:
            await desk.receive(message_id="question", **stored)
            request = SendRequest(**{"to_cell": "alpha", "reply_to": "question"} | asked)
            assert await desk.replies.home(request) == home

    asyncio.run(talk())


def test_a_reply_for_another_instance_is_not_claimed_here(tmp_path: Path) -> None:
    """Expect it kept for that instance, even if somebody here waits for one like it."""

    async def talk() -> None:
        async with opened(tmp_path) as desk:
            desk.replies.expect("asked", "alpha")
            message = CellMessage(
                message_id="r", from_cell="alpha", payload=Raw(b"{}"), reply_to="asked", for_instance="pure-1"
            )
            checked = inboxes.accept(message, HERE)
            assert desk.replies.claim(message, checked) is None
            assert checked.special is not None
            assert checked.special.moving_to == "pure-1"

    asyncio.run(talk())
