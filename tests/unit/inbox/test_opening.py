"""Opening a data directory: what is refused, and that refusing changes nothing."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from cellmesh.errors import InboxDamaged, InboxError, InboxForeign, InboxLocked
from cellmesh.inbox import Inbox, Verb, schema
from cellmesh.inbox.leasing import Leasing
from inboxes import LIMITS, HandClock, everything, message, opened, put, verdicts
from leases import codes, ids, lease, settle
from support import eventually

DATABASE = "inbox.db"
#: The tables as the first released version made them; not read from the program, which may change.
VERSION_1 = """
    CREATE TABLE messages (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        message_id TEXT NOT NULL,
        from_cell TEXT NOT NULL,
        to_cell TEXT NOT NULL,
        message_type TEXT NOT NULL,
        priority INTEGER NOT NULL,
        ttl ANY NOT NULL,
        timestamp TEXT,
        received_at INTEGER NOT NULL,
        expires_at INTEGER,
        state INTEGER NOT NULL DEFAULT 0,
        ended_at INTEGER,
        reason TEXT,
        extra BLOB
    ) STRICT;
    CREATE INDEX messages_ended ON messages (state) WHERE state >= 2;
    CREATE INDEX messages_expiring ON messages (expires_at) WHERE state = 0 AND expires_at IS NOT NULL;
    CREATE TABLE payloads (seq INTEGER PRIMARY KEY, payload BLOB NOT NULL) STRICT;
    CREATE TABLE receipts (
        seq INTEGER PRIMARY KEY,
        key BLOB NOT NULL UNIQUE,
        fingerprint BLOB NOT NULL,
        received_at INTEGER NOT NULL,
        expires_at INTEGER
    ) STRICT;
    CREATE INDEX receipts_expiring ON receipts (expires_at) WHERE expires_at IS NOT NULL;
"""


def filled(directory: Path, *, leave_log: bool = False) -> Path:
    """Make an inbox with 300 messages; return its file. With ``leave_log`` as a killed process leaves it."""
    with opened(directory) as inbox:
        put(inbox, *(message(f"m{number}", {"n": number, "text": "x" * 500}) for number in range(300)))
        if leave_log:
            files = {path.name: path.read_bytes() for path in directory.iterdir() if not path.name.endswith("-shm")}
    if leave_log:
        for name, content in files.items():
            (directory / name).write_bytes(content)
    return directory / DATABASE


def contents(directory: Path) -> dict[str, bytes]:
    """Return every file but the lock, and the memory SQLite shares, which holds nothing of its own."""
    return {
        path.name: path.read_bytes()
        for path in directory.iterdir()
        if path.name != "lock" and not path.name.endswith("-shm")
    }


def refused(directory: Path, kind: type[InboxError]) -> str:
    """Open the inbox twice; both times it must be refused with every file as it was. Return the message."""
    before = contents(directory)
    for _ in range(2):
        with pytest.raises(kind) as caught:
            Inbox(directory, LIMITS)
        assert contents(directory) == before
    assert str(directory) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_second_opener_is_refused(tmp_path: Path) -> None:
    """The message names the process that holds the directory."""
    with opened(tmp_path), pytest.raises(InboxLocked, match=rf"in use by another process \(pid {os.getpid()}\)"):
        Inbox(tmp_path, LIMITS)
    with opened(tmp_path) as inbox:
        assert verdicts(put(inbox, message("a"))) == ["stored"]


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    """The lock goes with its process, however that ends."""
    code = (
        "import sys, time; sys.path[:0] = sys.argv[2:]; from pathlib import Path; from inboxes import LIMITS\n"
        "from cellmesh.inbox import Inbox\n"
        "inbox = Inbox(Path(sys.argv[1]), LIMITS); print('open', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path), str(Path(__file__).parents[2])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(InboxLocked, match=str(other.pid)):
            Inbox(tmp_path, LIMITS)
        other.kill()
    with opened(tmp_path) as inbox:
        assert verdicts(put(inbox, message("a"))) == ["stored"]


def test_a_refused_directory_is_not_left_locked(tmp_path: Path) -> None:
    """Once the bad file is moved away, the same process can open the directory."""
    (tmp_path / DATABASE).write_text("notes of my own\n" * 100)
    refused(tmp_path, InboxForeign)
    (tmp_path / DATABASE).rename(tmp_path / "notes")
    with opened(tmp_path) as inbox:
        assert verdicts(put(inbox, message("a"))) == ["stored"]


@pytest.mark.parametrize("number", [3, 150, 297])
def test_overwritten_pages_are_damage(tmp_path: Path, number: int) -> None:
    """Bytes in the middle of the file that are not what SQLite wrote."""
    path = filled(tmp_path)
    place = path.read_bytes().index(b'"n":%d,' % number)
    with path.open("r+b") as file:
        file.seek(place // 4096 * 4096)
        file.write(b"\xff" * 4096)
    assert "damaged" in refused(tmp_path, InboxDamaged)


def test_a_damaged_file_with_a_log_beside_it_is_not_touched(tmp_path: Path) -> None:
    """What a killed process left in its write-ahead log is neither applied nor removed."""
    path = filled(tmp_path, leave_log=True)
    assert (tmp_path / f"{DATABASE}-wal").stat().st_size > 0
    path.write_bytes(path.read_bytes()[:5000])
    with (tmp_path / f"{DATABASE}-wal").open("r+b") as log:
        log.truncate(32 + 3 * (24 + 4096))
    refused(tmp_path, InboxDamaged)


@pytest.mark.parametrize("length", [0, 1, 50, 99, 100, 4096, 10_000, 0.5])
def test_a_truncated_file_is_damage(tmp_path: Path, length: float) -> None:
    """Also one of length zero: SQLite would take it for a new database."""
    path = filled(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(length if length != 0.5 else len(whole) // 2)])
    assert "damaged" in refused(tmp_path, InboxDamaged)


def test_a_damaged_file_moved_away_leaves_room_for_a_new_one(tmp_path: Path) -> None:
    """As the message says: the refusal has left nothing that is in the way."""
    path = filled(tmp_path)
    path.write_bytes(path.read_bytes()[:10_000])
    refused(tmp_path, InboxDamaged)
    path.rename(tmp_path / "damaged.db")
    with opened(tmp_path) as inbox:
        assert verdicts(put(inbox, message("a"))) == ["stored"]


def test_a_log_without_its_file_is_damage(tmp_path: Path) -> None:
    """A new file beside it would make the messages in the log unreadable for good."""
    filled(tmp_path, leave_log=True).unlink()
    assert "write-ahead log" in refused(tmp_path, InboxDamaged)


def test_a_text_file_is_foreign(tmp_path: Path) -> None:
    """It is somebody else's."""
    (tmp_path / DATABASE).write_text("notes of my own\n" * 100)
    assert "not an SQLite file" in refused(tmp_path, InboxForeign)


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_another_programs_database_is_foreign(tmp_path: Path, mode: str) -> None:
    """SQLite's, but not an inbox."""
    connection = apsw.Connection(str(tmp_path / DATABASE))
    connection.pragma("journal_mode", mode)
    connection.execute("CREATE TABLE messages (text); INSERT INTO messages VALUES ('mine')")
    connection.close()
    assert "not an inbox" in refused(tmp_path, InboxForeign)


