"""The status of a Cell: numbers and conditions, with the semantics that kstatus gives them.

Nothing in it changes unless something has changed: a condition keeps its time while its status stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cellmesh_operator.decisions import reasons
from cellmesh_operator.decisions.actions import Object
from cellmesh_operator.decisions.cells import Cell
from cellmesh_operator.decisions.instances import Instances
from cellmesh_operator.decisions.left_behind import Left, reason_and_message
from cellmesh_operator.decisions.storage import StorageState
from cellmesh_operator.decisions.troubles import Trouble

#: Fields named in a message at most.
_PATHS: Final = 5


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What there is to be said of a Cell once the actions decided on are done."""

    instances: Instances
    storage: StorageState
    trouble: Trouble | None = None
    left: tuple[Left, ...] = ()
    """What instances have left behind."""
    conflicts: tuple[str, ...] = ()
    """Objects that bear a child's name and are somebody else's."""
    leaving: tuple[str, ...] = ()
    """Objects of a child's name that have to go first."""
    held: str | None = None
    """What the operator would change and may not yet."""
    changed: tuple[str, ...] = ()
    """Fields that others have changed since they were applied."""
    unsettled: bool = False
    """The StatefulSet is about to change, so that what is seen of its instances is from before."""


@dataclass(frozen=True)
class State:
    """A condition but for its generation and time."""

    status: bool
    reason: str
    message: str


States = Mapping[str, State]


def states(picture: Picture) -> dict[str, State]:
    """Return the conditions of a Cell by type; those only present while true are absent otherwise."""
    ready = _ready(picture)
    found = {
        reasons.READY: ready,
        reasons.AVAILABLE: _available(picture.instances),
        reasons.STORAGE_READY: State(picture.storage.ready, picture.storage.reason, picture.storage.message),
        reasons.UP_TO_DATE: _up_to_date(picture),
    }
    if picture.conflicts or (not ready.status and ready.reason in reasons.HOPELESS):
        found[reasons.STALLED] = State(True, ready.reason, ready.message)
    elif under_way := _under_way(picture, ready):
        found[reasons.RECONCILING] = under_way
    if picture.left:
        found[reasons.MESSAGES_LEFT] = State(True, *reason_and_message(picture.left))
    return found


def status(
    cell: Cell, found: Instances, states: States, left: Sequence[Object], *, observed_generation: int, now: str
) -> dict[str, Any]:
    """Return the status to be reported.

    Args:
        cell: the Cell with the status reported last; conditions keep their time from there.
        found: its instances.
        states: its conditions.
        left: entries for what instances have left behind.
        observed_generation: the generation that has been acted on.
        now: the time for conditions whose status changes, RFC 3339 in UTC.

    """
    return {
        "observedGeneration": observed_generation,
        "replicas": found.present,
        "readyReplicas": found.ready,
        "selector": cell.selector,
        "conditions": [_condition(cell, kind, states[kind], now) for kind in reasons.CONDITIONS if kind in states],
        **({"messagesLeft": [*left]} if left else {}),
    }


def reported(cell: Object, status: Mapping[str, Any]) -> bool:
    """Tell whether a Cell object already bears a status, so that nothing need be written.

    The order of conditions says nothing, nor do fields and conditions that are not ours.
    """
    there = cell.get("status") or {}
    if (there.get("messagesLeft") or []) != status.get("messagesLeft", []):
        return False
    if any(there.get(name) != value for name, value in status.items() if name != "conditions"):
        return False
    ours = {item["type"]: item for item in status.get("conditions", ())}
    live = {item.get("type"): item for item in there.get("conditions") or ()}
    return {kind: live[kind] for kind in reasons.CONDITIONS if kind in live} == ours


def _condition(cell: Cell, kind: str, state: State, now: str) -> dict[str, Any]:
    value = "True" if state.status else "False"
    before = cell.condition(kind) or {}
    kept = before.get("lastTransitionTime") if before.get("status") == value else None
    return {
        "type": kind,
        "status": value,
        "observedGeneration": cell.generation,
        "lastTransitionTime": kept or now,
        "reason": state.reason,
        "message": reasons.cut(state.message),
    }


def _ready(picture: Picture) -> State:
    found = picture.instances
    if picture.conflicts:
        return State(
            False,
            reasons.NAME_CONFLICT,
            f"{_names(picture.conflicts)} of this name belongs to somebody else and is left alone; "
            "delete it, or give the Cell another name",
        )
    if picture.leaving:
        return State(False, reasons.WAITING_FOR_DELETION, f"{_names(picture.leaving)} must be gone first")
    if not found.wanted:
        return State(True, reasons.SCALED_TO_ZERO, "no instances are wanted")
    count = f"{found.wanted_ready} of {found.wanted} instances ready"
    if picture.unsettled:
        return State(False, reasons.ROLLING_OUT if found.all else reasons.STARTING, count)
    if found.fresh == found.wanted:
        return State(True, reasons.INSTANCES_READY, count)
    if found.outdated:
        count = f"{count}, {found.updated} updated"
    if picture.trouble is not None:
        return State(False, picture.trouble.reason, f"{count}; {picture.trouble.message}")
    return State(False, reasons.ROLLING_OUT if found.outdated else reasons.STARTING, count)


def _available(found: Instances) -> State:
    if found.ready:
        return State(True, reasons.INSTANCE_READY, "at least one instance is ready")
    if not found.wanted:
        return State(False, reasons.SCALED_TO_ZERO, "no instances are wanted")
    return State(False, reasons.NO_INSTANCE_READY, "no instance is ready")


def _up_to_date(picture: Picture) -> State:
    if picture.conflicts:
        return State(False, reasons.NAME_CONFLICT, f"{_names(picture.conflicts)} is not this Cell's")
    if picture.leaving:
        return State(False, reasons.WAITING_FOR_DELETION, f"{_names(picture.leaving)} must be gone first")
    if picture.held is not None:
        return State(False, reasons.WAITING_FOR_ROLLOUT, picture.held)
    if picture.changed:
        return State(False, reasons.FIELDS_CHANGED, changed_message(picture.changed))
    return State(True, reasons.APPLIED, "the children are as this operator makes them")


def changed_message(paths: tuple[str, ...]) -> str:
    """Return what is said of fields that others have changed."""
    named = ", ".join(paths[:_PATHS]) + (f" and {len(paths) - _PATHS} more" if len(paths) > _PATHS else "")
    return f"changed by others and set back: {named}"


def _under_way(picture: Picture, ready: State) -> State | None:
    if not ready.status:
        return State(True, ready.reason, ready.message)
    if picture.unsettled:
        return State(True, reasons.ROLLING_OUT, "a change of the StatefulSet is under way")
    if picture.instances.superfluous:
        return State(True, reasons.SCALING_DOWN, f"instances beyond {picture.instances.wanted} are stopping")
    if picture.storage.reason == reasons.RESIZING:
        return State(True, reasons.RESIZING, picture.storage.message)
    return None


def _names(kinds: tuple[str, ...]) -> str:
    return "the " + " and the ".join(kinds)
