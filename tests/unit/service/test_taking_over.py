"""``POST /handover``: who may hand over what to whom, and what is answered."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import inboxes
from cellmesh.inbox import Inbox
from cellmesh.protocol.messages import encode
from cellmesh.service.counters import Counters
from cellmesh.service.replies import Replies
from cellmesh.service.reply import Reply
from cellmesh.service.taking_over import TakingOver
from inboxes import HERE


class Desk:
    """An instance that takes over."""

    def __init__(self, inbox: Inbox) -> None:
        self.inbox = inbox
        self.replies = Replies(inbox, HERE)
        #: Instances that messages were taken for.
        self.kept: list[str] = []
        self.taking = TakingOver(inbox, HERE, self.replies, self.kept.append, Counters())

    async def ask(self, *messages: dict[str, Any], **fields: Any) -> tuple[int, Any]:
        """Hand messages over; return status and body of the answer."""
        body = {
            "cell_id": "pure",
            "namespace": "default",
            "from_instance": "pure-1",
            "to_instance": "pure-0",
            "messages": [{"message": message} for message in messages],
        }
        answered: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

        def answer(reply: Reply) -> bool:
            answered.set_result(reply)
            return True

        self.taking.handover(encode(body | fields), answer)
        reply = await answered
        return reply.status, json.loads(reply.body)


def message(message_id: str, **fields: Any) -> dict[str, Any]:
    """Return a message."""
    return {"message_id": message_id, "from_cell": "alpha", "to_cell": "pure", "payload": {}} | fields


def run(directory: Path, talk: Callable[[Desk], Awaitable[None]], **limits: int) -> None:
    """Talk to an instance."""

    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[Desk]:
        inbox = Inbox(directory, inboxes.limits(**limits))
        try:
            yield Desk(inbox)
        finally:
            inbox.close()

    async def talking() -> None:
        async with asyncio.timeout(30), opened() as desk:
            await talk(desk)

    asyncio.run(talking())


def test_each_message_has_an_outcome_of_its_own(tmp_path: Path) -> None:
    """Expect what is good taken, in order, and of the rest what is wrong with it."""

    async def talk(desk: Desk) -> None:
        status, body = await desk.ask(
            message("a"),
            message("b", to_cell="gamma"),
            message("c", payload=[]),
            message("a"),
            message("a", payload={"n": 1}),
            message("d"),
        )
        assert status == 200
        assert [(one["message_id"], one["http_status"], one.get("duplicate")) for one in body["results"]] == [
            ("a", 200, None), ("b", 421, None), ("c", 422, None), ("a", 200, True), ("a", 409, None), ("d", 200, None),
        ]  # fmt: skip
        assert body["results"][4]["code"] == "id_conflict"
        assert (body["cell_id"], body["instance"]) == ("pure", "pure-0")
        assert desk.inbox.gauges.pending == 2

    run(tmp_path, talk)


@pytest.mark.parametrize(
    ("fields", "status", "field"),
    [
        ({"cell_id": "alpha"}, 421, "cell_id"),
        ({"namespace": "elsewhere"}, 421, "namespace"),
        ({"to_instance": "pure-1"}, 421, "to_instance"),
        ({"from_instance": "pure-0"}, 422, "from_instance"),
        ({"messages": [{"message": {}}]}, 422, "messages[0].message.message_id"),
        ({"messages": [{"message": message("a"), "age_ms": -1}]}, 422, "messages[0].age_ms"),
        ({"records": [{"message_id": "a", "sender": "xyz"}]}, 422, "records[0].sender"),
    ],
)
def test_what_is_not_for_this_instance_or_wrong_is_refused_as_a_whole(
    tmp_path: Path, fields: dict[str, Any], status: int, field: str
) -> None:
    """Expect nothing stored: an address may have been reused."""

    async def talk(desk: Desk) -> None:
        got, body = await desk.ask(message("good"), **fields)
        assert (got, body["field"]) == (status, field)
        assert desk.inbox.gauges.total == 0

    run(tmp_path, talk)


def test_an_instance_that_ends_itself_takes_nothing(tmp_path: Path) -> None:
    """Expect 503 ``draining``."""

    async def talk(desk: Desk) -> None:
        desk.taking.refusing = True
        status, body = await desk.ask(message("a"))
        assert (status, body["code"]) == (503, "draining")

    run(tmp_path, talk)


def test_what_there_is_no_room_for_is_refused_one_by_one(tmp_path: Path) -> None:
    """Expect 429 for each beyond the bound, and a repeat recognised."""

    async def talk(desk: Desk) -> None:
        for duplicate in (None, True):
            status, body = await desk.ask(message("a"), message("b"))
            assert status == 200
            assert [(one["http_status"], one.get("duplicate")) for one in body["results"]] == [
                (200, duplicate),
                (429, None),
            ]

    run(tmp_path, talk, max_messages=1)


def test_a_disk_without_room_is_said(tmp_path: Path) -> None:
    """Expect 507 for each message, and for records alone."""

    async def talk(desk: Desk) -> None:
        status, body = await desk.ask(message("a"))
        assert (status, body["results"][0]["http_status"]) == (200, 507)
        record = {"message_id": "x", "sender": "0" * 32, "fingerprint": "0" * 32, "age_ms": 0, "keep_ms": 1000}
        status, body = await desk.ask(records=[record])
        assert (status, body["code"]) == (507, "disk_full")
        status, body = await desk.ask(message("a"), records=[record])
        assert (status, body["records"]) == (200, 0)

    run(tmp_path, talk, disk_reserve=1 << 60)


def test_a_reply_that_was_kept_is_given_to_who_waits_for_it(tmp_path: Path) -> None:
    """Expect it consumed in the commit that stores it."""

    async def talk(desk: Desk) -> None:
        waiter = desk.replies.expect("q", "alpha")
        await desk.ask(message("other"), message("r", reply_to="q", for_instance="pure-0"))
        got = await waiter.reply(10)
        assert got is not None
        assert (got.message_id, got.from_cell, got.state) == ("r", "alpha", "consumed")
        assert (desk.inbox.gauges.pending, desk.inbox.gauges.consumed) == (1, 1)

    run(tmp_path, talk)


def test_a_reply_for_a_third_instance_is_kept_for_it(tmp_path: Path) -> None:
    """Expect it passed on from here, and nobody here to get it."""

    async def talk(desk: Desk) -> None:
        waiter = desk.replies.expect("q", "alpha")
        for _ in range(2):
            await desk.ask(message("r", reply_to="q", for_instance="pure-2"))
        assert desk.kept == ["pure-2"]
        assert waiter.free
        assert await desk.inbox.write(desk.inbox.siblings.waited_for) == {"pure-2": 1}

    run(tmp_path, talk)
