"""What to report when what was decided could not be done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cellmesh_operator.decisions import conditions, reasons
from cellmesh_operator.decisions.actions import Action, Apply, Decision, Notice, Observed, Remove, ResizeClaim, Scale
from cellmesh_operator.decisions.cells import read_cell
from cellmesh_operator.decisions.instances import instances
from cellmesh_operator.errors import ApiError, OperatorError


def failed(
    observed: Observed, decision: Decision, errors: Sequence[tuple[Action, OperatorError]], now: str
) -> dict[str, Any]:
    """Return the status to be reported when actions have failed.

    A refusal that would be the same the next time makes the Cell stalled; anything else is tried again. What
    was refused to a claim is said of the storage alone: the children are as they should be.

    Args:
        observed: what the decision was made from.
        decision: the decision.
        errors: the actions that failed, each with its error.
        now: the time for conditions that change.

    """
    cell = read_cell(observed.cell)
    states = {
        item["type"]: conditions.State(item["status"] == "True", item["reason"], item["message"])
        for item in decision.status.get("conditions", ())
    }
    generation = int(decision.status.get("observedGeneration", cell.generation))
    resizes = [(action, error) for action, error in errors if isinstance(action, ResizeClaim)]
    others = [(action, error) for action, error in errors if not isinstance(action, ResizeClaim)]
    if resizes:
        states[reasons.STORAGE_READY] = _resize_failure(*resizes[0])
        under_way = states.get(reasons.RECONCILING)
        if under_way is not None and under_way.reason == reasons.RESIZING:
            del states[reasons.RECONCILING]
    if others:
        refused = [pair for pair in others if _is_final(pair[1])]
        action, error = (refused or others)[0]
        reason = reasons.APPLY_REFUSED if refused else reasons.APPLY_FAILED
        failure = conditions.State(False, reason, reasons.cut(_failure(action, error)))
        before = int(cell.status.get("observedGeneration", -1))
        states |= _failure_states(failure, states, settled=before == cell.generation)
        states.pop(reasons.STALLED if not refused else reasons.RECONCILING, None)
        generation = generation if refused else before
    found = instances(cell, observed.pods, observed.stateful_set)
    return conditions.status(
        cell, found, states, decision.status.get("messagesLeft", ()), observed_generation=generation, now=now
    )


def failure_notice(errors: Sequence[tuple[Action, OperatorError]]) -> Notice:
    """Return the Event that goes with ``failed``: what is final comes before what will be tried again."""
    action, error = min(errors, key=lambda pair: not _is_final(pair[1]))
    if isinstance(action, ResizeClaim):
        state = _resize_failure(action, error)
        return Notice("Warning", state.reason, state.message)
    reason = reasons.APPLY_REFUSED if _is_final(error) else reasons.APPLY_FAILED
    return Notice("Warning", reason, reasons.cut(_failure(action, error)))


def _failure_states(
    failure: conditions.State, states: conditions.States, *, settled: bool
) -> dict[str, conditions.State]:
    """Return the conditions that a failure changes; Ready stays if it is true of this generation already."""
    found = {reasons.UP_TO_DATE: failure}
    ready = states.get(reasons.READY)
    if ready is None or not ready.status or not settled:
        found[reasons.READY] = failure
    kind = reasons.STALLED if failure.reason == reasons.APPLY_REFUSED else reasons.RECONCILING
    return {**found, kind: conditions.State(True, failure.reason, failure.message)}


def _resize_failure(action: ResizeClaim, error: OperatorError) -> conditions.State:
    text = f"claim {action.name} was not grown to {action.size}: {_words(error)}"
    return conditions.State(False, reasons.EXPANSION_REFUSED, reasons.cut(text))


def _is_final(error: OperatorError) -> bool:
    """Tell whether the API server would refuse the same again until somebody changes something."""
    # Another uid: the object has been replaced meanwhile, and the next look sees what by.
    return isinstance(error, ApiError) and not error.temporary and "metadata.uid" not in error.message


def _failure(action: Action, error: OperatorError) -> str:
    if isinstance(action, Apply):
        return f"{action.resource.kind} {action.body['metadata']['name']} was not applied: {_words(error)}"
    verb = "changed" if isinstance(action, (Remove, ResizeClaim, Scale)) else "deleted"
    return f"{action.resource.kind} {action.name} was not {verb}: {_words(error)}"


def _words(error: OperatorError) -> str:
    if isinstance(error, ApiError) and error.message:
        return error.message
    return str(error)