def test_an_inbox_of_a_newer_program_is_refused(tmp_path: Path) -> None:
    """It may mean something else by what it stored."""
    path = filled(tmp_path)
    connection = apsw.Connection(str(path))
    connection.pragma("user_version", schema.VERSION + 1)
    connection.close()
    assert "newer" in refused(tmp_path, InboxForeign)


def test_a_file_in_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    """With the reason, not a traceback."""
    (tmp_path / "data").write_text("")
    with pytest.raises(InboxError, match="choose one that can be written"):
        Inbox(tmp_path / "data", LIMITS)


@pytest.mark.parametrize("kind", ["garbage", "half a database"])
def test_a_first_start_that_was_killed_is_no_obstacle(tmp_path: Path, kind: str) -> None:
    """What it left under the name of a file in the making is made anew."""
    whole = filled(tmp_path / "other").read_bytes()
    (tmp_path / "inbox.db.new").write_bytes(b"garbage" if kind == "garbage" else whole[:6000])
    (tmp_path / "inbox.db.new-journal").write_bytes(b"left over")
    with opened(tmp_path) as inbox:
        assert verdicts(put(inbox, message("a"))) == ["stored"]
    assert sorted(path.name for path in tmp_path.glob("inbox*")) == [DATABASE]


def test_what_a_killed_process_left_in_the_log_is_there(tmp_path: Path) -> None:
    """The file alone holds less: the messages are in the write-ahead log."""
    filled(tmp_path, leave_log=True)
    with opened(tmp_path) as inbox:
        assert len(everything(inbox)) == inbox.gauges.pending == 300


