"""A full disk: a real, small file system under a real cell."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from processes import Cell
from support import eventually

pytestmark = [pytest.mark.mesh, pytest.mark.root]

RESERVE = 1024 * 1024


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 24 MB; without the right to, skip with the remedy, but never in CI."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = sys.platform == "linux" and os.geteuid() == 0
    if mounted:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", disk], check=False).returncode == 0
    if not mounted:
        reason = "cannot mount a small tmpfs; run the tests as root on Linux"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def test_a_full_disk_refuses_new_messages_loses_none_and_recovers(small_disk: Path) -> None:
    """507 for new messages only; what was acknowledged is there; room is used again without a restart."""
    cell = Cell("pure", small_disk, disk_reserve=str(RESERVE))
    cell.start()
    ballast = small_disk / "ballast"
    free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    ballast.write_bytes(bytes(free - RESERVE - 512 * 1024))
    try:
        acknowledged = []
        for number in range(2000):
            answer = cell.post("/message", message(number))
            if answer.status != 200:
                break
            acknowledged.append(number)
        assert (answer.status, answer.json["code"]) == (507, "disk_full")
        assert int(answer.headers["retry-after"]) >= 1
        assert acknowledged
        again = cell.post("/message", message(acknowledged[0]))
        assert (again.status, again.json["duplicate"]) == (200, True)
        assert stored(cell) == acknowledged

        ballast.unlink()

        def accepted() -> bool:
            return cell.post("/message", message(9999)).status == 200

        eventually(accepted, within=10, message="the cell to take messages again")
        assert stored(cell) == [*acknowledged, 9999]
    finally:
        cell.kill()


def message(number: int) -> dict[str, object]:
    """Return a message of about 20 KB."""
    return {
        "message_id": f"m-{number}",
        "from_cell": "alpha",
        "to_cell": "pure",
        "ttl": 0,
        "payload": {"number": number, "pad": "x" * 20_000},
    }


def stored(cell: Cell) -> list[int]:
    """Return the numbers of the messages in the inbox."""
    return [item["payload"]["number"] for item in cell.get("/messages?limit=1000").json["messages"]]
