"""The data directory: one process at a time, and a file that is checked before it is opened for writing."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

import apsw

from cellmesh.errors import InboxDamaged, InboxError, InboxForeign, InboxLocked
from cellmesh.inbox import schema

DATABASE = "inbox.db"
LOCK = "lock"
#: How long a statement waits for others who use the file, ms.
BUSY_TIMEOUT = 5000
_MAGIC = b"SQLite format 3\0"


class DirectoryLock:
    """Exclusive lock on a data directory, held until ``release`` or the end of the process.

    Raises:
        InboxLocked: another process holds it.
        InboxError: the directory cannot be made or written.

    """

    def __init__(self, directory: Path) -> None:
        path = directory / LOCK
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise InboxError(f"data directory {directory}: {error.strerror}; choose one that can be written") from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(self._fd, 32, 0).decode(errors="replace").strip()
            os.close(self._fd)
            raise InboxLocked(
                f"data directory {directory} is in use by another process{f' (pid {holder})' if holder else ''}; "
                "stop it or choose another directory"
            ) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Give the directory free."""
        os.close(self._fd)


def open_database(directory: Path, vfs: str | None = None) -> apsw.Connection:
    """Open the inbox of a locked data directory for writing; make it if there is none.

    Args:
        directory: the data directory; its lock is held by the caller.
        vfs: name of an SQLite VFS; None for the system's.

    Raises:
        InboxForeign: the file is not an inbox, or of a newer version.
        InboxDamaged: the file fails the integrity check.

    """
    path = directory / DATABASE
    if not path.exists():
        if any(_length(directory / f"{DATABASE}{suffix}") for suffix in ("-wal", "-journal")):
            raise InboxDamaged(f"{path}: absent, but its write-ahead log is there; restore the file from a backup")
        _create(directory)
    try:
        _check(path)
    except apsw.Error as error:
        raise _damaged(path, str(error)) from None
    connection = apsw.Connection(str(path), vfs=vfs, statementcachesize=256)
    connection.set_busy_timeout(BUSY_TIMEOUT)
    connection.pragma("journal_mode", "wal")
    connection.pragma("synchronous", "full")
    schema.migrate(connection)
    return connection


def open_reader(directory: Path, *, immutable: bool = False) -> apsw.Connection:
    """Open the inbox for reading beside its writer; ``immutable`` if there is no writer and no log."""
    connection = apsw.Connection(
        f"{(directory / DATABASE).absolute().as_uri()}?mode=ro{'&immutable=1' if immutable else ''}",
        flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI,
    )
    connection.set_busy_timeout(BUSY_TIMEOUT)
    connection.pragma("query_only", True)
    return connection


def _create(directory: Path) -> None:
    # Made under another name and renamed when complete: a start that is killed half way leaves no file
    # that the next start would have to call damaged.
    new = directory / f"{DATABASE}.new"
    for leftover in (new, directory / f"{DATABASE}.new-journal"):
        leftover.unlink(missing_ok=True)
    try:
        connection = apsw.Connection(str(new))
        with contextlib.closing(connection):
            schema.create(connection)
        with new.open("rb+") as file:
            os.fsync(file.fileno())
        new.rename(directory / DATABASE)
        _sync_directory(directory)
    except (apsw.Error, OSError) as error:
        raise InboxError(f"{directory}: the inbox cannot be made: {error}") from None


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check(path: Path) -> None:
    # Nothing here may write: the header is read as plain bytes, and a read-only connection neither
    # recovers into the file nor checkpoints when it is closed.
    with path.open("rb") as file:
        header = file.read(100)
    if len(header) < 100:
        raise _damaged(path, f"only {len(header)} bytes long")
    if not header.startswith(_MAGIC):
        raise InboxForeign(f"{path}: not an SQLite file; it was not touched. Move it away or choose another directory")
    if int.from_bytes(header[68:72], "big") != schema.APPLICATION_ID:
        raise InboxForeign(
            f"{path}: an SQLite file, but not an inbox of CellMesh; it was not touched. "
            "Move it away or choose another directory"
        )
    # Reading a file whose log is gone would make an empty one; it would be in the way of a new start.
    immutable = not _length(path.with_name(f"{DATABASE}-wal"))
    with contextlib.closing(open_reader(path.parent, immutable=immutable)) as connection:
        found = schema.version(connection)
        if found > schema.VERSION:
            raise InboxForeign(
                f"{path}: schema version {found} is newer than this program's {schema.VERSION}; it was not touched. "
                "Use the newer program"
            )
        rows = [str(row[0]) for row in connection.execute("PRAGMA quick_check(5)")]
    if rows != ["ok"]:
        raise _damaged(path, "; ".join(" ".join(row.split()) for row in rows)[:300])


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _damaged(path: Path, what: str) -> InboxDamaged:
    return InboxDamaged(
        f"{path}: damaged ({what}); it was not touched. Restore a backup, "
        f"or move it away, with its {DATABASE}-wal if there is one, to start empty"
    )
