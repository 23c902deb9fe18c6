"""Power loss while messages are queued and sent: what was answered holds, and where one may be is known.

A message that was accepted is there after the restart; one whose attempt had begun belongs to that instance and
to no other; one that was taken back is not sent. The same layer under SQLite as for the inbox.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cellmesh.inbox import Transaction
from cellmesh.outbox import Parcel
from cellmesh.outbox.outcomes import Refused
from cellmesh.outbox.parcels import QUEUED
from cellmesh.outbox.store import Sent
from disks import Disk
from inboxes import limits
from outboxes import Box, opened, run

BOUNDS = limits(max_bytes=8 * 1024 * 1024, history=100_000)
SEED = 30_6
CUTS = 40
ROUNDS = 70


def work(directory: Path, disk: Disk, vfs: str, synchronous: str) -> None:
    """Queue, send, take back, and note what others were told, in order."""
    rng = random.Random(SEED)
    number = 0
    waiting: list[Parcel] = []
    with opened(directory, BOUNDS, vfs=vfs) as box:
        box.inbox._store.connection.pragma("synchronous", synchronous)
        for _ in range(ROUNDS):
            ids = [f"m-{number + offset}" for offset in range(rng.randrange(1, 9))]
            number += len(ids)
            waiting += box.queue(*ids, payload={"pad": "x" * rng.randrange(50, 2000)})
            disk.note("accepted", "", ids)
            rng.shuffle(waiting)
            most = rng.randrange(1, 9)
            batch, waiting = waiting[:most], waiting[most:]
            instance = rng.choice(("pure-0", "pure-1"))
            waiting += attempt(box, disk, batch, instance, rng)
            if waiting and rng.random() < 0.3:
                taken_back = waiting.pop()
                assert run(box.outbox.cancel(taken_back.message.message_id)).changed == 1
                disk.note("cancelled", "", taken_back.message.message_id)


def attempt(box: Box, disk: Disk, batch: Sequence[Parcel], instance: str, rng: random.Random) -> list[Parcel]:
    """Send a batch: some are delivered, some refused, some never answered; return those that are free again."""
    ids = [one.message.message_id for one in batch]
    assert box.begin(*batch, instance=instance) == set()
    disk.note("begun", "", ids, instance)
    cut = rng.randrange(len(batch) + 1)
    delivered, others = batch[:cut], batch[cut:]
    lost = rng.random() < 0.5
    # From here on either may be found: it is being written.
    disk.note("ending", "", ids)
    box.finish(*delivered, refused=[Refused(QUEUED, lost, "code", "why", [one.position for one in others])])
    disk.note("delivered", "", [one.message.message_id for one in delivered])
    if lost:
        disk.note("begun", "", [one.message.message_id for one in others], instance)
        return []
    return list(others)


def broken_promises(tmp_path: Path, synchronous: str) -> list[tuple[int, str]]:
    """Cut the power at many instants; return (cut, which promise is broken) where one is."""
    start, live = tmp_path / "start", tmp_path / "live"
    with opened(live, BOUNDS):
        pass
    shutil.copytree(live, start)
    disk = Disk()
    name = f"outbox-{synchronous}"
    vfs = disk.vfs(name)
    work(live, disk, name, synchronous)
    vfs.unregister()
    assert any(event[0] == "write" and event[1][0] == "inbox.db" for event in disk.events), "no checkpoint"
    rng = random.Random(SEED)
    first = next(index for index, event in enumerate(disk.events) if event[0] == "accepted")
    bad = []
    for number in range(CUTS):
        cut = rng.randrange(first + 1, len(disk.events) + 1)
        target = tmp_path / f"cut-{number}"
        chance = (0.0, 0.5)[number % 2]
        disk.rebuild(start, cut, lambda chance=chance: rng.random() < chance, target)
        bad += [(cut, what) for what in faults(target, told(disk.events[:cut]))]
        shutil.rmtree(target)
    return bad


def told(events: Sequence[tuple[Any, ...]]) -> dict[str, str]:
    """Return what is known of each message: the instance of an attempt under way, or what it has come to."""
    known: dict[str, str] = {}
    for kind, _, *more in events:
        if kind in {"accepted", "delivered"}:
            known |= dict.fromkeys(more[0], kind)
        elif kind == "begun":
            known |= dict.fromkeys(more[0], more[1])
        elif kind == "ending":
            known |= dict.fromkeys(more[0], "anything")
        elif kind == "cancelled":
            known[more[0]] = kind
    return known


def faults(directory: Path, known: dict[str, str]) -> list[str]:
    """Open the files as the next start does and return what is not as it was told."""
    found: list[str] = []
    with opened(directory, BOUNDS) as box:
        there = {}
        after = 0
        while page := run(box.outbox.page(1000, state=None, after=after)):
            there |= {one.message_id: one for one in page}
            after = page[-1].seq
        for message_id, what in known.items():
            one = there.get(message_id)
            if one is None:
                found.append(f"{message_id} is lost")
            elif what == "cancelled" and one.state != "cancelled":
                found.append(f"{message_id} was taken back and is {one.state}")
            elif what == "delivered" and one.state != "delivered":
                found.append(f"{message_id} was delivered and is {one.state}")
            elif what.startswith("pure") and one.instance != what:
                found.append(f"{message_id} may be at {what}, and would be sent to {one.instance or 'anyone'}")
    return found


def test_a_power_loss_breaks_no_promise_of_the_outbox(tmp_path: Path) -> None:
    """Expect every message that was accepted, where its last attempt had begun, and what was taken back."""
    assert broken_promises(tmp_path, "full") == []


def test_an_outbox_that_is_not_synced_is_caught(tmp_path: Path) -> None:
    """Expect the same check to find broken promises with synchronous=NORMAL."""
    assert broken_promises(tmp_path, "normal") != []


def test_attempts_kept_in_memory_are_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect the same check to find a build that sends before the instance is on disk."""

    def in_memory(self: Sent, tx: Transaction, *_: Any) -> frozenset[int]:
        return frozenset()

    monkeypatch.setattr(Sent, "begin", in_memory)
    assert broken_promises(tmp_path, "full") != []
