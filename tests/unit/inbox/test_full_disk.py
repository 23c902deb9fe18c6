"""A full disk, and one that fails: what is acknowledged is stored, and a full one recovers by itself."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
import pytest

from cellmesh.inbox import Inbox, Verdict
from inboxes import LIMITS, everything, opened, put, sealed, storing, unsealed, verdicts
from processes import Cell
from support import eventually


@dataclass
class Disk:
    """How much longer the files may get, and what fails."""

    name: str = ""
    left: int | None = None
    failing: str = ""
    refusals: int = 0

    def claim(self, growth: int) -> None:
        """Take room for a file that grows.

        Raises:
            apsw.FullError: there is none.

        """
        if self.left is None or growth <= 0:
            return
        if growth > self.left:
            self.refusals += 1
            raise apsw.FullError
        self.left -= growth

    def fail(self, call: str) -> None:
        """Fail if this call is to fail.

        Raises:
            apsw.IOError: as of a broken disk.

        """
        if call == self.failing:
            raise apsw.IOError


@pytest.fixture
def disk() -> Iterator[Disk]:
    """Return a disk to open an inbox on: ``vfs=disk.name``."""
    made = Disk(name=f"disk-{uuid.uuid4()}")

    class File(apsw.VFSFile):
        def __init__(self, path: Any, flags: list[int]) -> None:
            super().__init__("unix", path, flags)

        def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - SQLite's name
            made.fail("write")
            made.claim(offset + len(data) - self.xFileSize())
            super().xWrite(data, offset)

        def xSync(self, flags: int) -> None:  # noqa: N802
            made.fail("sync")
            super().xSync(flags)

    class Vfs(apsw.VFS):
        def __init__(self) -> None:
            super().__init__(made.name, "unix")

        def xOpen(self, path: Any, flags: list[int]) -> File:  # noqa: N802
            return File(path, flags)

    vfs = Vfs()
    yield made
    vfs.unregister()


def ledger(inbox: Inbox) -> list[int]:
    """Return the ledger numbers of all messages, each checked against its hash."""
    return [unsealed(json.loads(bytes(found.payload))) for found in everything(inbox)]


def test_a_full_disk_refuses_new_messages_and_recovers_by_itself(tmp_path: Path, disk: Disk) -> None:
    """What was acknowledged is there; repeats are answered; with room again, new ones are taken."""
    with opened(tmp_path, vfs=disk.name) as inbox:
        stored = []
        disk.left = 0
        for number in range(2000):
            (outcome,) = put(inbox, sealed(number, 20_000))
            if outcome.verdict is Verdict.STORED:
                stored.append(number)
                continue
            assert outcome.verdict is Verdict.DISK_FULL
            if disk.refusals > 20:
                break
        assert 50 < len(stored) < 1500, "it was never full, or always"
        assert ledger(inbox) == stored
        assert inbox.gauges.pending == inbox.gauges.received == len(stored)
        assert verdicts(put(inbox, sealed(stored[0], 20_000), sealed(stored[-1], 20_000))) == ["duplicate"] * 2
        disk.left = None
        assert verdicts(put(inbox, sealed(9999, 20_000), sealed(stored[0], 20_000))) == ["stored", "duplicate"]
    with opened(tmp_path) as inbox:
        assert ledger(inbox) == [*stored, 9999]


def test_in_a_group_that_does_not_fit_the_small_ones_are_stored(tmp_path: Path, disk: Disk) -> None:
    """The group is repeated item by item: repeats are answered, and each outcome is the truth."""
    with opened(tmp_path, vfs=disk.name) as inbox:
        put(inbox, sealed(0))
        disk.left = 0
        # More than the whole write-ahead log holds, so that it would have to grow.
        outcomes = put(inbox, sealed(1), sealed(2, 8_000_000), sealed(0), sealed(3))
        assert verdicts(outcomes)[1:3] == ["disk_full", "duplicate"]
        there = [number for number, one in zip((1, 2, 0, 3), outcomes, strict=True) if one.verdict is Verdict.STORED]
        assert ledger(inbox) == [0, *there]
        assert there == [1, 3]
        disk.left = None
        assert verdicts(put(inbox, sealed(2, 8_000_000))) == ["stored"]


@pytest.mark.parametrize("call", ["write", "sync"])
def test_a_failing_disk_ends_the_process_without_acknowledging(tmp_path: Path, disk: Disk, call: str) -> None:
    """After an error of the disk nothing can be promised; what was acknowledged before is there."""
    died = threading.Event()

    async def send() -> list[bool]:
        for number in range(50):
            (outcome,) = await storing(inbox, [sealed(number)])
            assert outcome.verdict is Verdict.STORED
        disk.failing = call
        waiting = [storing(inbox, [sealed(number)]) for number in range(50, 60)]
        assert await asyncio.to_thread(died.wait, 10)
        inbox.writer._thread.join(10)
        # Whatever the writer had handed to the loop before it ended runs in this turn.
        await asyncio.sleep(0)
        return [future.done() for future in waiting]

    inbox = Inbox(tmp_path, LIMITS, vfs=disk.name, on_death=died.set)
    answered = asyncio.run(send())
    disk.failing = ""
    inbox.close()
    assert answered == [False] * 10
    with opened(tmp_path) as inbox:
        assert ledger(inbox)[:50] == list(range(50))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 8 MiB."""
    if sys.platform != "linux" or os.geteuid() != 0:
        reason = "mounting a tmpfs needs root on Linux: run `sudo -E make test`, or in a privileged container"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        reason = f"a tmpfs cannot be mounted here ({mounted.stderr.strip()}): run in a privileged container"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.root
