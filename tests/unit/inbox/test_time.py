"""What happens to messages by themselves: expiry, trimming, and the end of deduplication."""

import asyncio
from pathlib import Path

import apsw
import pytest

from cellmesh.inbox import Inbox, upkeep
from inboxes import HandClock, everything, find, limits, message, opened, put, verdicts
from support import eventually


def receipts(inbox: Inbox) -> int:
    """Return how many deduplication records there are."""
    path = inbox._store._files[0]
    connection = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return int(connection.execute("SELECT count(*) FROM receipts").get)
    finally:
        connection.close()


def state(inbox: Inbox, message_id: str) -> str:
    """Return the state of a message, or ``gone``."""
    found = find(inbox, message_id)
    return found.state if found else "gone"


def test_a_message_past_its_ttl_is_a_dead_letter(tmp_path: Path) -> None:
    """Its reason is ``expired`` and its history says when."""
    clock = HandClock()
    with opened(tmp_path, clock=clock.steady()) as inbox:
        put(inbox, message("short", ttl=5), message("long", ttl=500), message("ever", ttl=0))
        clock.advance(4.9)
        put(inbox, message("later", ttl=5))
        clock.advance(0.2)
        eventually(lambda: state(inbox, "short") == "dead", within=10)
        found = find(inbox, "short")
        assert found is not None
        assert [(step.state, step.reason) for step in found.history] == [("pending", None), ("dead", "expired")]
        assert found.history[1].at > found.history[0].at
        assert [one.state for one in everything(inbox)] == ["dead", "pending", "pending", "pending"]
        assert (inbox.gauges.dead, inbox.gauges.pending, inbox.gauges.received) == (1, 3, 4)


def test_what_is_left_of_a_ttl_counts(tmp_path: Path) -> None:
    """A sender that held the message says how much is left."""
    clock = HandClock()
    with opened(tmp_path, clock=clock.steady()) as inbox:
        put(inbox, message("held", ttl=500, ttl_remaining=2))
        clock.advance(3)
        eventually(lambda: state(inbox, "held") == "dead", within=10)


def test_a_step_of_the_wall_clock_changes_nothing_while_the_process_lives(tmp_path: Path) -> None:
    """Only the monotonic clock runs: an hour forward expires nothing, an hour back delays nothing."""
    clock = HandClock()
    with opened(tmp_path, clock=clock.steady()) as inbox:
        put(inbox, message("a", ttl=60), message("b", ttl=5))
        clock.wall += 3600
        clock.monotonic += 6
        eventually(lambda: state(inbox, "b") == "dead", within=10)
        assert state(inbox, "a") == "pending"
        clock.wall -= 7200
        clock.monotonic += 60
        eventually(lambda: state(inbox, "a") == "dead", within=10)


def test_a_message_that_expired_while_no_process_ran_is_dead_soon_after_the_start(tmp_path: Path) -> None:
    """Deadlines on disk are of the wall clock."""
    clock = HandClock()
    with opened(tmp_path, clock=clock.steady()) as inbox:
        put(inbox, message("a", ttl=60))
    clock.advance(61)
    with opened(tmp_path, clock=clock.steady()) as inbox:
        eventually(lambda: state(inbox, "a") == "dead", within=10)


@pytest.mark.parametrize("restarts", [1, 2, 3])
def test_a_wall_clock_set_back_between_two_lives_clamps_deadlines(tmp_path: Path, restarts: int) -> None:
    """Nothing lives longer than its ttl from the start, and nothing shorter, however often it starts."""
    clock = HandClock()
    with opened(tmp_path, clock=clock.steady()) as inbox:
        put(inbox, message("a", ttl=600))
    clock.wall -= 86_400
    for _ in range(restarts - 1):
        with opened(tmp_path, clock=clock.steady()):
            clock.advance(10)
    with opened(tmp_path, clock=clock.steady()) as inbox:
        put(inbox, message("witness", ttl=1))
        clock.advance(2)
        eventually(lambda: state(inbox, "witness") == "dead", within=10)
        assert state(inbox, "a") == "pending"
        assert verdicts(put(inbox, message("a", ttl=600))) == ["duplicate"]
        clock.advance(600)
        eventually(lambda: state(inbox, "a") == "dead", within=10)


def test_history_keeps_the_newest(tmp_path: Path) -> None:
    """Pending messages are none of it."""
    clock = HandClock()
    with opened(tmp_path, limits(history=10), clock=clock.steady()) as inbox:
        put(inbox, message("pending", ttl=0))
        put(inbox, *(message(f"m{number}", ttl=5) for number in range(700)))
        clock.advance(6)
        eventually(lambda: inbox.gauges.pending == 1 and inbox.gauges.dead == 10, within=20)
        assert [one.message_id for one in everything(inbox)] == ["pending", *(f"m{n}" for n in range(690, 700))]
        assert inbox.gauges.received == 701


