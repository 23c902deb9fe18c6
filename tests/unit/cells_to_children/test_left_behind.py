"""Messages that instances have left behind, from their last words to the Cell's status."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from cellmesh_operator.decisions import reasons
from cellmesh_operator.decisions.actions import Decision, Observed
from cellmesh_operator.decisions.conditions import reported
from cellmesh_operator.decisions.failures import failed
from cellmesh_operator.errors import ApiError
from reconciled import LATER, Object, a_cell, a_claim, a_container, a_pod, conditions, decided, message

EPHEMERAL: Object = {"storage": {"ephemeral": {}}}
KEPT = ("True", "ScaledDownWithMessages")
LOST = ("True", "MessagesLost")


def ended(ordinal: int, remaining: int = 12, unsent: int = 3, *, text: str | None = None, **more: Any) -> Object:
    """Return a pod whose containers have ended and which is about to go."""
    words = json.dumps({"remaining": remaining, "unsent": unsent}) if text is None else text
    state = {"terminated": {"exitCode": 0, "reason": "Completed", "message": words}}
    beside = a_container(name="log", state={"terminated": {"exitCode": 0, "message": "bye"}})
    return a_pod(ordinal, ready=False, containers=[beside, a_container(state=state)], **({"deleted": True} | more))


def seen(
    *pods: Object,
    spec: Object | None = None,
    departed: tuple[Object, ...] = (),
    claims: tuple[int, ...] = (0, 1, 2),
    status: Object | None = None,
    generation: int = 1,
) -> Observed:
    """Return a Cell of one instance, which had three, with these pods and the claims of these ordinals."""
    cell = a_cell({"replicas": 1, **(spec or {})}, generation=generation, status=status)
    return Observed(cell=cell, pods=pods, departed=departed, claims=tuple(map(a_claim, claims)), storage_classes={})


def after(decision: Decision, *pods: Object, **more: Any) -> Decision:
    """Return the next decision, after the status of this one was reported."""
    return decided(seen(*pods, status=dict(decision.status), **more))


def left(decision: Decision) -> dict[str, tuple[int, int, bool]]:
    """Return what is said to be left behind, by instance."""
    entries = decision.status.get("messagesLeft", ())
    return {item["instance"]: (item["remaining"], item["unsent"], item["lost"]) for item in entries}


def condition(decision: Decision) -> tuple[str, str] | None:
    """Return status and reason of the condition, None if it is absent."""
    return conditions(decision.status).get("MessagesLeft")


def test_an_instance_that_is_scaled_away_with_messages_is_told() -> None:
    """Expect instance and numbers in words and as fields, the Cell to be as ready as before, and an Event."""
    decision = decided(seen(a_pod(0), ended(2), ended(1, 0, 7)))

    assert left(decision) == {"alpha-1": (0, 7, False), "alpha-2": (12, 3, False)}
    assert condition(decision) == KEPT
    words = message(decision.status, "MessagesLeft")
    assert "alpha-1 (0 received, 7 unsent), alpha-2 (12 received, 3 unsent); scale up" in words
    assert [(notice.type, notice.reason) for notice in decision.notices] == [("Warning", "ScaledDownWithMessages")]
    assert conditions(decision.status)["Available"][0] == "True"


def test_it_stays_told_when_the_pod_is_gone_and_is_not_told_as_news_again() -> None:
    """Expect the status to be the memory, also of a reconciler that was started anew."""
    first = decided(seen(a_pod(0), ended(2)))
    second = after(first, a_pod(0))

    assert (left(second), condition(second)) == ({"alpha-2": (12, 3, False)}, KEPT)
    assert second.notices == ()
    assert reported({"status": first.status}, second.status)


def test_a_pod_that_went_before_anybody_looked_has_spoken_too() -> None:
    """Expect what was last seen of it to count."""
    assert left(decided(seen(a_pod(0), departed=(ended(2),)))) == {"alpha-2": (12, 3, False)}


def test_an_instance_that_is_back_takes_its_messages_up() -> None:
    """Expect it to be told while its pod starts, and no more once that is ready."""
    first = decided(seen(ended(2)))
    wanted: Object = {"replicas": 3}

    starting = after(first, a_pod(2, ready=False), spec=wanted)
    assert condition(starting) == KEPT
    running = after(starting, a_pod(2), spec=wanted)
    assert (left(running), condition(running)) == ({}, None)
    assert not reported({"status": starting.status}, running.status)


def test_an_instance_that_ends_again_and_leaves_nothing_takes_it_back() -> None:
    """Expect zeros to count as words."""
    first = decided(seen(ended(2)))
    assert left(after(first, ended(2, 0, 0))) == {}


def test_the_last_words_of_a_later_life_count() -> None:
    """Expect the pod that is there to be newer than one that has gone."""
    assert left(decided(seen(ended(2, 1, 0), departed=(ended(2, 9, 9),)))) == {"alpha-2": (1, 0, False)}
    assert left(decided(seen(ended(2, 0, 0), departed=(ended(2, 9, 9),)))) == {}
    assert left(decided(seen(a_pod(2), departed=(ended(2, 9, 9),)))) == {}


def test_an_instance_that_comes_back_leaves_nothing_behind() -> None:
    """Expect a rolling update not to be told: the messages wait for the pod's successor."""
    decision = decided(seen(ended(0), ended(1), spec={"replicas": 2}))
    assert (left(decision), condition(decision)) == ({}, None)


