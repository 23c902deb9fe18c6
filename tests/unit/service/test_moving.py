"""The mover: what becomes of messages for a sibling, whatever that sibling answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import inboxes
from cellmesh.discovery.directory import Entry
from cellmesh.inbox import Inbox
from cellmesh.protocol.peers import Peer
from cellmesh.service import moving
from cellmesh.service.counters import Counters
from cellmesh.service.moving import Mover
from inboxes import HERE, message
from support import eventually_async

#: Given the body of a hand-over, the status and body of the answer; None: the connection is closed without one.
Script = Callable[[dict[str, Any]], tuple[int, Any] | None]


class Sibling:
    """An instance that answers as a test says."""

    def __init__(self, name: str, script: Script) -> None:
        self.name = name
        self.script = script
        #: The ids of each hand-over that came.
        self.asked: list[list[str]] = []
        self._serving: dict[asyncio.Task[Any], asyncio.StreamWriter] = {}
        self.peer = Peer(cell_id="pure", instance=name, ip="127.0.0.1", port=1)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        task = asyncio.current_task()
        assert task is not None
        self._serving[task] = writer
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
                body = json.loads(await reader.readexactly(length))
                assert body["to_instance"] == self.name
                self.asked.append([one["message"]["message_id"] for one in body.get("messages", [])])
                said = self.script(body)
                if said is None:
                    break
                data = json.dumps(said[1]).encode()
                writer.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%b" % (said[0], len(data), data))
                await writer.drain()
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)
        del self._serving[task]

    async def close(self) -> None:
        """End all connections."""
        tasks = list(self._serving)
        for writer in self._serving.values():
            writer.transport.abort()
        await asyncio.gather(*tasks, return_exceptions=True)


def answers(*items: dict[str, Any], records: int = 0) -> tuple[int, Any]:
    """Return an answer with these items."""
    return 200, {"results": list(items), "records": records, "cell_id": "pure", "instance": "x"}


def item(message_id: str, status: int = 200) -> dict[str, Any]:
    """Return the item of an answer for one message."""
    return {"status": "ok" if status == 200 else "error", "http_status": status, "message_id": message_id}


def takes_all(body: dict[str, Any]) -> tuple[int, Any]:
    """Take everything."""
    return answers(*[item(one["message"]["message_id"]) for one in body["messages"]])


def in_turn(*answers: tuple[int, Any] | Script | None) -> Script:
    """Give these answers in turn, and the last one again and again."""
    left = list(answers)

    def script(body: dict[str, Any]) -> tuple[int, Any] | None:
        said = left.pop(0) if len(left) > 1 else left[0]
        return said(body) if callable(said) else said

    return script


class World:
    """An instance with a mover, and what it knows of its cell."""

    def __init__(self, inbox: Inbox) -> None:
        self.inbox = inbox
        self.known = Entry("pure")
        self.known.answered = True
        self.counters = Counters()
        self.mover = Mover(HERE, inbox, self, self.counters)  # type: ignore[arg-type]

    def entry(self, cell: str) -> Entry:
        """Return what is known (as the directory does)."""
        assert cell == "pure"
        return self.known

    async def refresh(self, _: Entry) -> None:
        """Ask again (as the directory does)."""

    def ready(self, *siblings: Sibling) -> None:
        """Have these be ready."""
        self.known.set_peers([sibling.peer for sibling in siblings])
        self.known.notify()

    async def keep(self, *ids: str, instance: str = "pure-1") -> None:
        """Receive messages that are for a sibling."""
        await inboxes.storing(self.inbox, [message(one, for_instance=instance) for one in ids])
        self.mover.expect(instance)

    async def on_its_way(self, sibling: str = "pure-1") -> list[str]:
        """Return the messages that a sibling may have."""
        lot = await self.inbox.write(lambda tx: self.inbox.siblings.begun(tx, sibling, 1 << 40))
        return [one.handed.message.message_id for one in lot.messages]

    async def waited_for(self) -> dict[str, int]:
        """Return whom there are messages for."""
        return await self.inbox.write(self.inbox.siblings.waited_for)

    async def empty(self) -> None:
        """Wait until nothing is kept."""
        await eventually_async(lambda: not self.inbox.gauges.pending, within=10, message="everything passed on")


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look often, and ask again soon."""
    monkeypatch.setattr(moving, "LOOK", 0.05)
    monkeypatch.setattr(moving, "MIN_PAUSE", 0.01)
    monkeypatch.setattr(moving, "MAX_PAUSE", 0.05)


