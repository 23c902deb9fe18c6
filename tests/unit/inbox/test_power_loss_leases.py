"""Power loss while messages are handed out and settled: what a consumer was told holds.

A token given out is good after the restart and the message is handed out to nobody else; a message whose ack
was answered never comes again. The same layer under SQLite as in ``test_power_loss_upkeep``.
"""

from __future__ import annotations

import asyncio
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from cellmesh.inbox import Inbox, Leased, LeaseRequest, Transaction, Verb, rows
from cellmesh.inbox.leasing import Leasing
from cellmesh.protocol.consuming import LeasedMessage
from disks import Disk
from inboxes import limits, opened, put, sealed
from leases import LONG, codes, lease, settle, written

BOUNDS = limits(max_bytes=8 * 1024 * 1024)
SEED = 30_5
CUTS = 40
ROUNDS = 60


def consume(directory: Path, disk: Disk, vfs: str, synchronous: str) -> None:
    """Store, hand out, ack and nack, and note what the consumer was told, in order."""
    rng = random.Random(SEED)
    number = 0
    held: list[Leased] = []

    async def take(inbox: Inbox, most: int) -> list[Leased]:
        request = LeaseRequest(most, LONG)
        return list(await written(lambda done: inbox.lease(request, done)))

    with opened(directory, BOUNDS, vfs=vfs) as inbox:
        inbox._store.connection.pragma("synchronous", synchronous)
        for _ in range(ROUNDS):
            count = rng.randrange(1, 9)
            put(inbox, *(sealed(number + offset, rng.randrange(64, 2000)) for offset in range(count)))
            number += count
            for one in asyncio.run(take(inbox, rng.randrange(1, 9))):
                disk.note("leased", "", one)
                held.append(one)
            rng.shuffle(held)
            done, held = held[: len(held) // 2], held[len(held) // 2 :]
            if done:
                assert set(codes(settle(inbox, Verb.ACK, *done))) == {""}
                for one in done:
                    disk.note("acked", "", one)


def broken_promises(tmp_path: Path, synchronous: str) -> list[tuple[int, str]]:
    """Cut the power at many instants; return (cut, which promise is broken) where one is."""
    start, live = tmp_path / "start", tmp_path / "live"
    with opened(live, BOUNDS):
        pass
    shutil.copytree(live, start)
    disk = Disk()
    name = f"leases-{synchronous}"
    vfs = disk.vfs(name)
    consume(live, disk, name, synchronous)
    vfs.unregister()
    rng = random.Random(SEED)
    first = next(index for index, event in enumerate(disk.events) if event[0] == "leased")
    bad = []
    for number in range(CUTS):
        cut = rng.randrange(first + 1, len(disk.events) + 1)
        target = tmp_path / f"cut-{number}"
        chance = (0.0, 0.5)[number % 2]
        disk.rebuild(start, cut, lambda chance=chance: rng.random() < chance, target)
        told = [(event[0], event[2]) for event in disk.events[:cut] if event[0] in {"leased", "acked"}]
        acked = {one.message.seq for what, one in told if what == "acked"}
        holding = [one for what, one in told if what == "leased" and one.message.seq not in acked]
        with opened(target, BOUNDS) as inbox:
            again = {one.message.seq for one in lease(inbox, 1000)}
            if again & acked:
                bad.append((cut, "an acked message was handed out again"))
            elif again & {one.message.seq for one in holding}:
                bad.append((cut, "a leased message was handed out to another"))
            elif holding and any(codes(settle(inbox, Verb.ACK, *holding))):
                bad.append((cut, "a token is no longer good"))
        shutil.rmtree(target)
    return bad


def test_a_power_loss_breaks_no_lease(tmp_path: Path) -> None:
    """Expect every lease and every ack that was answered to hold."""
    assert broken_promises(tmp_path, "full") == []


def test_leases_that_are_not_synced_are_caught(tmp_path: Path) -> None:
    """Expect the same check to find broken promises with synchronous=NORMAL."""
    assert broken_promises(tmp_path, "normal") != []


def test_leases_kept_in_memory_are_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect the same check to find a build that hands messages out before the lease is on disk."""

    def in_memory(self: Leasing, tx: Transaction, request: LeaseRequest, chosen: list[tuple[Any, ...]]) -> list[Leased]:
        token = "-".join(("only", "in", "memory"))
        return [
            Leased(LeasedMessage(**rows.fields(row), lease_token=token, lease_seconds=LONG / 1000), token)
            for row in chosen
        ]

    monkeypatch.setattr(Leasing, "_hand_out", in_memory)
    monkeypatch.setattr("cellmesh.inbox.leasing.judge", lambda *_: "")  # every token is good
    assert broken_promises(tmp_path, "full") != []
