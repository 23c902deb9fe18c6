"""A cell whose disk fails ends without acknowledging, and has everything from before when it comes back."""

import http.client
import sys
from pathlib import Path

import pytest

from processes import Cell, request

pytestmark = pytest.mark.mesh

#: A cell on a file system whose fsync, or write, fails as soon as a file of that name is there.
FAILING = """
import functools, os, sys
from pathlib import Path
import apsw
from cellmesh.api.server import run
from cellmesh.service import cell
from cellmesh.settings import Settings

here = Path(sys.argv[1])

class File(apsw.VFSFile):
    def __init__(self, path, flags):
        super().__init__("unix", path, flags)

    def xSync(self, flags):
        if (here / "sync").exists():
            raise apsw.IOError
        super().xSync(flags)

    def xWrite(self, data, offset):
        if (here / "write").exists():
            raise apsw.IOError
        super().xWrite(data, offset)

class Vfs(apsw.VFS):
    def __init__(self):
        super().__init__("failing", "unix")

    def xOpen(self, path, flags):
        return File(path, flags)

vfs = Vfs()
cell.Inbox = functools.partial(cell.Inbox, vfs="failing")
sys.exit(run(Settings.from_environ(os.environ)))
"""


@pytest.mark.parametrize("call", ["sync", "write"])
def test_a_cell_whose_disk_fails_ends_without_acknowledging(tmp_path: Path, call: str) -> None:
    """The sender sees a lost connection, the supervisor an exit code; nothing acknowledged is missing."""
    cell = Cell("pure", tmp_path)
    cell._arguments = [sys.executable, "-c", FAILING, str(tmp_path)]

    def body(number: int) -> dict[str, object]:
        return {"message_id": f"m{number}", "from_cell": "alpha", "ttl": 0, "payload": {"number": number}}

    cell.start()
    try:
        assert [cell.post("/message", body(number)).status for number in range(20)] == [200] * 20
        (tmp_path / call).touch()
        with pytest.raises((http.client.HTTPException, OSError)):
            request(cell.port, "POST", "/message", body(20))
        assert cell.wait() == 70
        assert "the inbox cannot be written" in cell.log.read_text()
        (tmp_path / call).unlink()
        cell.start()
        there = [one["payload"]["number"] for one in cell.get("/messages?limit=1000").json["messages"]]
        assert there[:20] == list(range(20))
        again = cell.post("/message", body(20))
        assert again.status == 200
        # A failed fsync leaves it open whether the message is on disk; a failed write does not.
        assert again.json.get("duplicate", False) == (there[20:] == [20])
        if call == "write":
            assert there == list(range(20))
    finally:
        cell.kill()