def run(directory: Path, talk: Callable[[World], Awaitable[None]], **more: Any) -> None:
    """Run a test with an inbox of its own."""

    async def talking() -> None:
        async with asyncio.timeout(30):
            inbox = Inbox(directory, inboxes.limits(**more.pop("limits", {})), **more)
            world = World(inbox)
            try:
                await talk(world)
            finally:
                await world.mover.close()
                inbox.close()

    asyncio.run(talking())


@contextlib.asynccontextmanager
async def sibling(script: Script, name: str = "pure-1") -> AsyncIterator[Sibling]:
    """Run a sibling."""
    one = Sibling(name, script)
    server = await asyncio.start_server(one.serve, "127.0.0.1", 0)
    one.peer.port = server.sockets[0].getsockname()[1]
    async with server:
        try:
            yield one
        finally:
            await one.close()


def test_what_is_kept_is_passed_on_once_the_sibling_is_ready(tmp_path: Path) -> None:
    """Expect nothing before, one request, and nothing left."""

    async def talk(world: World) -> None:
        async with sibling(takes_all) as one, sibling(takes_all, "pure-2") as other:
            world.ready(other)
            await world.keep("a", "b")
            assert await world.on_its_way() == []
            world.ready(one, other)
            await world.empty()
            assert (one.asked, other.asked) == ([["a", "b"]], [])
            assert world.counters.handed_over["messages"] == 2
            await world.keep("c")
            await world.empty()
            assert one.asked == [["a", "b"], ["c"]]

    run(tmp_path, talk)


@pytest.mark.parametrize("unknown", [None, (500, {}), (503, {}), (200, {"odd": 1}), answers(item("a"))])
def test_an_unknown_outcome_is_asked_about_again_at_that_sibling(tmp_path: Path, unknown: Any) -> None:
    """Expect the same messages at the same sibling, on their way until it says what it has."""

    async def talk(world: World) -> None:
        draining = (503, {"code": "draining"})
        script = in_turn(unknown, draining, (421, {}), unknown, takes_all)
        async with sibling(script) as one, sibling(takes_all, "pure-2") as other:
            await world.keep("a", "b")
            world.ready(one, other)
            await eventually_async(lambda: len(one.asked) >= 4, within=10, message="some attempts")
            assert await world.on_its_way() in (["a", "b"], [])
            await world.empty()
            assert (one.asked, other.asked) == ([["a", "b"]] * 5, [])

    run(tmp_path, talk)


@pytest.mark.parametrize(
    "refusal", [(404, {"detail": "Not Found"}), (421, {}), (503, {"code": "draining"}), (507, {}), (429, {})]
)
def test_a_refusal_that_proves_that_nothing_is_there_leaves_it_kept(tmp_path: Path, refusal: Any) -> None:
    """Expect the messages kept as before, and tried again."""

    async def talk(world: World) -> None:
        async with sibling(lambda _: refusal) as one:
            await world.keep("a")
            world.ready(one)
            await eventually_async(lambda: len(one.asked) > 2, within=10, message="some attempts")
            world.ready()
            await asyncio.gather(*[lane.task for lane in world.mover._lanes.values() if lane.task])
            assert await world.on_its_way() == []
            assert await world.waited_for() == {"pure-1": 1}
            one.script = takes_all
            world.ready(one)
            await world.empty()

    run(tmp_path, talk)


def test_each_message_has_an_outcome_of_its_own(tmp_path: Path) -> None:
    """Expect what it has deleted, what it has no room for tried again, what it will never take pending here."""

    async def talk(world: World) -> None:
        first = answers(item("there"), item("full", 429), item("conflict", 409), item("disk", 507))
        async with sibling(in_turn(first, takes_all)) as one:
            await world.keep("there", "full", "conflict", "disk")
            world.ready(one)
            await eventually_async(lambda: world.inbox.gauges.pending == 1, within=10)
            assert one.asked[1:] == [["full", "disk"]]
            assert await world.waited_for() == {}
            found = await world.inbox.find("conflict")
            assert found is not None
            assert found.state == "pending"

    run(tmp_path, talk)


