"""The end of the writer: nothing is acknowledged that is not on disk."""

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path

import apsw
import pytest

from cellmesh.inbox import Inbox, Outcome, Transaction
from cellmesh.inbox.store import Store
from cellmesh.inbox.upkeep import Upkeep
from cellmesh.inbox.writer import WriterStopped
from cellmesh.protocol.fields import Priority
from inboxes import LIMITS, everything, limits, message, opened, put, storing, verdicts
from support import eventually


@pytest.mark.parametrize("error", [apsw.IOError, apsw.CorruptError, apsw.CantOpenError, MemoryError])
def test_the_death_of_the_writer_acknowledges_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """It is reported once, and every message that waited is left unanswered."""
    append = Store.append

    def failing(self: Store, items: list) -> list:
        outcomes = append(self, items)
        if any(item.message_id == "marked" for item in items):
            raise error("as if the disk had gone")
        return outcomes

    monkeypatch.setattr(Store, "append", failing)
    # So that it fails when the statements have been executed and nothing is committed yet.
    monkeypatch.setattr(Store, "append_new", lambda self, items: None)
    deaths: list[str] = []
    died = threading.Event()

    def on_death() -> None:
        deaths.append(threading.current_thread().name)
        died.set()

    async def send() -> tuple[list, list[bool]]:
        stored = await storing(inbox, [message("before")])
        waiting = [storing(inbox, [message(name)]) for name in ("marked", "a", "b")]
        await asyncio.to_thread(died.wait, 10)
        waiting.append(storing(inbox, [message("after the end")]))
        inbox.writer._thread.join(10)
        # Whatever the writer had handed to the loop before it ended runs in this turn.
        await asyncio.sleep(0)
        return stored, [future.done() for future in waiting]

    inbox = Inbox(tmp_path, LIMITS, on_death=on_death)
    stored, answered = asyncio.run(send())
    inbox.close()
    assert verdicts(stored) == ["stored"]
    assert deaths == ["inbox-writer"]
    # Those behind the marked one may have been in its group or in none; none of them may be answered.
    assert answered == [False] * 4
    monkeypatch.undo()
    with opened(tmp_path) as inbox:
        assert [found.message_id for found in everything(inbox)] == ["before"]


def test_a_failing_commit_acknowledges_nothing(tmp_path: Path) -> None:
    """What the commit hook refuses is rolled back and answered as failed, and the writer lives."""
    with opened(tmp_path) as inbox:
        connection = inbox._store.connection
        connection.set_commit_hook(lambda: True)
        assert verdicts(put(inbox, message("a"), message("b"))) == ["failed", "failed"]
        connection.set_commit_hook(None)
        assert inbox.gauges.pending == inbox.gauges.received == 0
        assert verdicts(put(inbox, message("a"))) == ["stored"]
        assert len(everything(inbox)) == 1


def test_what_is_queued_is_written_before_the_end(tmp_path: Path) -> None:
    """Closing answers everything that was put before it; afterwards nothing is taken."""

    async def send() -> list[str]:
        waiting = [storing(inbox, [message(f"m{number}")]) for number in range(1000)]
        await asyncio.to_thread(inbox.close)
        outcomes = [(await future)[0] for future in waiting]
        with pytest.raises(WriterStopped):
            storing(inbox, [message("late")])
        return verdicts(outcomes)

    inbox = Inbox(tmp_path, LIMITS)
    assert asyncio.run(send()) == ["stored"] * 1000
    with opened(tmp_path) as again:
        assert len(everything(again)) == 1000


def test_an_answer_nobody_waits_for_is_no_harm(tmp_path: Path) -> None:
    """Cancelled futures and closed loops leave the message stored and the writer alive."""

    async def leave() -> None:
        storing(inbox, [message("left")])
        storing(inbox, [message("cancelled")]).cancel()

    with opened(tmp_path) as inbox:
        asyncio.run(leave())
        eventually(lambda: inbox.gauges.pending == 2, within=10)
        assert verdicts(put(inbox, message("next"))) == ["stored"]
        assert [found.message_id for found in everything(inbox)] == ["left", "cancelled", "next"]


