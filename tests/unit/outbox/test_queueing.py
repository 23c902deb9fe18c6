"""What is queued is on disk, once, and has an end that is kept."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import apsw
import pytest

from cellmesh.outbox.outcomes import Refused
from cellmesh.outbox.parcels import DEAD, QUEUED, UNCONFIRMED
from cellmesh.outbox.store import Sent
from inboxes import HandClock, limits
from outboxes import HERE, opened, run, verdicts


def refused(state: int, *parcels: Any, pinned: bool = False, code: str = "inbox_full") -> list[Refused]:
    """Return that an attempt was refused."""
    return [Refused(state, pinned, code, "because", [one.position for one in parcels])]


def test_a_message_is_read_as_it_was_queued(tmp_path: Path) -> None:
    """Expect every field again after a restart, the payload to the byte."""
    payload = {"text": 'snowman \u2603, a NUL \0, quotes " and \\', "numbers": [1.50, 10**30, -0.0]}
    fields = {
        "message_type": "command", "priority": "critical", "ttl": 77.5, "reply_to": "r", "conversation_id": "c",
        "traceparent": "t", "tracestate": "s", "not_before": 3, "for_instance": "pure-7",
    }  # fmt: skip
    with opened(tmp_path) as box:
        queued = box.parcel("strange \0 id \u2603", payload, wanted="pure-3", **fields)
        assert verdicts(box.put(queued)) == ["stored"]
        before = queued.encoded("pure-3", "uid", queued.queued_at)
    with opened(tmp_path) as box:
        (loaded,) = run(box.outbox.load("pure", 3, 0, ["pure-3"])).messages
        parcel = loaded.parcel("pure", HERE, "")
        parcel.message.timestamp = parcel.message.from_namespace = None
        parcel.message.from_instance = parcel.message.to_namespace = None
        assert parcel.encoded("pure-3", "uid", queued.queued_at) == before
        assert (parcel.wanted, parcel.placed, parcel.home, parcel.given) == ("pure-3", "c", "pure-7", True)
        assert box.find("strange \0 id \u2603").ttl == 77.5


def test_what_a_message_has_left_is_sent_with_each_attempt(tmp_path: Path) -> None:
    """Expect less ttl and less delay the longer it was held, and none of either where there was none."""
    clock = HandClock()
    with opened(tmp_path, clock=clock.steady()) as box:
        parcel = box.parcel("m", ttl=60, not_before=5)
        now = box.inbox.clock.now_ms()
        assert b'"ttl_remaining":60.0' in parcel.encoded("pure-0", None, now)
        later = parcel.encoded("pure-0", None, now + 2500)
        assert b'"ttl":60' in later
        assert b'"ttl_remaining":57.5' in later
        assert b'"not_before":2.5' in later
        assert b"not_before" not in parcel.encoded("pure-0", None, now + 5000)
        eternal = box.parcel("n", ttl=0).encoded("pure-0", None, now + 9000)
        assert b"ttl_remaining" not in eternal


def test_a_repeat_is_recognised(tmp_path: Path) -> None:
    """Expect the state of the first, a conflict for another content, and no repeat for another receiver."""
    with opened(tmp_path) as box:
        (first,) = box.queue("m")
        again = box.put(box.parcel("m"))[0]
        assert (again.verdict.value, again.state, again.queued_at) == ("duplicate", QUEUED, first.queued_at)
        assert verdicts(box.put(box.parcel("m", {"other": 1}))) == ["conflict"]
        assert verdicts(box.put(box.parcel("m", message_type="other"))) == ["conflict"]
        assert verdicts(box.put(box.parcel("m", to_cell="beta"), box.parcel("m", wanted="pure-1"))) == ["stored"] * 2
        assert box.outbox.queued == 3
        assert verdicts(box.put(box.parcel("x"), box.parcel("m"), box.parcel("y"))) == ["stored", "duplicate", "stored"]


def test_a_repeat_is_recognised_when_history_is_gone_until_the_window_is_over(tmp_path: Path) -> None:
    """Expect an id that the caller gave to outlive its message, and one that we made to go with it."""
    clock = HandClock()
    bounds = limits(history=0, dedupe_window_ms=600_000)
    with opened(tmp_path, bounds, clock=clock.steady()) as box:
        given = box.parcel("given")
        made = box.parcel("made")
        made.given = False
        box.put(given, made)
        box.begin(given, made)
        box.finish(given, made)
        box.upkeep()
        assert box.state("given", "made") == ["", ""]
        assert verdicts(box.put(box.parcel("given"), box.parcel("made"))) == ["duplicate", "stored"]
        clock.advance(601)
        box.upkeep()
        assert verdicts(box.put(box.parcel("given"))) == ["stored"]


def test_a_full_outbox_takes_no_more_and_some_again_later(tmp_path: Path) -> None:
    """Expect a unit refused whole, repeats answered, and room when something has ended."""
    with opened(tmp_path, max_messages=3) as box:
        first, _ = box.queue("a", "b")
        assert verdicts(box.put(box.parcel("c"), box.parcel("d"))) == ["inbox_full"] * 2
        assert box.state("c") == [""]
        assert verdicts(box.put(box.parcel("c"))) == ["stored"]
        assert verdicts(box.put(box.parcel("d"))) == ["inbox_full"]
        assert verdicts(box.put(box.parcel("a"))) == ["duplicate"]
        box.begin(first)
        box.finish(first)
        assert verdicts(box.put(box.parcel("d"))) == ["stored"]


def test_copies_are_resolved_once(tmp_path: Path) -> None:
    """Expect a repeat of a message to several to add no receiver, whoever it names."""
    with opened(tmp_path) as box:

        def copies(*cells: str, payload: Any = None) -> list[Any]:
            parcels = [box.parcel("m", payload, to_cell=cell) for cell in cells]
            for one in parcels:
                one.copy = True
            return parcels

        assert verdicts(box.put(*copies("pure", "beta"))) == ["stored"] * 2
        assert verdicts(box.put(*copies("pure", "gamma", "delta"))) == ["duplicate"] * 3
        assert verdicts(box.put(*copies("gamma", payload={"other": 1}))) == ["conflict"]
        assert [one.to_cell for one in run(box.outbox.find("m"))] == ["pure", "beta"]


def test_an_attempt_is_on_disk_before_it_is_made(tmp_path: Path) -> None:
    """Expect its instance, life and time after a restart, and the message read for that instance only."""
    with opened(tmp_path) as box:
        first, second = box.queue("a", "b")
        assert box.begin(first) == set()
        assert box.find("a").attempts == 1
    with opened(tmp_path) as box:
        assert box.cells == ["pure"]
        assert box.load("pure-1") == ["b"]
        assert box.load("pure-0") == ["a", "b"]
        (loaded, _) = run(box.outbox.load("pure", 1, 0, ["pure-0"])).messages
        parcel = loaded.parcel("pure", HERE, "")
        assert (parcel.instance, parcel.uid, parcel.maybe, parcel.attempts) == ("pure-0", "uid", True, 1)
        assert second.position == loaded.position + 1


def test_a_refusal_that_proves_nothing_is_stored_frees_the_message(tmp_path: Path) -> None:
    """Expect it to be read for every instance again, with why it was refused."""
    with opened(tmp_path) as box:
        (parcel,) = box.queue("a")
        box.begin(parcel)
        box.finish(refused=refused(QUEUED, parcel))
        assert box.load("pure-1") == ["a"]
        found = box.find("a")
        assert (found.state, found.code, found.error, found.instance) == ("queued", "inbox_full", "because", None)


def test_a_message_that_ended_is_kept_with_its_reason(tmp_path: Path) -> None:
    """Expect delivered ones without their payload, others with it, each counted."""
    with opened(tmp_path) as box:
        a, b, c = box.queue("a", "b", "c")
        box.begin(a, b, c)
        box.finish(
            a, refused=refused(DEAD, b, code="invalid_field") + refused(UNCONFIRMED, c, pinned=True, code="gone")
        )
        assert box.state("a", "b", "c") == ["delivered", "dead", "unconfirmed"]
        assert box.find("a").payload is None
        assert bytes(box.find("b").payload or b"") == b'{"id":"b"}'
        assert (box.find("b").code, box.find("c").instance) == ("invalid_field", "pure-0")
        assert box.outbox.totals["delivered"] == box.outbox.totals["dead"] == box.outbox.totals["unconfirmed"] == 1
        assert box.outbox.ended["delivered"] == 1
        assert box.load("pure-0") == []


def test_what_expires_says_whether_it_may_have_been_stored(tmp_path: Path) -> None:
    """Expect ``expired`` without an attempt and ``unconfirmed`` after one; what is being sent does not expire."""
    clock = HandClock()
    with opened(tmp_path, clock=clock.steady()) as box:
        never, lost, sending, _ = box.queue("never", "lost", "sending", "long", ttl=60)
        box.queue("eternal", ttl=0)
        box.begin(lost, sending)
        box.finish(refused=refused(QUEUED, lost, pinned=True, code="outcome_unknown"))
        clock.advance(59)
        box.upkeep()
        assert box.state("never", "lost", "sending") == ["queued"] * 3
        clock.advance(2)
        box.upkeep()
        assert box.state("never", "lost", "sending", "eternal") == ["expired", "unconfirmed", "queued", "queued"]
        box.finish(sending)
        assert box.state("sending") == ["delivered"]
        assert never.position < lost.position


def test_one_that_never_expires_is_unconfirmed_when_a_repeat_would_not_be_recognised(tmp_path: Path) -> None:
    """Expect that after the window from the attempt that may have been stored; not while none may have been."""
    clock = HandClock()
    bounds = limits(dedupe_window_ms=600_000)
    with opened(tmp_path, bounds, clock=clock.steady()) as box:
        lost, refused_ = box.queue("lost", "refused", ttl=0)
        box.begin(lost, refused_)
        box.finish(refused=refused(QUEUED, lost, pinned=True) + refused(QUEUED, refused_))
        clock.advance(599)
        box.upkeep()
        assert box.state("lost") == ["queued"]
        clock.advance(2)
        box.upkeep()
        assert box.state("lost", "refused") == ["unconfirmed", "queued"]


def test_one_that_was_being_sent_when_the_process_ended_is_unconfirmed_in_time(tmp_path: Path) -> None:
    """Expect the window to run from the attempt, over a restart."""
    clock = HandClock()
    bounds = limits(dedupe_window_ms=600_000)
    with opened(tmp_path, bounds, clock=clock.steady()) as box:
        (lost,) = box.queue("lost", ttl=0)
        box.begin(lost)
    clock.advance(300)
    with opened(tmp_path, bounds, clock=clock.steady()) as box:
        box.upkeep()
        assert box.state("lost") == ["queued"]
        clock.advance(301)
        box.upkeep()
        assert box.state("lost") == ["unconfirmed"]


def test_nothing_lives_longer_because_the_clock_was_set_back(tmp_path: Path) -> None:
    """Expect the whole ttl at most after a start at an earlier time."""
    clock = HandClock()
    with opened(tmp_path, clock=clock.steady()) as box:
        box.queue("m", ttl=60)
    clock.wall -= 86_400
    with opened(tmp_path, clock=clock.steady()) as box:
        clock.advance(61)
        box.upkeep()
        assert box.state("m") == ["expired"]


def test_history_is_the_newest_of_each_outcome(tmp_path: Path) -> None:
    """Expect those that ended last kept, however old, and what is queued never trimmed."""
    clock = HandClock()
    with opened(tmp_path, limits(history=2), clock=clock.steady()) as box:
        old, *others = box.queue("old", *(f"m-{number}" for number in range(5)))
        box.queue("waiting")
        for parcel in [*others, old]:
            clock.advance(1)
            box.begin(parcel)
            box.finish(parcel)
        box.upkeep()
        assert box.state("m-0", "m-3", "m-4", "old", "waiting") == ["", "", "delivered", "delivered", "queued"]
        assert box.outbox.totals["delivered"] == 2
        clock.advance(86_401)
        box.outbox._keeping._next_old = 0
        box.upkeep()
        assert box.state("old", "waiting")[0] == ""


def test_a_message_is_cancelled_only_while_nobody_can_have_it(tmp_path: Path) -> None:
    """Expect no cancelling from the attempt on, unless that is proved to have stored nothing."""
    with opened(tmp_path) as box:
        (parcel,) = box.queue("m")
        box.begin(parcel)
        assert run(box.outbox.cancel("m")).changed == 0
        box.finish(refused=refused(QUEUED, parcel))
        assert run(box.outbox.cancel("m")).changed == 1
        assert box.state("m") == ["cancelled"]
        assert box.begin(parcel) == {parcel.position}
        assert run(box.outbox.cancel("unknown")).known == 0


def test_a_retry_is_a_new_place_in_the_queue_under_the_same_id(tmp_path: Path) -> None:
    """Expect it behind all others with its whole ttl, also after a restart, and still recognised."""
    clock = HandClock()
    with opened(tmp_path, clock=clock.steady()) as box:
        box.queue("m", ttl=60)
        clock.advance(61)
        box.upkeep()
        (other,) = box.queue("other")
        changed = run(box.outbox.retry("m"))
        (requeued,) = changed.requeued
        assert (requeued.to_cell, requeued.priority) == ("pure", 1)
        assert requeued.position > other.position
        assert verdicts(box.put(box.parcel("m"))) == ["duplicate"]
        assert run(box.outbox.retry("m")).changed == 0
    with opened(tmp_path, clock=clock.steady()) as box:
        assert box.load("pure-0") == ["other", "m"]
        assert box.queue("last")[0].position > requeued.position
        clock.advance(59)
        box.upkeep()
        assert box.state("m") == ["queued"]
        clock.advance(2)
        box.upkeep()
        assert box.state("m") == ["expired"]


def test_a_retry_of_what_may_be_somewhere_stays_with_its_instance(tmp_path: Path) -> None:
    """Expect an unconfirmed message to be read for its instance only, and to be unconfirmed again in time."""
    clock = HandClock()
    with opened(tmp_path, limits(dedupe_window_ms=600_000), clock=clock.steady()) as box:
        (lost,) = box.queue("m", ttl=0)
        box.begin(lost)
        box.finish(refused=refused(UNCONFIRMED, lost, pinned=True))
        assert run(box.outbox.retry("m")).changed == 1
        assert box.load("pure-1") == []
        assert box.load("pure-0") == ["m"]
        clock.advance(601)
        box.upkeep()
        assert box.state("m") == ["unconfirmed"]


def test_a_group_that_fails_leaves_everything_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect counts, positions and rows of before, and the next message stored."""
    put = Sent.put

    def failing(self: Sent, tx: Any, units: Any) -> Any:
        outcomes = put(self, tx, units)
        if any(parcel.message.message_id == "spoilt" for unit in units for parcel in unit):
            raise apsw.FullError("as if the disk were full at the end")
        return outcomes

    monkeypatch.setattr(Sent, "put", failing)
    with opened(tmp_path) as box:
        (first,) = box.queue("first")
        assert verdicts(box.put(box.parcel("spoilt"))) == ["disk_full"]
        assert box.outbox.totals["queued"] == 1
        assert box.state("spoilt") == [""]
        (second,) = box.queue("second")
        assert second.position == first.position + 1
        assert box.load("pure-0") == ["first", "second"]


