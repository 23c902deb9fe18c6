"""Power loss: what was acknowledged is there when every write that was not synced is gone.

SIGKILL leaves the page cache, so it says nothing about fsync. Here a layer under SQLite records every
write and every sync; the files are rebuilt as a disk may have them at an instant, and opened.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw
import msgspec

from cellmesh.inbox import Inbox, InboxLimits, Verdict
from cellmesh.protocol.deduplication import dedupe_key, fingerprint
from cellmesh.protocol.messages import Checked, encode
from inboxes import storing

LIMITS = InboxLimits(
    max_messages=1_000_000,
    max_bytes=16_000_000,  # a write-ahead log of 244 pages: it is copied into the file many times
    history=1000,
    history_ms=86_400_000,
    dedupe_window_ms=600_000,
    disk_reserve=0,
)
SEED = 20261123
CUTS = 40


@dataclass
class Recorder:
    """What happened to the files and to the messages, in order."""

    events: list[tuple[Any, ...]] = field(default_factory=list)

    def install(self, name: str) -> apsw.VFS:
        """Register a VFS of this name that records; the caller keeps and unregisters it."""
        recorder = self

        class File(apsw.VFSFile):
            def __init__(self, path: Any, flags: list[int]) -> None:
                super().__init__("unix", path, flags)
                text = path if isinstance(path, str) else path.filename() if path is not None else ""
                self.name = Path(text).name

            def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - SQLite's name
                recorder.events.append(("write", self.name, offset, bytes(data)))
                super().xWrite(data, offset)

            def xTruncate(self, size: int) -> None:  # noqa: N802
                recorder.events.append(("truncate", self.name, size))
                super().xTruncate(size)

            def xSync(self, flags: int) -> None:  # noqa: N802
                super().xSync(flags)
                recorder.events.append(("sync", self.name))

        class Vfs(apsw.VFS):
            def __init__(self) -> None:
                super().__init__(name, "unix")

            def xOpen(self, path: Any, flags: list[int]) -> File:  # noqa: N802
                return File(path, flags)

            def xDelete(self, path: str, syncdir: bool) -> None:  # noqa: N802
                recorder.events.append(("delete", Path(path).name))
                super().xDelete(path, syncdir)

        return Vfs()


def message(number: int, rng: random.Random) -> Checked:
    """Return a message whose payload names it and carries bytes of its own."""
    payload = {"number": number, "pad": rng.randbytes(rng.randrange(50, 1200)).hex()}
    identity = f"m-{number}"
    return Checked(
        message_id=identity,
        from_cell="alpha",
        to_cell="pure",
        message_type="test",
        priority="normal",
        ttl=0,
        lifetime=0,
        timestamp=None,
        payload=encode(payload),
        extra=None,
        key=dedupe_key("", "alpha", identity),
        fingerprint=fingerprint("pure", "test", payload),
    )


async def record(directory: Path, recorder: Recorder, name: str, synchronous: str) -> dict[int, bytes]:
    """Store messages in groups of changing size; return their payloads by number."""
    rng = random.Random(SEED)
    inbox = Inbox(directory, LIMITS, vfs=name)
    inbox._store.connection.pragma("synchronous", synchronous)
    payloads: dict[int, bytes] = {}
    number = 0
    while number < 1200:
        group = [message(number + offset, rng) for offset in range(rng.choice((1, 1, 2, 5, 20, 60)))]
        futures = [storing(inbox, [item]) for item in group]
        for offset, (item, future) in enumerate(zip(group, futures, strict=True)):
            assert (await future)[0].verdict is Verdict.STORED
            payloads[number + offset] = item.payload
            recorder.events.append(("acknowledged", number + offset))
        number += len(group)
    inbox.close()
    return payloads


def rebuild(start: Path, events: list[tuple[Any, ...]], cut: int, rng: random.Random | None, target: Path) -> set[int]:
    """Make the files as they may be after a power loss at event ``cut``; return what was acknowledged by then.

    Without ``rng`` nothing unsynced has reached the disk; with it, some of it has, torn at 512 bytes.
    """
    shutil.copytree(start, target)
    content = {path.name: bytearray(path.read_bytes()) for path in target.iterdir() if path.name != "lock"}
    synced: dict[str, int] = {}
    for index, event in enumerate(events[:cut]):
        if event[0] == "sync":
            synced[event[1]] = index
    for index, event in enumerate(events[:cut]):
        kind = event[0]
        if kind not in {"write", "truncate", "delete"}:
            continue
        name = event[1]
        if kind == "delete":
            content.pop(name, None)
            continue
        data = content.setdefault(name, bytearray())
        durable = index < synced.get(name, -1)
        if kind == "truncate":
            if durable:
                del data[event[2] :]
            continue
        offset, piece = event[2], event[3]
        if not durable:
            if rng is None or rng.random() < 0.5:
                continue
            piece = piece[: rng.randrange(0, len(piece) // 512 + 1) * 512]
        if len(data) < offset + len(piece):
            data.extend(bytes(offset + len(piece) - len(data)))
        data[offset : offset + len(piece)] = piece
    for name, data in content.items():
        (target / name).write_bytes(data)
    return {event[1] for event in events[:cut] if event[0] == "acknowledged"}


async def found(directory: Path) -> dict[int, bytes]:
    """Open the files as the next start does and return the payloads that are there."""
    inbox = Inbox(directory, LIMITS)
    payloads: dict[int, bytes] = {}
    after = 0
    while page := await inbox.page(1000, after=after):
        for item in page:
            payloads[msgspec.json.decode(bytes(item.payload))["number"]] = bytes(item.payload)
        after = page[-1].seq
    inbox.close()
    return payloads


def losses(tmp_path: Path, synchronous: str) -> list[tuple[int, int]]:
    """Run, cut the power at many instants, and return (cut, messages lost) where any acknowledged one is."""
    start, live = tmp_path / "start", tmp_path / "live"
    Inbox(live, LIMITS).close()
    shutil.copytree(live, start)
    recorder = Recorder()
    name = f"recorder-{synchronous}"
    vfs = recorder.install(name)
    sent = asyncio.run(record(live, recorder, name, synchronous))
    vfs.unregister()
    events = recorder.events
    rng = random.Random(SEED)
    first = next(index for index, event in enumerate(events) if event[0] == "acknowledged")
    last = max(index for index, event in enumerate(events) if event[0] == "acknowledged")
    assert any(event[:2] == ("write", "inbox.db") for event in events[first:last]), "no checkpoint was recorded"
    bad = []
    for number, torn in itertools.product(range(CUTS), (False, True)):
        cut = rng.randrange(first + 1, last + 2)
        target = tmp_path / f"cut-{number}-{torn}"
        acknowledged = rebuild(start, events, cut, rng if torn else None, target)
        there = asyncio.run(found(target))
        lost = sum(there.get(one) != sent[one] for one in acknowledged)
        if lost:
            bad.append((cut, lost))
        shutil.rmtree(target)
    return bad


def test_no_acknowledged_message_is_lost_when_the_power_fails(tmp_path: Path) -> None:
    """At every cut, each message acknowledged before it is there with its payload."""
    assert losses(tmp_path, "full") == []


def test_a_build_that_does_not_sync_each_commit_is_caught(tmp_path: Path) -> None:
    """With synchronous=NORMAL the same check finds acknowledged messages lost."""
    assert losses(tmp_path, "normal") != []
