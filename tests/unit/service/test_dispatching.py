"""What is sent when, against an outbox that takes its time to write."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest
from msgspec import Raw

from cellmesh.discovery.directory import Directory, Entry
from cellmesh.inbox.clock import SteadyClock
from cellmesh.outbox import Outbox, Parcel
from cellmesh.protocol import peers
from cellmesh.protocol.messages import CellMessage, Identity
from cellmesh.service import dispatching
from cellmesh.service.dispatching import Dispatcher
from cellmesh.transport.shipping import Shipment, Shipper
from scripted import answer, peer
from support import eventually_async

HERE = Identity("alpha", "default", "alpha-0", "uid")


class SlowOutbox:
    """Notes at once what begins, and calls back late when it has noted how it ended."""

    def __init__(self) -> None:
        self.arrived: Callable[[Sequence[Parcel]], None] = lambda _: None
        self.window = 600_000
        self.finished: list[Callable[[], None]] = []

    async def begin(self, *_: object) -> frozenset[int]:
        """Note that attempts begin."""
        return frozenset()

    def finish(self, delivered: Sequence[int], refused: Sequence[Any], finished: Callable[[], None]) -> None:
        """Keep what is to be called."""
        self.finished.append(finished)

    async def waits_for(self, _: str) -> bool:
        """Tell that nothing waits on disk."""
        return False


class OneCell:
    """A directory that knows one instance of one cell."""

    def __init__(self, port: int) -> None:
        self._entry = Entry("pure")
        self._entry.peers = [peers.Peer(cell_id="pure", port=port, ip="127.0.0.1", instance="pure-0", uid="u")]
        self._entry.answered = self._entry.known = True

    def entry(self, _: str) -> Entry:
        """Return what is known."""
        return self._entry

    async def refresh(self, _: Entry) -> None:
        """Know no more than before."""


def parcel(position: int) -> Parcel:
    """Return a queued message."""
    message = CellMessage(message_id=f"m-{position}", from_cell="alpha", to_cell="pure", payload=Raw(b"{}"), ttl=0)
    made = Parcel(message, "", SteadyClock().now_ms())
    made.position = position
    return made


@pytest.mark.parametrize("status", [421, 429, 503])
def test_nothing_overtakes_messages_whose_refusal_is_still_being_noted(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Expect one that is queued meanwhile to wait, also when the pause after the refusal is over."""
    monkeypatch.setattr(dispatching, "backoff", lambda *_: 0.0)
    refusing = True

    def script(message: dict[str, Any]) -> bytes:
        if refusing:
            return answer(status, {"code": "draining", "error": "not now"})
        return answer(200, {"acknowledged": True})

    async def main(port: int, seen: list[dict[str, Any]]) -> None:
        nonlocal refusing
        outbox = SlowOutbox()
        dispatcher = Dispatcher(cast("Outbox", outbox), HERE, cast("Directory", OneCell(port)), SteadyClock())
        # So that what is queued need not be read from the file first.
        route = dispatcher._route("pure")
        await eventually_async(lambda: route.members, within=10)
        outbox.arrived([parcel(1)])
        await eventually_async(lambda: len(outbox.finished) == 1, within=10)
        refusing = False
        outbox.arrived([parcel(2)])
        # The disk takes its time.
        asyncio.get_running_loop().call_later(0.2, outbox.finished[0])
        await eventually_async(lambda: len(seen) >= 3, within=10)
        await dispatcher.close(1.0)

    with peer(script) as receiver:
        asyncio.run(main(receiver.port, receiver.messages))
        assert [message["message_id"] for message in receiver.messages] == ["m-1", "m-1", "m-2"]


def test_messages_of_an_attempt_that_fails_unexpectedly_are_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect them to be given back, as of an attempt of which nothing is known."""
    monkeypatch.setattr(dispatching, "backoff", lambda *_: 0.0)
    ship = Shipper.ship
    failures = [RuntimeError("a defect")]

    async def failing(self: Shipper, *given: Any) -> Shipment:
        if failures:
            raise failures.pop()
        return await ship(self, *given)

    monkeypatch.setattr(Shipper, "ship", failing)

    async def main(port: int, seen: list[dict[str, Any]]) -> None:
        outbox = SlowOutbox()
        dispatcher = Dispatcher(cast("Outbox", outbox), HERE, cast("Directory", OneCell(port)), SteadyClock())
        route = dispatcher._route("pure")
        await eventually_async(lambda: route.members, within=10)
        outbox.arrived([parcel(1)])
        await eventually_async(lambda: len(outbox.finished) == 1, within=10)
        outbox.finished[0]()
        await eventually_async(lambda: len(seen) == 1, within=10)
        await dispatcher.close(1.0)

    with peer(lambda _: answer(200, {"acknowledged": True})) as receiver:
        asyncio.run(main(receiver.port, receiver.messages))
    assert not failures