def test_outcomes_that_cannot_be_written_are_written_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect them on disk when there is room again; the message is not free before."""
    finish = Sent.finish
    failures = [apsw.FullError("no room"), apsw.FullError("no room")]

    def failing(self: Sent, *arguments: Any) -> None:
        if failures:
            raise failures.pop()
        finish(self, *arguments)

    monkeypatch.setattr("cellmesh.outbox.outbox.FINISH_AGAIN", 0.01)
    with opened(tmp_path) as box:
        (parcel,) = box.queue("m")
        box.begin(parcel)
        monkeypatch.setattr(Sent, "finish", failing)
        box.finish(parcel)
        assert not failures
        assert box.state("m") == ["delivered"]
        assert parcel.position not in box.outbox._sent.under_way


def test_a_page_holds_what_is_asked_for(tmp_path: Path) -> None:
    """Expect the newest, the first behind a position, and those of one state."""
    with opened(tmp_path) as box:
        parcels = box.queue(*(f"m-{number}" for number in range(6)))
        box.begin(*parcels[:2])
        box.finish(*parcels[:2])

        def ids(limit: int, **how: Any) -> list[str]:
            page = run(box.outbox.page(limit, **{"state": None, "after": None, **how}))
            return [one.message_id for one in page]

        assert ids(2) == ["m-4", "m-5"]
        assert ids(2, after=parcels[1].position) == ["m-2", "m-3"]
        assert ids(9, state="delivered") == ["m-0", "m-1"]
        assert ids(2, state="queued", after=0) == ["m-2", "m-3"]
        assert run(box.outbox.oldest_queued_seconds()) is not None


def test_a_long_queue_is_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect each part where the one before ended, by priority and for the instances asked for."""
    monkeypatch.setattr("cellmesh.outbox.store.LOAD", 4)
    with opened(tmp_path) as box:
        box.queue(*(f"m-{number}" for number in range(9)))
        box.queue("for-another", wanted="pure-9")
        box.queue("urgent", priority="critical")
        found: list[str] = []
        start: int | None = 0
        while start is not None:
            queued = run(box.outbox.load("pure", 1, start, ["pure-0"]))
            found += [one.message_id for one in queued.messages]
            start = queued.rest
        assert found == [f"m-{number}" for number in range(9)]
        assert box.load("pure-0", priority=3) == ["urgent"]
        assert run(box.outbox.waits_for("pure"))
        assert not run(box.outbox.waits_for("beta"))


def test_what_comes_together_is_one_commit(tmp_path: Path) -> None:
    """Expect a few groups for a thousand messages that are queued at once, each with its own outcome."""
    with opened(tmp_path) as box:
        groups = box.inbox.writer.groups

        async def many() -> list[Any]:
            parcels = [box.parcel(f"m-{number % 990}") for number in range(1000)]
            return await asyncio.gather(*[box.putting([one]) for one in parcels])

        outcomes = [one for some in run(many()) for one in some]
        assert verdicts(outcomes) == ["stored"] * 990 + ["duplicate"] * 10
        assert box.inbox.writer.groups - groups <= 3
        assert box.outbox.queued == 990


def test_changing_is_refused_without_room(tmp_path: Path) -> None:
    """Expect a retry refused by a full outbox, the message as it was."""
    clock = HandClock()
    with opened(tmp_path, max_messages=1, clock=clock.steady()) as box:
        box.queue("m", ttl=1)
        clock.advance(2)
        box.upkeep()
        box.queue("other", ttl=0)
        refusal = run(box.outbox.retry("m")).refusal
        assert refusal is not None
        assert refusal.value == "inbox_full"
        assert box.state("m") == ["expired"]
