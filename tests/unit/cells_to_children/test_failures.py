"""What is said when the API server would not have it."""

from __future__ import annotations

import pytest

from cellmesh_operator.decisions.actions import Apply, ResizeClaim
from cellmesh_operator.decisions.failures import failed, failure_notice
from cellmesh_operator.errors import ApiError, ConnectionLost, OperatorError
from reconciled import NOW, Cluster, Object, conditions, decided, message

FORBIDDEN = ApiError(403, "Forbidden", 'statefulsets.apps "alpha" is forbidden: no')
INVALID = ApiError(422, "Invalid", "spec.x: Invalid value")
TEMPORARY = [
    ApiError(409, "Conflict", "x"),
    ApiError(503, "", ""),
    ApiError(429, "TooManyRequests", "x"),
    ConnectionLost("x"),
]


def outcome(cluster: Cluster, error: OperatorError) -> Object:
    """Return the status after the first action of a decision has failed."""
    decision = decided(cluster.observed)
    return failed(cluster.observed, decision, [(decision.actions[0], error)], NOW)


def edited() -> Cluster:
    """Return a Cell that was ready and has been edited."""
    cluster = Cluster()
    cluster.reconcile()
    cluster.edit({"port": 9000})
    return cluster


@pytest.mark.parametrize("error", [FORBIDDEN, INVALID], ids=["403", "422"])
def test_what_is_refused_for_good_stalls_the_cell(error: OperatorError) -> None:
    """With the API server's words; the generation counts as seen, or kstatus would go on waiting."""
    status = outcome(edited(), error)
    found = conditions(status)
    assert found["Stalled"] == ("True", "ApplyRefused")
    assert found["Ready"] == found["UpToDate"] == ("False", "ApplyRefused")
    assert "Reconciling" not in found
    assert status["observedGeneration"] == 2
    assert message(status).startswith("Service alpha was not applied: ")
    assert str(error.args[0]).partition(": ")[2] in message(status)


@pytest.mark.parametrize("error", TEMPORARY, ids=lambda error: str(getattr(error, "status", "lost")))
def test_what_may_succeed_later_is_under_way(error: OperatorError) -> None:
    """The generation is not reported as acted on."""
    status = outcome(edited(), error)
    found = conditions(status)
    assert found["Reconciling"] == ("True", "ApplyFailed")
    assert found["Ready"] == ("False", "ApplyFailed")
    assert "Stalled" not in found
    assert status["observedGeneration"] == 1


def test_a_cell_that_was_never_acted_on_stays_so() -> None:
    """As the schema's default has it."""
    assert outcome(Cluster(), ApiError(500))["observedGeneration"] == -1


def test_a_repair_that_fails_leaves_a_ready_cell_ready() -> None:
    """Its instances are what this generation wants; only the child is not as it should be."""
    cluster = Cluster()
    cluster.reconcile()
    cluster.observed.service["metadata"]["labels"].clear()  # type: ignore[index]
    found = conditions(outcome(cluster, FORBIDDEN))
    assert found["Ready"] == ("True", "InstancesReady")
    assert found["UpToDate"] == ("False", "ApplyRefused")
    assert found["Stalled"] == ("True", "ApplyRefused")


def test_a_claim_that_may_not_grow_is_a_matter_of_storage_only() -> None:
    """The children are applied, so the generation is acted on and nothing is under way."""
    cluster = Cluster({"storage": {"size": "1Gi"}})
    cluster.reconcile()
    cluster.edit({"storage": {"size": "2Gi"}})
    decision = decided(cluster.observed)
    resize = decision.actions[-1]
    assert isinstance(resize, ResizeClaim)
    for action in decision.actions[:-1]:
        cluster.act(action)
    status = failed(cluster.observed, decided(cluster.observed), [(resize, FORBIDDEN)], NOW)
    found = conditions(status)
    assert found["StorageReady"] == ("False", "ExpansionRefused")
    assert "claim inbox-alpha-0 was not grown to 2Gi: statefulsets.apps" in message(status, "StorageReady")
    assert status["observedGeneration"] == 2
    assert {"Stalled", "Reconciling"} & set(found) <= {"Reconciling"}


def test_an_event_tells_of_the_final_failure_first() -> None:
    """Of several errors the one that will not go away by itself."""
    actions = decided(Cluster().observed).actions
    notice = failure_notice([(actions[0], TEMPORARY[0]), (actions[1], INVALID)])
    assert (notice.type, notice.reason) == ("Warning", "ApplyRefused")
    assert notice.message == "Service alpha was not applied: spec.x: Invalid value"


def test_an_event_tells_of_a_claim_that_may_not_grow() -> None:
    """With its own reason."""
    notice = failure_notice([(ResizeClaim("inbox-alpha-0", "mesh", "2Gi"), FORBIDDEN)])
    assert (notice.type, notice.reason) == ("Warning", "ExpansionRefused")


def test_messages_of_the_api_server_are_cut() -> None:
    """Admission webhooks write what they like."""
    cluster = Cluster()
    (action, *_) = decided(cluster.observed).actions
    assert isinstance(action, Apply)
    assert len(failure_notice([(action, ApiError(422, "Invalid", "x" * 9999))]).message) <= 512