@pytest.mark.parametrize("error", [apsw.IOError, apsw.CorruptError, MemoryError])
def test_a_disk_that_fails_once_is_not_trusted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """Expect the writer to end, and no answer, although a second attempt would succeed."""
    insert = Store._insert
    faults = [error("as if the disk had a hiccup")]

    def failing_once(self: Store, values: list, rows: int) -> None:
        if faults:
            raise faults.pop()
        insert(self, values, rows)

    monkeypatch.setattr(Store, "_insert", failing_once)
    died = threading.Event()

    async def send() -> bool:
        waiting = storing(inbox, [message("a")])
        await asyncio.to_thread(died.wait, 10)
        await asyncio.sleep(0)
        return waiting.done()

    inbox = Inbox(tmp_path, LIMITS, on_death=died.set)
    assert asyncio.run(send()) is False
    assert died.is_set()
    inbox.close()
    with opened(tmp_path) as again:
        assert everything(again) == []


def test_an_answer_that_cannot_be_given_is_no_harm_to_others(tmp_path: Path) -> None:
    """Expect those of the same group to be answered."""

    def failing(_: Sequence[Outcome]) -> None:
        raise RuntimeError("a fault of ours")

    async def send() -> list[str]:
        inbox.put([message("a")], failing)
        async with asyncio.timeout(10):
            return verdicts(await storing(inbox, [message("b")]))

    with opened(tmp_path) as inbox:
        assert asyncio.run(send()) == ["stored"]


def test_nothing_to_store_is_stored_at_once(tmp_path: Path) -> None:
    """Expect no outcome, and a writer that lives."""
    with opened(tmp_path) as inbox:
        assert put(inbox) == []
        assert verdicts(put(inbox, message("a"))) == ["stored"]


def test_large_messages_are_not_kept_in_memory_once_they_are_stored(tmp_path: Path) -> None:
    """Expect SQLite's memory to stay within its cache whatever the sizes of groups were."""
    text = "x" * 200_000
    with opened(tmp_path, limits(max_bytes=2**40)) as inbox:
        for size in (*range(1, 9), 16, 24):
            put(inbox, *(message(f"{size}-{number}", {"text": text}) for number in range(size)))
        assert apsw.memory_used() < 30_000_000


def test_what_upkeep_has_committed_is_not_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect a file that cannot be made shorter to undo nothing: neither a total nor what others keep in memory."""
    tries: list[int] = []
    undone: list[int] = []

    def full(self: Upkeep) -> None:
        tries.append(1)
        raise apsw.FullError("database or disk is full")

    def step(tx: Transaction) -> bool:
        tx.on_rollback(lambda: undone.append(1))
        return False

    monkeypatch.setattr(Upkeep, "shrink", full)
    with opened(tmp_path) as inbox:
        inbox.writer.attend(step, lambda _: None)
        eventually(lambda: len(tries) >= 3, within=10)
        assert undone == []


def test_behind_one_that_finds_no_room_nothing_of_its_priority_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Expect that where order was asked for: the same refusal, but for repeats; other priorities are stored."""
    append = Store.append

    def full(self: Store, items: list) -> list:
        if any(item.message_id == "big" for item in items):
            raise apsw.FullError("as if the disk had no room for this one")
        return append(self, items)

    with opened(tmp_path) as inbox:
        put(inbox, message("known"))
        monkeypatch.setattr(Store, "append", full)
        monkeypatch.setattr(Store, "append_new", lambda self, items: None)
        batch = [message("first"), message("big"), message("small"), message("known"), message("known", {"other": 1})]
        outcomes = put(inbox, *batch, message("urgent", priority=Priority.HIGH), ordered=True)
        assert verdicts(outcomes) == ["stored", "disk_full", "disk_full", "duplicate", "conflict", "stored"]
        monkeypatch.undo()
        assert [found.message_id for found in everything(inbox)] == ["known", "first", "urgent"]


def test_behind_one_that_an_inbox_has_no_room_for_nothing_new_is_stored(tmp_path: Path) -> None:
    """Expect the first ones stored up to the bound, repeats recognised behind it."""
    with opened(tmp_path, limits(max_messages=2)) as inbox:
        put(inbox, message("known"))
        outcomes = put(inbox, message("a"), message("b"), message("known"), message("c"))
        assert verdicts(outcomes) == ["stored", "inbox_full", "duplicate", "inbox_full"]
