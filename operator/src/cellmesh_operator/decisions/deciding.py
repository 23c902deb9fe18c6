"""What should be done for a Cell, as a pure function of what is observed.

``decide`` compares each child with what it should be; ``failures`` says what to report when the API server
would not have it. Both look at the whole state each time and remember nothing but what stands in the objects
themselves: the hash of what was applied, the hash of the spec it was built from, and the Cell's status.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cellmesh_operator.decisions import conditions, reasons
from cellmesh_operator.decisions.actions import (
    Action,
    Apply,
    BuildSettings,
    Decision,
    Delete,
    Notice,
    Object,
    Observed,
    Remove,
    ResizeClaim,
    Scale,
)
from cellmesh_operator.decisions.cells import Cell, read_cell
from cellmesh_operator.decisions.comparing import Additions, additions, changed
from cellmesh_operator.decisions.failures import failed, failure_notice
from cellmesh_operator.decisions.hashing import applied_hash, sealed, spec_hash
from cellmesh_operator.decisions.instances import instances
from cellmesh_operator.decisions.left_behind import entries_are_news, left_behind
from cellmesh_operator.decisions.ownership import Standing, standing
from cellmesh_operator.decisions.resources import (
    build_pod_disruption_budget,
    build_service,
    build_service_account,
    build_stateful_set,
)
from cellmesh_operator.decisions.resources.stateful_set import IMMUTABLE
from cellmesh_operator.decisions.storage import Growth, plan_growth, storage_state
from cellmesh_operator.decisions.troubles import find_trouble
from cellmesh_operator.naming import (
    APPLIED_HASH,
    POD_DISRUPTION_BUDGETS,
    SERVICE_ACCOUNTS,
    SERVICES,
    SPEC_HASH,
    STATEFUL_SETS,
    Resource,
)

__all__ = [
    "Action",
    "Apply",
    "BuildSettings",
    "Decision",
    "Delete",
    "Notice",
    "Observed",
    "Remove",
    "ResizeClaim",
    "Scale",
    "decide",
    "failed",
    "failure_notice",
]


@dataclass(kw_only=True)
class _Plan:
    """What comes out of comparing the children, gathered one after the other."""

    actions: list[Action] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    leaving: list[str] = field(default_factory=list)
    from_operator: bool = False
    held: bool = False
    unsettled: bool = False

    @property
    def changed(self) -> tuple[str, ...]:
        return Decision(actions=tuple(self.actions)).changed


@dataclass(frozen=True, kw_only=True)
class _Child:
    resource: Resource
    live: Object | None
    desired: Mapping[str, Any] | None
    """None: not wanted."""


def decide(observed: Observed, settings: BuildSettings, *, may_roll_out: bool, now: str) -> Decision:
    """Return what to do for a Cell and what to report of it.

    Args:
        observed: the Cell and all that belongs to it.
        settings: what the reconciler adds to its children.
        may_roll_out: changes that come from the operator and not from the Cell may be made now.
        now: the time for conditions that change, RFC 3339 in UTC.

    """
    cell = read_cell(observed.cell)
    if cell.deleting:
        # The garbage collector takes the children.
        return Decision(status=cell.status)
    growth = plan_growth(cell, observed)
    plan = _compare(cell, observed, settings, growth, may_roll_out=may_roll_out)
    states, status = _report(cell, observed, settings, growth, plan, now)
    return Decision(
        actions=tuple(plan.actions),
        status=status,
        notices=tuple(_notices(cell, states, status, plan)),
        from_operator=plan.from_operator,
    )


def _compare(cell: Cell, observed: Observed, settings: BuildSettings, growth: Growth, *, may_roll_out: bool) -> _Plan:
    plan = _Plan()
    children = _children(cell, observed, settings, growth)
    plan.from_operator = _differs_by_operator(cell, observed, settings, growth)
    plan.held = plan.from_operator and not may_roll_out
    for child in children:
        _compare_child(cell, child, plan)
    plan.actions += growth.resizes
    return plan


def _children(cell: Cell, observed: Observed, settings: BuildSettings, growth: Growth) -> list[_Child]:
    stateful_set = sealed(build_stateful_set(cell, settings, size=growth.size))
    budget = build_pod_disruption_budget(cell)
    return [
        _Child(resource=SERVICE_ACCOUNTS, live=observed.service_account, desired=sealed(build_service_account(cell))),
        _Child(resource=SERVICES, live=observed.service, desired=sealed(build_service(cell))),
        _Child(
            resource=POD_DISRUPTION_BUDGETS,
            live=observed.pod_disruption_budget,
            desired=sealed(budget) if budget else None,
        ),
        _Child(resource=STATEFUL_SETS, live=observed.stateful_set, desired=stateful_set),
    ]


def _differs_by_operator(cell: Cell, observed: Observed, settings: BuildSettings, growth: Growth) -> bool:
    """Tell whether the children were built from this very spec and would be built otherwise now.

    A spec that asks for another number of instances and is otherwise the same counts as this very one: changing
    the number restarts nothing, so it is no reason to let the operator's change out of turn.
    """
    live = observed.stateful_set
    if live is None or standing(live, cell) is not Standing.OURS:
        return False
    was = cell if spec_hash(live) == cell.spec_hash else _with_replicas_of(live, cell)
    if spec_hash(live) != was.spec_hash:
        return False
    outdated = [child for child in _children(was, observed, settings, growth) if _is_outdated(child, was)]
    if [child.resource for child in outdated] == [STATEFUL_SETS]:
        return applied_hash(live) != _hash_with_its_storage(live, was, settings)
    return bool(outdated)


def _with_replicas_of(live: Object, cell: Cell) -> Cell:
    return replace(cell, spec=replace(cell.spec, replicas=live["spec"].get("replicas", 1)))


def _is_outdated(child: _Child, cell: Cell) -> bool:
    if child.live is None or child.desired is None or standing(child.live, cell) is not Standing.OURS:
        return False
    return applied_hash(child.live) not in {None, applied_hash(child.desired)}


def _hash_with_its_storage(live: Object, cell: Cell, settings: BuildSettings) -> str | None:
    """Return the hash of the StatefulSet with the storage that it has: that it grows is the author's wish."""
    for template in live["spec"].get("volumeClaimTemplates") or ():
        size = str(template["spec"]["resources"]["requests"]["storage"])
        return applied_hash(sealed(build_stateful_set(cell, settings, size=size)))
    return None