def test_messages_without_their_claim_are_nowhere() -> None:
    """Expect somebody who deletes the claim to end it."""
    first = decided(seen(ended(2)))
    assert left(after(first, claims=(0, 1))) == {}


@pytest.mark.parametrize(
    "pod",
    [
        ended(2, deleted=False),
        ended(2, text="panic"),
        a_pod(2, deleted=True),
        a_pod(
            2,
            deleted=True,
            containers=[a_container(lastState={"terminated": {"message": '{"remaining":1,"unsent":1}'}})],
        ),
        a_pod(
            2,
            deleted=True,
            containers=[a_container(name="log", state={"terminated": {"message": '{"remaining":1,"unsent":1}'}})],
        ),
    ],
    ids=["restarting", "other words", "no words", "words of an earlier life", "words of another container"],
)
def test_who_has_not_spoken_has_said_nothing(pod: Object) -> None:
    """Expect only a cell's own words, of a pod that does not come back."""
    assert condition(decided(seen(pod))) is None


def test_what_an_ephemeral_instance_leaves_is_lost_whether_it_comes_back_or_not() -> None:
    """Expect the loss to be told until the Cell is edited."""
    claims: tuple[int, ...] = ()
    first = decided(seen(ended(0), spec=EPHEMERAL, claims=claims))
    assert (left(first), condition(first)) == ({"alpha-0": (12, 3, True)}, LOST)
    assert "lost with instances" in message(first.status, "MessagesLeft")

    back = after(first, a_pod(0), spec=EPHEMERAL, claims=claims)
    assert (left(back), condition(back)) == ({"alpha-0": (12, 3, True)}, LOST)
    edited = after(back, a_pod(0), spec=EPHEMERAL, claims=claims, generation=2)
    assert (left(edited), condition(edited)) == ({}, None)


def test_an_evicted_pod_has_spoken_though_it_is_not_deleted() -> None:
    """Expect the phase to say that it does not go on."""
    pod = ended(0, deleted=False, status={"phase": "Failed"})
    assert left(decided(seen(pod, spec=EPHEMERAL))) == {"alpha-0": (12, 3, True)}


def test_a_claim_that_goes_with_its_instance_takes_the_messages_along() -> None:
    """Expect retention Delete to be told as a loss, also when the claim is gone."""
    spec: Object = {"storage": {"size": "1Gi", "retention": {"whenScaled": "Delete"}}}
    first = decided(seen(ended(2), spec=spec))
    assert (left(first), condition(first)) == ({"alpha-2": (12, 3, True)}, LOST)
    assert left(after(first, spec=spec, claims=(0,))) == {"alpha-2": (12, 3, True)}


def test_many_are_counted_not_named() -> None:
    """Expect a message that can be read, and every one of them as a field."""
    decision = decided(seen(*(ended(ordinal) for ordinal in range(1, 100)), claims=tuple(range(100))))
    words = message(decision.status, "MessagesLeft")
    assert len(left(decision)) == 99
    assert "alpha-5 (12 received, 3 unsent) and 94 more; scale up" in words
    assert len(words) <= reasons.MESSAGE_LENGTH


def test_the_condition_keeps_its_time_while_more_is_left() -> None:
    """Expect the time of the first, another message, and an Event."""
    first = decided(seen(ended(2)))
    status = copy.deepcopy(dict(first.status))
    for item in status["conditions"]:
        item["lastTransitionTime"] = LATER
    second = decided(seen(ended(1), status=status))
    (found,) = [item for item in second.status["conditions"] if item["type"] == "MessagesLeft"]
    assert (found["lastTransitionTime"], left(second).keys()) == (LATER, {"alpha-1", "alpha-2"})
    assert [notice.reason for notice in second.notices] == ["ScaledDownWithMessages"]


def test_it_is_told_also_when_something_else_fails() -> None:
    """Expect a child that is not applied not to hide it."""
    observed = seen(a_pod(0), ended(2))
    decision = decided(observed)
    status = failed(observed, decision, [(decision.actions[0], ApiError(503, "ServiceUnavailable", "away"))], LATER)
    assert status["messagesLeft"] == decision.status["messagesLeft"]
    assert conditions(status)["MessagesLeft"] == KEPT


def test_a_status_of_somebody_elses_making_stops_nothing() -> None:
    """Expect an entry that names no instance of the Cell to be dropped."""
    entries = [
        {"instance": name, "remaining": 1, "unsent": 1, "lost": False} for name in ("alpha", "pure-2", "alpha-x")
    ]
    assert left(decided(seen(status={"messagesLeft": entries}))) == {}


def test_a_cell_of_which_nothing_was_left_has_no_such_field() -> None:
    """Expect the status to be as it was before there was one, an empty list to be the same, an entry not."""
    decision = decided(seen(a_pod(0)))
    assert "messagesLeft" not in decision.status
    assert reported({"status": {**decision.status, "messagesLeft": []}}, decision.status)
    assert not reported({"status": {**decision.status, "messagesLeft": [{"instance": "x"}]}}, decision.status)
    assert decision.notices == ()
