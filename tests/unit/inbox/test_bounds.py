"""A full inbox: what is refused, what is still answered, and how there is room again."""

import contextlib
from pathlib import Path

import apsw
import pytest

from cellmesh.inbox import upkeep
from inboxes import HandClock, everything, limits, message, opened, put, verdicts
from support import eventually

WORDS = "x" * 20_000


def test_messages_beyond_the_count_are_refused(tmp_path: Path) -> None:
    """Within one batch as well: the first fit, the others do not."""
    with opened(tmp_path, limits(max_messages=3)) as inbox:
        assert verdicts(put(inbox, *(message(f"m{n}") for n in range(5)))) == ["stored"] * 3 + ["inbox_full"] * 2
        assert verdicts(put(inbox, message("later"))) == ["inbox_full"]
        assert len(everything(inbox)) == inbox.gauges.pending == 3


def test_a_repeat_is_known_when_the_inbox_is_full(tmp_path: Path) -> None:
    """A sender that lost the answer must hear that the message is there, full or not."""
    with opened(tmp_path, limits(max_messages=2)) as inbox:
        first = put(inbox, message("a"), message("b"))
        again = put(inbox, message("new"), message("b"), message("a", {"other": 1}))
        assert verdicts(again) == ["inbox_full", "duplicate", "conflict"]
        assert again[1].seq == first[1].seq


def test_a_refused_message_may_come_again(tmp_path: Path) -> None:
    """A refusal leaves no deduplication record behind."""
    clock = HandClock()
    with opened(tmp_path, limits(max_messages=1), clock=clock.steady()) as inbox:
        put(inbox, message("first", ttl=5))
        assert verdicts(put(inbox, message("second"))) == ["inbox_full"]
        clock.advance(6)
        eventually(lambda: inbox.gauges.dead == 1, within=10)
        assert verdicts(put(inbox, message("second"))) == ["stored"]


def test_messages_beyond_the_bytes_are_refused(tmp_path: Path) -> None:
    """The files stay near their bound, and what was acknowledged is there."""
    bound = 2 * 1024 * 1024
    with opened(tmp_path, limits(max_bytes=bound)) as inbox:
        stored = 0
        while verdicts(put(inbox, message(f"m{stored}", {"text": WORDS}, ttl=0))) == ["stored"]:
            stored += 1
            assert stored < 1000, "never full"
        assert stored > 20
        assert inbox.file_bytes() <= bound + 1024 * 1024
        assert verdicts(put(inbox, message("m0", {"text": WORDS}, ttl=0))) == ["duplicate"]
        assert len(everything(inbox)) == stored


def test_history_makes_room_when_the_files_are_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dead messages go before a pending one is refused for good."""
    monkeypatch.setattr(upkeep, "EXTENSION_MS", 1000)
    clock = HandClock()
    with opened(tmp_path, limits(max_bytes=2 * 1024 * 1024), clock=clock.steady()) as inbox:
        stored = 0
        while verdicts(put(inbox, message(f"m{stored}", {"text": WORDS}, ttl=5))) == ["stored"]:
            stored += 1
        clock.advance(6)
        eventually(lambda: inbox.gauges.dead == stored, within=10)
        # Most of them, so that what the log gives back when it is cut is not enough.
        later = [message(f"new{number}", {"text": WORDS}, ttl=0) for number in range(stored * 3 // 4)]
        for one in later:
            eventually(lambda one=one: verdicts(put(inbox, one)) == ["stored"], within=10)
        assert {one.message_id for one in later} <= {found.message_id for found in everything(inbox)}
        assert inbox.gauges.dead < stored


def test_a_reader_in_the_way_changes_no_total(tmp_path: Path) -> None:
    """Expect history that went to be gone from the totals although the log cannot be cut, and nobody to wait for it.

    A backup reads for as long as it takes.
    """
    clock = HandClock()
    with opened(tmp_path, limits(max_bytes=2 * 1024 * 1024), clock=clock.steady()) as inbox:
        stored = 0
        while verdicts(put(inbox, message(f"m{stored}", {"text": WORDS}, ttl=5))) == ["stored"]:
            stored += 1
        clock.advance(6)
        eventually(lambda: inbox.gauges.dead == stored, within=10)
        reader = apsw.Connection(str(tmp_path / "inbox.db"), flags=apsw.SQLITE_OPEN_READONLY)
        with contextlib.closing(reader):
            reader.execute("BEGIN; SELECT count(*) FROM messages").fetchall()
            waits: list[int] = []
            inbox.store.connection.set_busy_handler(lambda number: bool(waits.append(number)))
            eventually(lambda: put(inbox, message("more", {"text": WORDS})) and inbox.gauges.dead == 0, within=10)
            reader.execute("COMMIT")
        counted = apsw.Connection(str(tmp_path / "inbox.db"), flags=apsw.SQLITE_OPEN_READONLY)
        with contextlib.closing(counted):
            assert counted.execute("SELECT count(*) FROM messages WHERE state = 3").get == inbox.gauges.dead == 0
        assert waits == []


def test_below_the_reserve_of_the_disk_new_messages_are_refused(tmp_path: Path) -> None:
    """Repeats are answered all the same."""
    with opened(tmp_path) as inbox:
        put(inbox, message("a"))
    with opened(tmp_path, limits(disk_reserve=1 << 60)) as inbox:
        assert verdicts(put(inbox, message("a"), message("b"))) == ["duplicate", "disk_full"]
        assert len(everything(inbox)) == 1