def _compare_child(cell: Cell, child: _Child, plan: _Plan) -> None:
    kind, live, desired = child.resource.kind, child.live, child.desired
    how = standing(live, cell)
    if desired is None:
        if live is not None and how is Standing.OURS:
            plan.actions.append(Delete(child.resource, cell.namespace, cell.name, live["metadata"]["uid"]))
    elif how is Standing.LEAVING:
        plan.leaving.append(kind)
    elif how is Standing.FOREIGN:
        plan.conflicts.append(kind)
    elif live is None:
        _make(child, desired, plan)
    elif applied_hash(live) in {applied_hash(desired), None}:
        _repair(cell, child, live, desired, plan)
    elif not plan.held:
        _update(cell, child, live, desired, plan)
    elif child.resource == STATEFUL_SETS and spec_hash(live) != cell.spec_hash:
        plan.unsettled = True
        uid = live["metadata"]["uid"]
        plan.actions.append(Scale(cell.name, cell.namespace, uid, cell.spec.replicas, cell.spec_hash))


def _make(child: _Child, desired: Object, plan: _Plan) -> None:
    # Pods made now would run under a ServiceAccount that is somebody else's, or about to go.
    if child.resource == STATEFUL_SETS:
        plan.unsettled = True
        if {SERVICE_ACCOUNTS.kind} & {*plan.conflicts, *plan.leaving}:
            return
    plan.actions.append(Apply(child.resource, desired, None))


def _repair(cell: Cell, child: _Child, live: Object, desired: Object, plan: _Plan) -> None:
    """Set right what others have changed since this very object was applied, if they have."""
    kind, uid = child.resource.kind, live["metadata"]["uid"]
    paths = changed(desired, live)
    if child.resource == STATEFUL_SETS:
        if _cannot_be_updated(desired, live):
            _make_anew(cell, live, plan)
            return
        added = _pod_additions(desired, live)
        if added.paths:
            patch = {"metadata": {"uid": uid}, "spec": {"template": {"spec": added.patch}}}
            named = tuple(f"{kind} spec.template.spec.{path}" for path in added.paths)
            # First, since an apply could not go through: a volume, for one, may not have two sources.
            plan.actions.append(Remove(child.resource, cell.namespace, cell.name, uid, patch, named))
    if paths:
        plan.actions.append(Apply(child.resource, desired, uid, tuple(f"{kind} {path}" for path in paths)))


