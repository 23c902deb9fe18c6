"""What an answer means for a queued message."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cellmesh.outbox.parcels import DEAD, DELIVERED, QUEUED, UNCONFIRMED
from cellmesh.service.fates import ACKNOWLEDGED, MAX_PAUSE, Fate, backoff, ends_shipment, judge, lost, unsent
from cellmesh.transport.link import Receipt


def receipt(status: int, code: str | None = None, retry_after: str | None = None, **body: Any) -> Receipt:
    """Return an answer."""
    if code is not None:
        body["code"] = code
    return Receipt(status, json.dumps(body).encode(), retry_after)


@pytest.mark.parametrize("maybe", [False, True])
@pytest.mark.parametrize(
    ("answer", "state", "pinned", "pinned_if_maybe"),
    [
        (receipt(200, acknowledged=True), DELIVERED, False, False),
        # Proves that nothing is stored, also of an earlier attempt: it would have recognised a repeat.
        (receipt(429, "inbox_full"), QUEUED, False, False),
        (receipt(507, "disk_full"), QUEUED, False, False),
        # Proves nothing about an earlier attempt: these are refused before they are looked at.
        (receipt(503, "draining"), QUEUED, False, True),
        (receipt(421, "misdirected"), QUEUED, False, True),
        (receipt(404, detail="Not Found"), QUEUED, False, True),
        # Proves nothing.
        (receipt(500, "internal"), QUEUED, True, True),
        (receipt(503), QUEUED, True, True),
        (receipt(504), QUEUED, True, True),
        (receipt(408, "request_timeout"), QUEUED, True, True),
        (receipt(200, acknowledged=False), QUEUED, True, True),
        (Receipt(200, b"<html>"), QUEUED, True, True),
        (receipt(302), QUEUED, True, True),
    ],
)
def test_what_an_answer_proves(answer: Receipt, state: int, pinned: bool, pinned_if_maybe: bool, maybe: bool) -> None:
    """Expect a message to stay with its instance exactly where that may have it."""
    fate = judge(answer, maybe=maybe)
    assert (fate.state, fate.pinned) == (state, pinned_if_maybe if maybe else pinned)


@pytest.mark.parametrize(("status", "code"), [(422, "invalid_field"), (413, "body_too_large"), (403, "forbidden_host")])
def test_what_is_refused_for_good_is_dead_unless_it_may_be_there(status: int, code: str) -> None:
    """Expect ``dead`` with the code, and ``unconfirmed`` after an attempt that was not answered."""
    assert judge(receipt(status, code, error="no"), maybe=False)[:4] == (DEAD, False, code, "no")
    assert judge(receipt(status, code), maybe=True)[:2] == (UNCONFIRMED, True)


def test_another_message_under_the_same_id_means_that_this_one_is_not_there() -> None:
    """Expect ``dead`` also after an attempt that was not answered."""
    assert judge(receipt(409, "id_conflict"), maybe=True)[:2] == (DEAD, False)


def test_what_holds_up_those_behind_it() -> None:
    """Expect a shipment to end where a message is to be sent again, and go on where one has ended."""
    ending = [receipt(429), receipt(507), receipt(503, "draining"), receipt(421), receipt(500)]
    assert [ends_shipment(one) for one in ending] == [True] * len(ending)
    going_on = [receipt(200, acknowledged=True), receipt(422, "invalid_field"), receipt(409, "id_conflict")]
    assert [ends_shipment(one) for one in going_on] == [False] * len(going_on)
    assert judge(receipt(429), maybe=False).holds_up
    assert not judge(receipt(500), maybe=False).holds_up


def test_what_has_not_left_stays_what_it_was() -> None:
    """Expect it free unless an earlier attempt may have been stored; with the reason of the one before it."""
    before = judge(receipt(429, "inbox_full", error="full"), maybe=False)
    assert unsent(before, maybe=False)[:4] == (QUEUED, False, "inbox_full", "full")
    assert unsent(before, maybe=True).pinned
    assert lost("gone")[:2] == (QUEUED, True)


@pytest.mark.parametrize(
    ("answer", "pause"),
    [
        (receipt(429, retry_after="7"), 7.0),
        (receipt(429, retry_after="0"), 1.0),
        (receipt(429, retry_after="3600"), 60.0),
        (receipt(429), None),
        (Receipt(429, b'{"retry_after":5}'), 5.0),
        (Receipt(429, b"not JSON"), None),
        (receipt(429, retry_after="Wed, 21 Oct 2026 07:28:00 GMT"), None),
    ],
)
def test_an_instance_says_when_it_wants_to_be_asked_again(answer: Receipt, pause: float | None) -> None:
    """Expect seconds of the header, else of the body, within 1 to 60."""
    assert judge(answer, maybe=False).pause == pause


def test_pauses_grow_to_a_bound_and_are_spread() -> None:
    """Expect twice as long after each failure, a random part of it, and never less than was asked for."""
    assert [backoff(failures, 1.0) for failures in (1, 2, 3, 4)] == [0.1, 0.2, 0.4, 0.8]
    assert backoff(10, 1.0) == backoff(10_000, 1.0) == MAX_PAUSE
    assert backoff(3, 0.0) == 0.0
    assert backoff(3, 0.5) == 0.2
    assert [backoff(10, chance, 8.0) for chance in (0.0, 1.0)] == [8.0, 10.0]


def test_an_acknowledgement_is_nothing_but_that() -> None:
    """Expect no reason with it."""
    assert Fate(DELIVERED) == ACKNOWLEDGED
    assert judge(receipt(200, acknowledged=True, duplicate=True), maybe=True) == ACKNOWLEDGED
