"""Power loss while an inbox keeps house: expiry, trimming, shrinking, closing and starting again.

Each of these rewrites or cuts files that acknowledged messages are in. As in ``test_power_loss`` a layer
under SQLite records writes and syncs; here over several lives, in which the log is deleted and made anew.
"""

import asyncio
import json
import random
import shutil
from pathlib import Path

import pytest

from cellmesh.inbox import Inbox, store, upkeep, writer
from disks import Disk
from inboxes import HandClock, everything, limits, message, opened, put, sealed, storing, unsealed, verdicts
from support import eventually

BOUNDS = limits(max_bytes=4 * 1024 * 1024, history=20, dedupe_window_ms=1000)
SEED = 30_4
CUTS = 40


def keep_house(directory: Path, disk: Disk, vfs: str, synchronous: str, clock: HandClock) -> dict[int, int]:
    """Live four times; return the position of each acknowledged message that never expires."""
    rng = random.Random(SEED)
    positions: dict[int, int] = {}
    number = brief = 0

    async def burst(inbox: Inbox) -> None:
        nonlocal number, brief
        for _ in range(40):
            group = [sealed(number + offset, rng.randrange(64, 3000)) for offset in range(rng.choice((1, 1, 2, 6)))]
            short = [message(f"brief-{brief + offset}", {"text": "x" * 6000}, ttl=5) for offset in range(4)]
            brief += len(short)
            futures = [storing(inbox, [one]) for one in (*group, *short)]
            for one in group:
                (outcome,) = await futures.pop(0)
                assert outcome.verdict.value == "stored"
                disk.note("acknowledged", "", number)
                positions[number] = outcome.seq
                assert one.message_id == f"id-{number}"
                number += 1
            for future in futures:
                await future

    for _ in range(4):
        with opened(directory, BOUNDS, vfs=vfs, clock=clock.steady()) as inbox:
            inbox._store.connection.pragma("synchronous", synchronous)
            for _ in range(2):
                asyncio.run(burst(inbox))
                clock.advance(6)
                eventually(lambda inbox=inbox: inbox.gauges.dead <= 20 and inbox.gauges.pending == number, within=20)
                eventually(lambda inbox=inbox: inbox._store.connection.pragma("freelist_count") < 250, within=20)
    return positions


def losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, synchronous: str) -> list[tuple[int, str]]:
    """Cut the power at many instants; return (cut, what was missing) where anything was."""
    for module in (store, upkeep):
        monkeypatch.setattr(module, "LOG_PAGES", 50)  # pages are given back when a few are free
    monkeypatch.setattr(writer, "UPKEEP_PAUSE", 0.0005)
    start, live = tmp_path / "start", tmp_path / "live"
    with opened(live, BOUNDS):
        pass
    shutil.copytree(live, start)
    disk, clock = Disk(), HandClock()
    vfs = disk.vfs(f"house-{synchronous}")
    positions = keep_house(live, disk, f"house-{synchronous}", synchronous, clock)
    vfs.unregister()
    kinds = {(event[0], event[1][0]) for event in disk.events}
    assert {("write", "inbox.db"), ("truncate", "inbox.db"), ("sync", "inbox.db")} <= kinds
    assert disk.lives["inbox.db-wal"] == 4
    rng = random.Random(SEED)
    bad = []
    for number in range(CUTS):
        cut = rng.randrange(1, len(disk.events) + 1)
        chance = (0.0, 0.5, 0.9)[number % 3]
        target = tmp_path / f"cut-{number}"
        disk.rebuild(start, cut, lambda chance=chance: rng.random() < chance, target)
        acknowledged = {event[2] for event in disk.events[:cut] if event[0] == "acknowledged"}
        with opened(target, BOUNDS, clock=clock.steady()) as inbox:
            payloads = [json.loads(bytes(one.payload)) for one in everything(inbox)]
            there = [unsealed(payload) for payload in payloads if "ledger" in payload]
            last = max((positions[one] for one in acknowledged), default=0)
            (new,) = put(inbox, sealed(10**6))
        assert len(set(there)) == len(there)
        if missing := acknowledged - set(there):
            bad.append((cut, f"{len(missing)} messages"))
        elif new.seq <= last:
            bad.append((cut, f"position {new.seq} given out again"))
        assert verdicts([new]) == ["stored"]
        shutil.rmtree(target)
    return bad


def test_keeping_house_loses_nothing_when_the_power_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each acknowledged message is there once, intact, and no position is given out twice."""
    assert losses(tmp_path, monkeypatch, "full") == []


def test_keeping_house_without_syncing_each_commit_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With synchronous=NORMAL the same check finds something missing."""
    assert losses(tmp_path, monkeypatch, "normal") != []
