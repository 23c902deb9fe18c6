"""Inboxes for tests: small limits, messages in one line, and a clock that is set by hand."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw

from cellmesh.inbox import Inbox, InboxLimits, Outcome, store
from cellmesh.inbox.clock import SteadyClock
from cellmesh.protocol.messages import CellMessage, Checked, Identity, accept, encode
from cellmesh.protocol.receipts import MessageWithHistory, StoredMessage

HERE = Identity("pure", "default", "pure-0", "uid")
LIMITS = InboxLimits(
    max_messages=1_000_000,
    max_bytes=512 * 1024 * 1024,
    history=10_000,
    history_ms=86_400_000,
    dedupe_window_ms=600_000,
    disk_reserve=0,
)


class HandClock:
    """Seconds of the wall clock and of the monotonic clock, moved by hand."""

    def __init__(self, seconds: float = 1_800_000_000.0) -> None:
        self.wall = seconds
        self.monotonic = 1000.0

    def advance(self, seconds: float) -> None:
        """Let time pass on both."""
        self.wall += seconds
        self.monotonic += seconds

    def steady(self) -> SteadyClock:
        """Return a clock that reads these two, as a process does that starts now."""
        return SteadyClock(lambda: self.wall, lambda: self.monotonic)


def limits(**changes: int) -> InboxLimits:
    """Return generous limits with some of them changed."""
    return dataclasses.replace(LIMITS, **changes)


def message(message_id: str, payload: Any = None, *, from_cell: str = "alpha", **fields: Any) -> Checked:
    """Return a checked message for the cell ``pure``."""
    body = encode({"id": message_id} if payload is None else payload)
    return accept(CellMessage(message_id=message_id, from_cell=from_cell, payload=Raw(body), **fields), HERE)


def sealed(number: int, size: int = 100) -> Checked:
    """Return a message whose payload proves itself: a ledger number and the hash of what is beside it."""
    filling = hashlib.sha256(b"%d" % number).hexdigest() * (size // 64 + 1)
    proof = hashlib.sha256(f"{number}{filling}".encode()).hexdigest()
    return message(f"id-{number}", {"ledger": number, "filling": filling, "proof": proof}, ttl=0)


def unsealed(payload: dict[str, Any]) -> int:
    """Return the ledger number of a payload after checking its proof."""
    assert hashlib.sha256(f"{payload['ledger']}{payload['filling']}".encode()).hexdigest() == payload["proof"]
    return int(payload["ledger"])


@contextlib.contextmanager
def opened(directory: Path, bounds: InboxLimits = LIMITS, **more: Any) -> Iterator[Inbox]:
    """Open an inbox and close it at the end."""
    inbox = Inbox(directory, bounds, **more)
    try:
        yield inbox
    finally:
        inbox.close()


def storing(inbox: Inbox, items: Sequence[Checked], *, ordered: bool = False) -> asyncio.Future[Sequence[Outcome]]:
    """Queue messages; the future has their outcomes once they are on disk."""
    stored: asyncio.Future[Sequence[Outcome]] = asyncio.get_running_loop().create_future()
    inbox.put(items, lambda outcomes: None if stored.done() else stored.set_result(outcomes), ordered=ordered)
    return stored


def put(inbox: Inbox, *items: Checked, ordered: bool = False) -> list[Outcome]:
    """Store messages as one batch and wait for the outcomes."""

    async def store() -> list[Outcome]:
        async with asyncio.timeout(30):
            return list(await storing(inbox, items, ordered=ordered))

    return asyncio.run(store())


def spoil(monkeypatch: pytest.MonkeyPatch, pattern: str) -> None:
    """Have SQLite fail on messages whose id is LIKE this: inboxes opened from now on get a trigger for it."""
    trigger = f"""
        CREATE TEMP TRIGGER spoil BEFORE INSERT ON messages WHEN NEW.message_id LIKE '{pattern}'
        BEGIN SELECT RAISE(ABORT, 'spoilt on purpose'); END;
    """
    monkeypatch.setattr(store, "_ARRIVALS", store._ARRIVALS + trigger)


def verdicts(outcomes: Sequence[Outcome]) -> list[str]:
    """Return the outcomes in words."""
    return [outcome.verdict.value for outcome in outcomes]


def everything(inbox: Inbox) -> list[StoredMessage]:
    """Return all messages, in the order of their positions."""

    async def read() -> list[StoredMessage]:
        found: list[StoredMessage] = []
        while page := await inbox.page(1000, after=found[-1].seq if found else 0):
            found += page
        return found

    return asyncio.run(read())


def find(inbox: Inbox, message_id: str) -> MessageWithHistory | None:
    """Return one message with its history."""
    return asyncio.run(inbox.find(message_id))
