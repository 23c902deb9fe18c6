"""Dead letters: listed, put back, purged, and never forgotten by the deduplication."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cellmesh.inbox import Inbox, Verb
from cellmesh.inbox.dead import Named
from inboxes import HandClock, find, limits, message, opened, put, verdicts
from leases import codes, ids, lease, settle, state
from support import eventually


def reject(inbox: Inbox, *message_ids: str) -> None:
    """Store messages and reject them."""
    put(inbox, *(message(one) for one in message_ids))
    assert codes(settle(inbox, Verb.NACK, *lease(inbox, len(message_ids)), reject=True)) == [""] * len(message_ids)


def test_a_dead_letter_that_is_put_back_is_as_new(tmp_path: Path) -> None:
    """Expect it pending, with no delivery counted and its whole ttl before it, and its history kept."""
    clock = HandClock()
    with opened(tmp_path, clock=clock.steady()) as inbox:
        put(inbox, message("a", ttl=5))
        clock.advance(5)
        eventually(lambda: state(inbox, "a") == "dead: expired", within=10)
        clock.advance(100)
        outcome = asyncio.run(inbox.put_back([Named(message_id="a")]))
        assert (outcome.changed, [code for _, code in outcome.named]) == (1, [""])
        clock.advance(4.9)
        (taken,) = lease(inbox)
        assert taken.message.delivery_count == 1
        found = find(inbox, "a")
        assert found is not None
        assert "put back" in [step.reason for step in found.history]
        assert (inbox.gauges.dead, inbox.gauges.leased) == (0, 1)


@pytest.mark.parametrize("held_back", [False, True])
def test_a_dead_letter_that_is_put_back_is_handed_out_once(tmp_path: Path, held_back: bool) -> None:
    """Expect one copy, also where nobody asked for it before it expired, or it expired while it was held back."""
    clock = HandClock()
    with opened(tmp_path, clock=clock.steady()) as inbox:
        put(inbox, message("a", ttl=5))
        if held_back:
            settle(inbox, Verb.NACK, *lease(inbox), delay_ms=8000)
        put(inbox, message("b", ttl=0))
        clock.advance(5)
        eventually(lambda: state(inbox, "a") == "dead: expired", within=10)
        assert asyncio.run(inbox.put_back([Named(message_id="a")])).changed == 1
        clock.advance(4)
        put(inbox, message("c", ttl=0))
        eventually(lambda: inbox.writer.leasing.next_due() is None, within=10)
        assert ids(lease(inbox, 10)) == ["a", "b", "c"]
        assert (inbox.gauges.pending, inbox.gauges.leased) == (0, 3)


def test_named_ones_are_answered_one_by_one(tmp_path: Path) -> None:
    """Expect what is not dead, or not there, to be said, and the others to be done; a name given twice once."""
    with opened(tmp_path) as inbox:
        reject(inbox, "a", "b")
        put(inbox, message("alive"))
        named = [Named(message_id=name) for name in ("a", "alive", "nobody's", "a")] + [Named(seq=2), Named(seq=99)]
        outcome = asyncio.run(inbox.purge(named))
        assert outcome.changed == 2
        assert [code for _, code in outcome.named] == ["", "not_dead", "unknown_message", "", "", "unknown_message"]
        assert find(inbox, "a") is None
        assert state(inbox, "alive") == "pending"


def test_all_of_a_reason(tmp_path: Path) -> None:
    """Expect only those of the reason, however many there are."""
    clock = HandClock()
    with opened(tmp_path, clock=clock.steady()) as inbox:
        for start in range(0, 2500, 250):
            put(inbox, *(message(f"e-{n}", ttl=5) for n in range(start, start + 250)))
        clock.advance(6)
        eventually(lambda: inbox.gauges.dead == 2500, within=30)
        reject(inbox, "r-1", "r-2")
        assert asyncio.run(inbox.put_back(None, "rejected")).changed == 2
        assert ids(lease(inbox, 10)) == ["r-1", "r-2"]
        assert asyncio.run(inbox.purge(None, "expired")).changed == 2500
        assert inbox.gauges.dead == 0
        assert asyncio.run(inbox.purge(None)).changed == 0


def test_a_purge_forgets_no_deduplication(tmp_path: Path) -> None:
    """Expect a repeat of a purged message to be recognised, also after a restart."""
    with opened(tmp_path) as inbox:
        reject(inbox, "a")
        asyncio.run(inbox.purge(None))
        assert verdicts(put(inbox, message("a"))) == ["duplicate"]
    with opened(tmp_path) as inbox:
        assert verdicts(put(inbox, message("a"))) == ["duplicate"]
        assert verdicts(put(inbox, message("a", {"other": 1}))) == ["conflict"]


def test_a_position_and_an_id_must_be_of_one_message(tmp_path: Path) -> None:
    """Expect nothing to be purged or settled that is only half of what was named."""
    with opened(tmp_path) as inbox:
        reject(inbox, "a", "b")
        outcome = asyncio.run(inbox.purge([Named(seq=1, message_id="b"), Named(seq=2, message_id="b")]))
        assert [code for _, code in outcome.named] == ["unknown_message", ""]
        assert state(inbox, "a") == "dead: rejected"


def test_no_more_are_put_back_than_there_is_room_for(tmp_path: Path) -> None:
    """Expect the bound of pending messages to hold, and the rest to stay dead."""
    with opened(tmp_path, limits(max_messages=3)) as inbox:
        reject(inbox, "a", "b", "c")
        put(inbox, message("alive"))
        assert asyncio.run(inbox.put_back(None)).changed == 2
        assert (inbox.gauges.pending, inbox.gauges.dead) == (3, 1)
        assert verdicts(put(inbox, message("more"))) == ["inbox_full"]
        settle(inbox, Verb.ACK, *lease(inbox))
        named = asyncio.run(inbox.put_back([Named(message_id="c"), Named(message_id="c"), Named(message_id="alive")]))
        assert [code for _, code in named.named] == ["", "", "not_dead"]


def test_those_there_is_no_room_for_are_named(tmp_path: Path) -> None:
    """Expect nobody to be told that a letter is pending which stayed dead."""
    with opened(tmp_path, limits(max_messages=3)) as inbox:
        reject(inbox, "a", "b", "c")
        put(inbox, message("alive"))
        outcome = asyncio.run(inbox.put_back([Named(message_id=name) for name in "abc"]))
        assert (outcome.changed, [code for _, code in outcome.named]) == (2, ["", "", "inbox_full"])
        assert state(inbox, "c") == "dead: rejected"
