"""Backups of an inbox that is in use, or is not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from fake_mesh import Run


def make(directory: Path, rows: int = 100) -> apsw.Connection:
    """Make a database as an inbox is one, and return the connection of its writer."""
    directory.mkdir(parents=True)
    connection = apsw.Connection(str(directory / "inbox.db"))
    connection.pragma("journal_mode", "wal")
    connection.execute("CREATE TABLE messages (seq INTEGER PRIMARY KEY, body BLOB)")
    with connection:
        connection.executemany("INSERT INTO messages (body) VALUES (?)", [(b"x" * 2000,)] * rows)
    return connection


def count(path: Path) -> int:
    """Return the messages in a copy, which must be sound."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        assert connection.pragma("integrity_check") == "ok"
        return int(connection.execute("SELECT count(*) FROM messages").get)
    finally:
        connection.close()


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    """Return a data directory of `cellmesh up` with one instance, its inbox open for writing."""
    connection = make(tmp_path / "data" / "default" / "alpha-0")
    yield tmp_path / "data"
    connection.close()


def test_an_instance_is_copied_while_it_runs(data: Path, tmp_path: Path, run: Run) -> None:
    """What is only in the write-ahead log is copied as well; the copy is one file."""
    copy = tmp_path / "copy.db"

    result = run("backup", "alpha-0", str(copy), "--data-dir", str(data))

    assert (result.code, result.err) == (0, "")
    assert "checked" in result.out
    assert count(copy) == 100
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy.db", "data"]


@pytest.mark.parametrize("name", ["alpha", "alpha-0"])
def test_a_cell_with_one_instance_may_be_named_by_itself(data: Path, tmp_path: Path, run: Run, name: str) -> None:
    """The name of the cell is enough."""
    assert run("backup", name, str(tmp_path / "c.db"), "--data-dir", str(data)).code == 0


def test_a_data_directory_may_be_named(data: Path, tmp_path: Path, run: Run) -> None:
    """For cells that `cellmesh up` does not run."""
    assert run("backup", str(data / "default" / "alpha-0"), str(tmp_path / "c.db")).code == 0


def test_a_cell_with_several_instances_must_be_told_apart(data: Path, tmp_path: Path, run: Run) -> None:
    """The instances are listed."""
    make(data / "default" / "alpha-1").close()

    result = run("backup", "alpha", str(tmp_path / "c.db"), "--data-dir", str(data))

    assert result.code == 1
    assert "has several instances: alpha-0, alpha-1; name one" in result.err


def test_an_instance_that_is_not_there_is_told(tmp_path: Path, run: Run) -> None:
    """The place that was looked at is named."""
    result = run("backup", "alpha", str(tmp_path / "c.db"), "--data-dir", str(tmp_path))

    assert result.code == 1
    assert result.err.startswith(f"cellmesh: no inbox.db in {tmp_path}/default/alpha")


def test_a_file_that_is_there_is_not_replaced(data: Path, tmp_path: Path, run: Run) -> None:
    """An older backup is overwritten only on purpose."""
    copy = tmp_path / "copy.db"
    copy.write_text("precious")

    refused = run("backup", "alpha-0", str(copy), "--data-dir", str(data))

    assert refused.code == 1
    assert copy.read_text() == "precious"
    assert run("backup", "alpha-0", str(copy), "--data-dir", str(data), "--force").code == 0
    assert count(copy) == 100


def test_an_instance_that_does_not_run_is_copied(data: Path, tmp_path: Path, run: Run) -> None:
    """Without its writer, too; and its file stays as it is."""
    make(data / "default" / "beta-0").close()
    before = (data / "default" / "beta-0" / "inbox.db").read_bytes()

    assert run("backup", "beta-0", str(tmp_path / "c.db"), "--data-dir", str(data)).code == 0
    assert count(tmp_path / "c.db") == 100
    assert (data / "default" / "beta-0" / "inbox.db").read_bytes() == before


def test_a_backup_ends_while_the_cell_goes_on_writing(data: Path, tmp_path: Path, run: Run) -> None:
    """The copy is of one moment and need not wait for a quiet one."""
    done = threading.Event()
    directory = data / "default" / "busy-0"
    make(directory, rows=5000).close()

    def write() -> None:
        connection = apsw.Connection(str(directory / "inbox.db"))
        while not done.is_set():
            connection.execute("INSERT INTO messages (body) VALUES (zeroblob(2000))")
        connection.close()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        result = run("backup", "busy-0", str(tmp_path / "c.db"), "--data-dir", str(data))
    finally:
        done.set()
        writer.join()

    assert result.code == 0
    assert count(tmp_path / "c.db") >= 5000


def test_a_damaged_inbox_gives_no_backup(data: Path, tmp_path: Path, run: Run) -> None:
    """What cannot be restored is no backup; nothing is left behind."""
    directory = data / "default" / "bad-0"
    make(directory).close()
    with (directory / "inbox.db").open("rb+") as file:
        file.seek(4096)
        file.write(b"\xff" * 4096)

    result = run("backup", "bad-0", str(tmp_path / "c.db"), "--data-dir", str(data))

    assert result.code == 1
    assert result.err.startswith(f"cellmesh: {directory}/inbox.db was not copied to ")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_destination_that_cannot_be_written_is_told(data: Path, tmp_path: Path, run: Run) -> None:
    """One line, no stack trace."""
    result = run("backup", "alpha-0", str(tmp_path / "absent" / "c.db"), "--data-dir", str(data))

    assert result.code == 1
    assert result.err.count("\n") == 1