def test_history_keeps_what_ended_last(tmp_path: Path) -> None:
    """Expect a message that lived long to be kept like any that ended when it did, whatever its position."""
    clock = HandClock()
    with opened(tmp_path, limits(history=10), clock=clock.steady()) as inbox:
        put(inbox, message("long", ttl=20))
        put(inbox, *(message(f"m{number}", ttl=5) for number in range(10)))
        clock.advance(6)
        eventually(lambda: inbox.gauges.dead == 10, within=10)
        clock.advance(15)
        eventually(lambda: inbox.gauges.pending == 0 and inbox.gauges.dead == 10, within=10)
        assert [one.message_id for one in everything(inbox)] == ["long", *(f"m{n}" for n in range(1, 10))]


def test_a_clock_set_back_gives_a_letter_that_was_put_back_no_more_than_its_ttl(tmp_path: Path) -> None:
    """Expect the ttl from when it was put back to be clamped too, which is long after its receipt."""
    clock = HandClock()
    with opened(tmp_path, clock=clock.steady()) as inbox:
        put(inbox, message("a", ttl=600))
        clock.advance(7200)
        eventually(lambda: state(inbox, "a") == "dead", within=10)
        asyncio.run(inbox.put_back(None))
    clock.wall -= 3600
    with opened(tmp_path, clock=clock.steady()) as inbox:
        assert state(inbox, "a") == "pending"
        clock.advance(600)
        eventually(lambda: state(inbox, "a") == "dead", within=10)


def test_history_goes_with_age(tmp_path: Path) -> None:
    """Old dead letters go although there is room."""
    clock = HandClock()
    with opened(tmp_path, limits(history_ms=10_000), clock=clock.steady()) as inbox:
        put(inbox, message("old", ttl=5))
        clock.advance(6)
        eventually(lambda: state(inbox, "old") == "dead", within=10)
        put(inbox, message("young", ttl=5))
        clock.advance(6)
        eventually(lambda: state(inbox, "young") == "dead", within=10)
        clock.advance(5)
        eventually(lambda: state(inbox, "old") == "gone", within=20)
        assert state(inbox, "young") == "dead"


def test_history_kept_past_a_clock_set_back_goes_with_age_as_well(tmp_path: Path) -> None:
    """Its end lies in the future then; it is kept no longer than from the start."""
    clock = HandClock()
    bounds = limits(history_ms=10_000)
    with opened(tmp_path, bounds, clock=clock.steady()) as inbox:
        put(inbox, message("a", ttl=5))
        clock.advance(6)
        eventually(lambda: state(inbox, "a") == "dead", within=10)
    clock.wall -= 86_400
    with opened(tmp_path, bounds, clock=clock.steady()) as inbox:
        clock.advance(11)
        eventually(lambda: state(inbox, "a") == "gone", within=20)


def test_a_message_is_recognised_after_it_was_trimmed(tmp_path: Path) -> None:
    """Until the window ends; after it, the id is free again and the record is gone."""
    clock = HandClock()
    bounds = limits(history=0, dedupe_window_ms=600_000)
    with opened(tmp_path, bounds, clock=clock.steady()) as inbox:
        (first,) = put(inbox, message("a", ttl=5))
        clock.advance(6)
        eventually(lambda: state(inbox, "a") == "gone", within=10)
        clock.advance(590)
        put(inbox, message("witness", ttl=1))
        clock.advance(2)
        eventually(lambda: state(inbox, "witness") == "gone", within=10)
        (again,) = put(inbox, message("a", ttl=5))
        assert (again.verdict.value, again.seq) == ("duplicate", first.seq)
        assert verdicts(put(inbox, message("a", {"other": 1}))) == ["conflict"]
        clock.advance(3)
        eventually(lambda: receipts(inbox) == 1, within=10)
        assert verdicts(put(inbox, message("a", {"other": 1}))) == ["stored"]


def test_a_ttl_longer_than_the_window_is_remembered_as_long(tmp_path: Path) -> None:
    """Deduplication holds until the longer of the two has passed."""
    clock = HandClock()
    with opened(tmp_path, limits(history=0, dedupe_window_ms=1000), clock=clock.steady()) as inbox:
        put(inbox, message("a", ttl=100), message("b", ttl=0))
        clock.advance(99)
        put(inbox, message("witness", ttl=1))
        clock.advance(0.5)
        assert verdicts(put(inbox, message("a", ttl=100))) == ["duplicate"]
        clock.advance(1)
        eventually(lambda: receipts(inbox) == 1, within=10, message="all but the one that never expires")
        assert verdicts(put(inbox, message("b", ttl=0), message("a", ttl=100))) == ["duplicate", "stored"]


def test_a_message_that_is_still_there_is_recognised_past_the_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its record lives on while the message does, and goes after it."""
    monkeypatch.setattr(upkeep, "EXTENSION_MS", 1000)
    clock = HandClock()
    with opened(tmp_path, limits(dedupe_window_ms=1000, history=1), clock=clock.steady()) as inbox:
        put(inbox, message("a", ttl=0))
        for _ in range(5):
            clock.advance(3600)
            put(inbox, message("witness", ttl=1))
            assert verdicts(put(inbox, message("a", ttl=0))) == ["duplicate"]