def _update(cell: Cell, child: _Child, live: Object, desired: Object, plan: _Plan) -> None:
    """Bring an object up to date that was applied otherwise."""
    if child.resource == STATEFUL_SETS:
        plan.unsettled = not _only_spec_hash_differs(desired, live)
        if _cannot_be_updated(desired, live):
            _make_anew(cell, live, plan)
            return
    plan.actions.append(Apply(child.resource, desired, live["metadata"]["uid"]))


def _only_spec_hash_differs(desired: Object, live: Object) -> bool:
    """Tell whether all that an apply would change of the StatefulSet is which spec it was built from."""
    metadata = desired["metadata"]
    annotations = {name: value for name, value in metadata["annotations"].items() if name != APPLIED_HASH}
    annotations[SPEC_HASH] = spec_hash(live)
    return applied_hash(sealed({**desired, "metadata": {**metadata, "annotations": annotations}})) == applied_hash(live)


def _make_anew(cell: Cell, live: Object, plan: _Plan) -> None:
    """Delete the StatefulSet and leave its pods; once it is gone it is applied, and takes them over."""
    plan.unsettled = True
    plan.actions.append(Delete(STATEFUL_SETS, cell.namespace, cell.name, live["metadata"]["uid"], orphan=True))


def _cannot_be_updated(desired: Object, live: Object) -> bool:
    want = {name: desired["spec"].get(name) for name in IMMUTABLE}
    have = {name: live["spec"].get(name) for name in IMMUTABLE}
    return bool(changed(want, have)) or len(want["volumeClaimTemplates"] or ()) != len(
        have["volumeClaimTemplates"] or ()
    )


def _pod_additions(desired: Object, live: Object) -> Additions:
    return additions(desired["spec"]["template"]["spec"], live["spec"]["template"]["spec"])


def _report(
    cell: Cell, observed: Observed, settings: BuildSettings, growth: Growth, plan: _Plan, now: str
) -> tuple[conditions.States, dict[str, Any]]:
    found = instances(cell, observed.pods, observed.stateful_set)
    storage = storage_state(cell, observed, growth)
    left = left_behind(cell, observed, found)
    entries = [item.as_status() for item in left]
    picture = conditions.Picture(
        instances=found,
        storage=storage,
        trouble=find_trouble(cell, found, observed.stateful_set, observed.failures, storage),
        left=left,
        conflicts=tuple(plan.conflicts),
        leaving=tuple(plan.leaving),
        held=(
            f"a change of the operator waits for its turn: at most {settings.max_concurrent} Cells at a time, and "
            "none while more than that are not ready"
            if plan.held
            else None
        ),
        changed=plan.changed,
        unsettled=plan.unsettled,
    )
    states = conditions.states(picture)
    return states, conditions.status(cell, found, states, entries, observed_generation=cell.generation, now=now)


def _notices(cell: Cell, states: conditions.States, status: Object, plan: _Plan) -> Iterator[Notice]:
    """Yield what has become different since the last report, worth an Event."""
    said = str((cell.condition(reasons.READY) or {}).get("reason", ""))
    ready = states[reasons.READY]
    bad = {*reasons.TROUBLES, reasons.NAME_CONFLICT}
    if ready.reason != said and ready.reason in bad:
        yield Notice("Warning", ready.reason, ready.message)
    elif ready.status and said in bad:
        yield Notice("Normal", reasons.RECOVERED, ready.message)
    storage = states[reasons.STORAGE_READY]
    if storage.reason not in {ready.reason, str((cell.condition(reasons.STORAGE_READY) or {}).get("reason", ""))}:
        if storage.reason in {reasons.EXPANSION_UNSUPPORTED, reasons.RESIZE_FAILED, reasons.CLAIM_LOST}:
            yield Notice("Warning", storage.reason, storage.message)
        elif storage.reason == reasons.RESIZING:
            yield Notice("Normal", storage.reason, storage.message)
    if entries_are_news(cell, status):
        left = states[reasons.MESSAGES_LEFT]
        yield Notice("Warning", left.reason, reasons.cut(left.message))
    if plan.changed:
        yield Notice("Warning", reasons.FIELDS_CHANGED, reasons.cut(conditions.changed_message(plan.changed)))