@pytest.mark.mesh
@pytest.mark.parametrize("reserve", [1024 * 1024, 0])
def test_a_cell_on_a_full_file_system_answers_507_and_recovers(tmp_path: Path, small_disk: Path, reserve: int) -> None:
    """With a reserve and without one: whatever was acknowledged is read back, and room is noticed."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(1024 * 1024))
    settings = {"disk_reserve": str(reserve), "max_bytes": str(16 * 1024 * 1024)}
    cell = Cell("pure", tmp_path, data_dir=str(small_disk / "data"), **settings)
    with contextlib.ExitStack() as stack:
        cell.start()
        stack.callback(cell.kill)

        def send(number: int) -> tuple[int, str]:
            one = sealed(number, 20_000)
            body = {"message_id": one.message_id, "from_cell": "alpha", "ttl": 0, "payload": json.loads(one.payload)}
            answer = cell.post("/message", body)
            return answer.status, answer.json.get("code", "duplicate" if answer.json.get("duplicate") else "")

        answers = [send(number) for number in range(500)]
        acknowledged = [number for number, (status, _) in enumerate(answers) if status == 200]
        assert 20 < len(acknowledged) < 480
        assert {answer for answer in answers if answer[0] != 200} == {(507, "disk_full")}
        assert answers[-1] == (507, "disk_full")
        assert send(acknowledged[0]) == (200, "duplicate")
        assert cell.get("/readyz").status == 200
        pid = cell.pid
        ballast.unlink()
        eventually(lambda: send(1000) == (200, ""), within=10, message="a new message to be accepted")
        assert (cell.pid, cell.returncode) == (pid, None)
        assert read_back(cell) == [*acknowledged, 1000]
        cell.kill()
        cell.start()
        assert read_back(cell) == [*acknowledged, 1000]


def read_back(cell: Cell) -> list[int]:
    """Return the ledger numbers of everything in a cell, each checked against its hash."""
    found: list[int] = []
    after = 0
    while page := cell.get(f"/messages?limit=1000&after={after}").json["messages"]:
        found += [unsealed(message["payload"]) for message in page]
        after = page[-1]["seq"]
    return found


@pytest.mark.root
@pytest.mark.mesh
def test_a_cell_killed_on_a_full_file_system_starts_again_there(tmp_path: Path, small_disk: Path) -> None:
    """The reserve is what it starts with: everything is read back, and new ones are still refused."""
    settings = {"disk_reserve": str(1024 * 1024), "max_bytes": str(16 * 1024 * 1024)}
    cell = Cell("pure", tmp_path, data_dir=str(small_disk / "data"), **settings)
    with contextlib.ExitStack() as stack:
        cell.start()
        stack.callback(cell.kill)
        acknowledged = []
        while len(acknowledged) < 500:
            one = sealed(len(acknowledged), 20_000)
            body = {"message_id": one.message_id, "from_cell": "alpha", "ttl": 0, "payload": json.loads(one.payload)}
            answer = cell.post("/message", body)
            if answer.status == 507:
                break
            assert answer.status == 200, answer
            acknowledged.append(len(acknowledged))
        for _ in range(2):
            cell.kill()
            cell.start()
            assert read_back(cell) == acknowledged
            assert cell.post("/message", body).status == 507
