"""Messages in, messages out, and repeats."""

import asyncio
import json
from pathlib import Path

import apsw
import pytest

from cellmesh.inbox import Outcome, Verdict
from inboxes import everything, find, message, opened, put, spoil, storing, verdicts


def test_what_is_put_is_read_back(tmp_path: Path) -> None:
    """Every field of a message comes back as it was given."""
    with opened(tmp_path) as inbox:
        given = message(
            "one",
            {"text": "grüße", "n": 1.5},
            message_type="query",
            ttl=0,
            timestamp="2026-01-02T03:04:05Z",
            conversation_id="talk",
            from_instance="alpha-0",
        )
        (outcome,) = put(inbox, given)
        (found,) = everything(inbox)
        alone = find(inbox, "one")
    assert outcome.verdict is Verdict.STORED
    assert (found.seq, found.message_id, found.from_cell, found.to_cell) == (outcome.seq, "one", "alpha", "pure")
    assert (found.message_type, found.priority, found.ttl, found.state) == ("query", "normal", 0, "pending")
    assert (found.timestamp, found.conversation_id, found.from_instance) == ("2026-01-02T03:04:05Z", "talk", "alpha-0")
    assert json.loads(bytes(found.payload)) == {"text": "grüße", "n": 1.5}
    assert alone is not None
    assert [step.state for step in alone.history] == ["pending"]


def test_messages_are_there_after_reopening(tmp_path: Path) -> None:
    """Positions go on where they stopped."""
    with opened(tmp_path) as inbox:
        first = put(inbox, message("a"), message("b"))
    with opened(tmp_path) as inbox:
        second = put(inbox, message("c"))
        assert [found.message_id for found in everything(inbox)] == ["a", "b", "c"]
    assert [outcome.seq for outcome in first + second] == [1, 2, 3]


def test_the_newest_come_first_without_a_position(tmp_path: Path) -> None:
    """A page without ``after`` is the newest, oldest of them first."""
    with opened(tmp_path) as inbox:
        put(inbox, *(message(f"m{number}") for number in range(10)))
        page = asyncio.run(inbox.page(3))
        assert [found.message_id for found in page] == ["m7", "m8", "m9"]


def test_a_repeat_is_answered_with_the_first_position(tmp_path: Path) -> None:
    """Also after reopening; the receipt time is that of the first as well."""
    with opened(tmp_path) as inbox:
        (first,) = put(inbox, message("a"))
        (again,) = put(inbox, message("a"))
    with opened(tmp_path) as inbox:
        (later,) = put(inbox, message("a"))
        assert len(everything(inbox)) == 1
    assert again == later == Outcome(Verdict.DUPLICATE, first.seq, first.received_at)


def test_the_same_id_with_another_payload_is_a_conflict(tmp_path: Path) -> None:
    """The first one stays what it was."""
    with opened(tmp_path) as inbox:
        put(inbox, message("a", {"n": 1}))
        assert verdicts(put(inbox, message("a", {"n": 2}))) == ["conflict"]
        assert verdicts(put(inbox, message("a", {"n": 1}, message_type="event"))) == ["conflict"]
        assert [json.loads(bytes(found.payload)) for found in everything(inbox)] == [{"n": 1}]


def test_the_same_id_from_another_sender_is_another_message(tmp_path: Path) -> None:
    """Ids are the sender's: cell and namespace belong to the key."""
    with opened(tmp_path) as inbox:
        items = (
            message("a"),
            message("a", from_cell="beta"),
            message("a", from_namespace="other"),
        )
        assert verdicts(put(inbox, *items)) == ["stored"] * 3


def test_repeats_within_one_group_are_seen(tmp_path: Path) -> None:
    """Neither is on disk yet when the second is looked at."""
    with opened(tmp_path) as inbox:
        outcomes = put(inbox, message("a"), message("b"), message("a"), message("b", {"other": 1}))
        assert verdicts(outcomes) == ["stored", "stored", "duplicate", "conflict"]
        assert outcomes[2].seq == outcomes[0].seq
        assert inbox.gauges.pending == len(everything(inbox)) == 2


def test_many_at_once_share_commits(tmp_path: Path) -> None:
    """Each is answered with its own outcome, in far fewer groups than messages."""

    async def storm() -> list[Outcome]:
        async with asyncio.timeout(30):
            groups = await asyncio.gather(*(storing(inbox, [message(f"m{number}")]) for number in range(2000)))
        return [outcome for group in groups for outcome in group]

    with opened(tmp_path) as inbox:
        outcomes = asyncio.run(storm())
        found = {one.message_id: one.seq for one in everything(inbox)}
        assert inbox.writer.groups < 500
    assert {f"m{number}": outcome.seq for number, outcome in enumerate(outcomes)} == found


def test_one_that_is_too_big_for_the_file_fails_alone(tmp_path: Path) -> None:
    """A failing group is rolled back and repeated item by item."""
    with opened(tmp_path) as inbox:
        inbox._store.connection.limit(apsw.SQLITE_LIMIT_LENGTH, 100_000)
        big = message("big", {"text": "x" * 200_000})
        outcomes = put(inbox, message("a"), big, message("b"), message("a"))
        assert verdicts(outcomes) == ["stored", "failed", "stored", "duplicate"]
        assert [found.message_id for found in everything(inbox)] == ["a", "b"]
        assert inbox.gauges.pending == inbox.gauges.received == 2
        assert verdicts(put(inbox, message("c"))) == ["stored"]


def test_one_that_breaks_a_constraint_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the group had been written in part: nothing of the failed attempt stays."""
    spoil(monkeypatch, "marked")
    with opened(tmp_path) as inbox:
        put(inbox, message("known"))
        outcomes = put(inbox, message("a"), message("marked"), message("known"), message("b"))
        assert verdicts(outcomes) == ["stored", "failed", "duplicate", "stored"]
        assert [found.message_id for found in everything(inbox)] == ["known", "a", "b"]
    monkeypatch.undo()
    with opened(tmp_path) as inbox:
        assert verdicts(put(inbox, message("marked"))) == ["stored"]


def test_positions_are_never_given_out_again(tmp_path: Path) -> None:
    """Even if the last message is deleted and the inbox opened again."""
    with opened(tmp_path) as inbox:
        last = put(inbox, message("a"), message("b"))[-1].seq
    with apsw.Connection(str(tmp_path / "inbox.db")) as connection:
        for table in ("messages", "payloads", "receipts"):
            connection.execute(f"DELETE FROM {table}")
    connection.close()
    with opened(tmp_path) as inbox:
        assert put(inbox, message("b"))[0].seq == last + 1