def test_what_is_too_much_at_once_goes_in_smaller_parts(tmp_path: Path) -> None:
    """Expect halves of halves, down to one message, and one that is too large by itself pending here."""

    def script(body: dict[str, Any]) -> tuple[int, Any]:
        if len(body["messages"]) > 1 or body["messages"][0]["message"]["message_id"] == "c":
            return 413, {}
        return takes_all(body)

    async def talk(world: World) -> None:
        async with sibling(script) as one:
            await world.keep("a", "b", "c", "d")
            world.ready(one)
            await eventually_async(lambda: world.inbox.gauges.pending == 1, within=10)
            assert [ids for ids in one.asked if len(ids) == 1] == [["a"], ["b"], ["c"], ["d"]]
            assert await world.waited_for() == {}

    run(tmp_path, talk)


def test_a_restart_goes_on_with_what_was_on_its_way(tmp_path: Path) -> None:
    """Expect the sibling that may have it to be asked by the next process, and what is kept passed on."""

    async def before(world: World) -> None:
        await world.keep("kept")
        await inboxes.storing(world.inbox, [message("begun")])
        await world.inbox.write(lambda tx: world.inbox.siblings.pending(tx, "pure-1", 1 << 40, ["pure-1"], []))

    async def after(world: World) -> None:
        async with sibling(takes_all) as one, sibling(takes_all, "pure-2") as other:
            world.ready(one, other)
            world.mover.start()
            await world.empty()
            assert (sorted(one.asked), other.asked) == ([["begun"], ["kept"]], [])

    run(tmp_path, before)
    run(tmp_path, after)


def test_what_is_for_a_sibling_that_does_not_exist_is_pending_after_the_window(tmp_path: Path) -> None:
    """Expect it kept while it may come back or nobody can say, and to be anybody's later."""

    async def talk(world: World) -> None:
        world.known.replicas = 2
        await world.keep("kept", instance="pure-1")
        await world.keep("gone", instance="pure-7")
        world.known.problem = "discovery is away"
        await eventually_async(lambda: True, within=1)
        assert await world.waited_for() == {"pure-1": 1, "pure-7": 1}
        world.known.problem = ""

        async def given_up() -> bool:
            return await world.waited_for() == {"pure-1": 1}

        await eventually_async(given_up, within=10, message="the other one to be given up")
        found = await world.inbox.find("gone")
        assert found is not None
        assert "pure-7 does not exist any more" in [step.reason for step in found.history]

    run(tmp_path, talk, limits={"dedupe_window_ms": 200})


def test_the_end_waits_for_what_is_under_way(tmp_path: Path) -> None:
    """Expect nothing new begun once it ends, and the outcome of what was begun known."""

    async def talk(world: World) -> None:
        asked = asyncio.Event()
        loop = asyncio.get_running_loop()

        def slow(body: dict[str, Any]) -> tuple[int, Any]:
            loop.call_soon(asked.set)
            return takes_all(body)

        async with sibling(slow) as one:
            await world.keep("a")
            world.ready(one)
            await asked.wait()
            await world.mover.end()
            assert world.inbox.gauges.pending == 0
            await world.keep("b")
            world.ready(one)
            assert await world.waited_for() == {"pure-1": 1}
            assert one.asked == [["a"]]

    run(tmp_path, talk)


def test_messages_for_names_that_nobody_has_cost_nothing_but_their_room(tmp_path: Path) -> None:
    """Expect a sibling to get its own, whatever else there is."""

    async def talk(world: World) -> None:
        strangers = [message(f"m{number}", for_instance=f"nobody-{number}") for number in range(1500)]
        for start in range(0, 1500, 250):
            await inboxes.storing(world.inbox, strangers[start : start + 250])
        async with sibling(takes_all) as one:
            await world.keep("own", instance="pure-1")
            world.ready(one)
            await eventually_async(lambda: world.inbox.gauges.pending == 1500, within=10)
            assert one.asked == [["own"]]

    run(tmp_path, talk)