def test_an_inbox_of_the_first_version_is_brought_up_to_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Version 0 is a file without tables; each migration runs once, and the next one keeps what is there."""
    connection = apsw.Connection(str(tmp_path / DATABASE))
    connection.execute("PRAGMA page_size = 4096; PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
    connection.execute("VACUUM")
    assert schema.version(connection) == 0
    connection.close()
    with opened(tmp_path) as inbox:
        assert schema.version(inbox._store.connection) == schema.VERSION
        put(inbox, message("a"))
    more = (*schema.MIGRATIONS, "CREATE TABLE later (x)")
    monkeypatch.setattr(schema, "MIGRATIONS", more)
    monkeypatch.setattr(schema, "VERSION", len(more))
    with opened(tmp_path) as inbox:
        assert schema.version(inbox._store.connection) == len(more)
        assert [found.message_id for found in everything(inbox)] == ["a"]


def test_a_migration_that_fails_leaves_the_file_at_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next start with a mended program goes on from there, with every message."""
    filled(tmp_path)
    version = schema.VERSION
    with monkeypatch.context() as broken:
        broken.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, "DELETE FROM messages; NONSENSE"))
        broken.setattr(schema, "VERSION", version + 1)
        with pytest.raises(InboxError, match="cannot be opened"):
            Inbox(tmp_path, LIMITS)
    with opened(tmp_path) as inbox:
        assert schema.version(inbox._store.connection) == version
        assert len(everything(inbox)) == 300


def test_a_start_without_room_for_its_leases_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect one line that says what to do, and a directory that the next start can have."""

    def full(_: Leasing) -> None:
        raise apsw.FullError("database or disk is full")

    with monkeypatch.context() as disk:
        disk.setattr(Leasing, "_start", full)
        with pytest.raises(InboxError, match="database or disk is full; make room on its disk"):
            Inbox(tmp_path, LIMITS)
    with opened(tmp_path) as inbox:
        assert verdicts(put(inbox, message("a"))) == ["stored"]


def test_a_file_of_version_1_keeps_its_messages(tmp_path: Path) -> None:
    """Expect messages that were stored before there were leases to be there, handed out, expired and recognised."""
    clock = HandClock()
    now = clock.steady().now_ms()
    old = [message(name, {"n": name}, ttl=ttl) for name, ttl in (("a", 0), ("short", 5), ("b", 600), ("dead", 5))]
    connection = apsw.Connection(str(tmp_path / DATABASE))
    connection.execute("PRAGMA page_size = 4096; PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}; PRAGMA journal_mode = wal")
    with connection:
        connection.execute(VERSION_1)
        connection.execute("PRAGMA user_version = 1")
        for seq, one in enumerate(old, 1):
            is_dead = one.message_id == "dead"
            connection.execute(
                "INSERT INTO messages (seq, message_id, from_cell, to_cell, message_type, priority, ttl, received_at,"
                " expires_at, state, ended_at, reason) VALUES (?, ?, 'alpha', 'pure', 'general', 1, ?, ?, ?, ?, ?, ?)",
                (
                    *(seq, one.message_id, one.ttl, now, now + int(one.ttl) * 1000 if one.ttl else None),
                    *((3, now, "expired") if is_dead else (0, None, None)),
                ),
            )
            connection.execute("INSERT INTO payloads VALUES (?, ?)", (seq, one.payload))
            connection.execute("INSERT INTO receipts VALUES (?, ?, ?, ?, NULL)", (seq, one.key, one.fingerprint, now))
    connection.close()
    with opened(tmp_path, clock=clock.steady()) as inbox:
        assert schema.version(inbox._store.connection) == schema.VERSION
        assert [(one.message_id, one.state, one.delivery_count) for one in everything(inbox)] == [
            ("a", "pending", 0),
            ("short", "pending", 0),
            ("b", "pending", 0),
            ("dead", "dead", 0),
        ]
        assert verdicts(put(inbox, *old)) == ["duplicate"] * 4
        (first,) = lease(inbox)
        assert (first.message.message_id, bytes(first.message.payload)) == ("a", b'{"n":"a"}')
        clock.advance(5)
        eventually(lambda: inbox.gauges.dead == 2, within=10)
        assert ids(lease(inbox, 10)) == ["b"]
        assert codes(settle(inbox, Verb.ACK, first)) == [""]
        outcome = asyncio.run(inbox.put_back(None, "expired"))
        assert outcome.changed == 2
        assert verdicts(put(inbox, message("new"))) == ["stored"]
        assert ids(lease(inbox, 10)) == ["short", "dead", "new"]
    with opened(tmp_path, clock=clock.steady()) as inbox:
        assert (inbox.gauges.received, inbox.gauges.leased, inbox.gauges.consumed) == (5, 4, 1)


def test_the_file_is_set_up_to_keep_what_it_was_given(tmp_path: Path) -> None:
    """Each of these is a promise: a log that is synced with every commit, and pages that can be given back."""
    with opened(tmp_path) as inbox:
        pragma = inbox._store.connection.pragma
        assert pragma("journal_mode") == "wal"
        assert pragma("synchronous") == 2
        assert pragma("auto_vacuum") == 2
        assert pragma("page_size") == 4096
        assert pragma("application_id") == schema.APPLICATION_ID
        assert "AUTOINCREMENT" in str(
            inbox._store.connection.execute("SELECT sql FROM sqlite_schema WHERE name = 'messages'").get
        )
