"""Storage of a cell: whether its claims are there, and how they grow.

Growing takes two steps, each taken when it is seen to be possible, so that a reconciler that is stopped in
between goes on where it was: first each bound claim is asked for the new size; once all carry it, the
StatefulSet, whose claim templates cannot be changed, is deleted without its pods and made anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from cellmesh.protocol.quantities import quantity
from cellmesh_operator.decisions import reasons
from cellmesh_operator.decisions.actions import Object, Observed, ResizeClaim
from cellmesh_operator.decisions.cells import Cell, Volume
from cellmesh_operator.naming import VOLUME, claim_name, pod_name

_DEFAULT_CLASS: Final = "storageclass.kubernetes.io/is-default-class"


@dataclass(frozen=True, kw_only=True)
class Growth:
    """What is to be done about claims that are smaller than the Cell wants."""

    size: str | None = None
    """Size for the StatefulSet's claim template where it cannot be the Cell's yet."""
    resizes: tuple[ResizeClaim, ...] = ()
    refused: tuple[str, str] | None = None
    """Reason and message, where the claims cannot grow."""


@dataclass(frozen=True)
class StorageState:
    """Condition StorageReady."""

    ready: bool
    reason: str
    message: str


def plan_growth(cell: Cell, observed: Observed) -> Growth:
    """Return how the claims of a Cell get to the size that it asks for."""
    storage = cell.spec.storage
    if not isinstance(storage, Volume):
        return Growth()
    wanted = quantity(storage.size)
    small = [claim for claim in _claims(cell, observed) if _bound(claim) and _requested(claim) < wanted]
    if not small:
        return Growth()
    size = _template_size(observed.stateful_set)
    refused = _refused(cell, small, observed)
    if refused:
        return Growth(size=size, refused=refused)
    resizes = [ResizeClaim(claim["metadata"]["name"], cell.namespace, storage.size) for claim in small]
    return Growth(size=size, resizes=tuple(resizes))


def storage_state(cell: Cell, observed: Observed, growth: Growth) -> StorageState:
    """Return whether every wanted instance has the storage that it should have, and if not, why."""
    storage = cell.spec.storage
    if not isinstance(storage, Volume):
        return StorageState(True, reasons.EPHEMERAL, "inboxes last as long as their pods")
    if growth.refused:
        return StorageState(False, *growth.refused)
    claims = {claim["metadata"]["name"]: claim for claim in _claims(cell, observed)}
    names = [claim_name(pod_name(cell.name, ordinal)) for ordinal in range(cell.spec.replicas)]
    troubles = [state for name in names for state in _claim_troubles(claims.get(name), observed)]
    if troubles:
        return min(troubles, key=lambda state: _ORDER.index(state.reason))
    if growth.resizes:
        return StorageState(False, reasons.RESIZING, f"claims grow to {storage.size}")
    return StorageState(True, reasons.BOUND, "every claim is bound")


_ORDER: Final = (
    reasons.CLAIM_LOST,
    reasons.STORAGE_CLASS_MISSING,
    reasons.NO_STORAGE_CLASS,
    reasons.RESIZE_FAILED,
    reasons.CLAIM_PENDING,
    reasons.RESIZING,
)


def _claim_troubles(claim: Object | None, observed: Observed) -> Iterator[StorageState]:
    if claim is None or _phase(claim) == "Pending":
        yield _pending(claim, observed)
        return
    name = claim["metadata"]["name"]
    if _phase(claim) == "Lost":
        yield StorageState(
            False,
            reasons.CLAIM_LOST,
            f"the volume of claim {name} is gone; restore it, or delete the claim and its pod",
        )
        return
    status = claim.get("status") or {}
    states = (status.get("allocatedResourceStatuses") or {}).get("storage", "")
    failing = [
        condition
        for condition in status.get("conditions") or ()
        if str(condition.get("type")).endswith("ResizeError") and condition.get("status") == "True"
    ]
    if failing or str(states).endswith("Infeasible"):
        words = failing[0].get("message", "") if failing else states
        yield StorageState(False, reasons.RESIZE_FAILED, reasons.cut(f"claim {name} cannot grow: {words}"))
    elif _capacity(claim) < _requested(claim):
        yield StorageState(False, reasons.RESIZING, f"claim {name} is growing to {_request(claim)}")


def _pending(claim: Object | None, observed: Observed) -> StorageState:
    if claim is None:
        return StorageState(False, reasons.CLAIM_PENDING, "not every claim is bound yet")
    name, class_name = claim["metadata"]["name"], claim["spec"].get("storageClassName")
    classes = observed.storage_classes
    if classes is None or class_name == "":
        return StorageState(False, reasons.CLAIM_PENDING, "not every claim is bound yet")
    if class_name is None and not any(_is_default(item) for item in classes.values()):
        return StorageState(
            False,
            reasons.NO_STORAGE_CLASS,
            f"claim {name} waits: the Cell names no storage class and the cluster has no default one; "
            "make one the default, or delete the Cell and set spec.storage.className",
        )
    if class_name is not None and class_name not in classes:
        return StorageState(
            False,
            reasons.STORAGE_CLASS_MISSING,
            f"claim {name} waits: there is no StorageClass {class_name}; make it, or delete the Cell and name another",
        )
    return StorageState(False, reasons.CLAIM_PENDING, "not every claim is bound yet")


def _refused(cell: Cell, claims: list[Object], observed: Observed) -> tuple[str, str] | None:
    classes = observed.storage_classes
    if classes is None:
        # Nobody tells what the class allows, so the API server is asked, once for each generation of the Cell.
        said = cell.condition(reasons.STORAGE_READY) or {}
        tried = said.get("reason") == reasons.EXPANSION_REFUSED and said.get("observedGeneration") == cell.generation
        return (reasons.EXPANSION_REFUSED, str(said.get("message"))) if tried else None
    for claim in claims:
        class_name = claim["spec"].get("storageClassName") or ""
        if not (classes.get(class_name) or {}).get("allowVolumeExpansion"):
            which, remedy = "it has no StorageClass to allow expansion", "make another Cell"
            if class_name:
                which = f"its StorageClass {class_name} does not allow expansion"
                remedy = "set allowVolumeExpansion: true on that, if its driver can expand, or " + remedy
            return (
                reasons.EXPANSION_UNSUPPORTED,
                f"claim {claim['metadata']['name']} stays at {_request(claim)}: {which}; {remedy}",
            )
    return None


def _claims(cell: Cell, observed: Observed) -> list[Object]:
    prefix = claim_name(pod_name(cell.name, 0)).removesuffix("0")
    return sorted(
        (
            claim
            for claim in observed.claims
            if (name := str(claim["metadata"]["name"])).startswith(prefix)
            and name.removeprefix(prefix).isdigit()
            and claim["metadata"].get("deletionTimestamp") is None
        ),
        key=lambda claim: str(claim["metadata"]["name"]),
    )


def _template_size(stateful_set: Object | None) -> str | None:
    templates: list[Any] = ((stateful_set or {}).get("spec") or {}).get("volumeClaimTemplates") or []
    for template in templates:
        if template["metadata"]["name"] == VOLUME:
            return _request(template)
    return None


def _phase(claim: Object) -> str:
    return str((claim.get("status") or {}).get("phase") or "Pending")


def _bound(claim: Object) -> bool:
    return _phase(claim) == "Bound"


def _request(claim: Object) -> str:
    return str(((claim["spec"].get("resources") or {}).get("requests") or {}).get("storage", "0"))


def _requested(claim: Object) -> Any:
    return quantity(_request(claim))


def _capacity(claim: Object) -> Any:
    capacity = ((claim.get("status") or {}).get("capacity") or {}).get("storage")
    return quantity(capacity) if capacity is not None else _requested(claim)


def _is_default(storage_class: Object) -> bool:
    annotations = storage_class["metadata"].get("annotations") or {}
    return bool(annotations.get(_DEFAULT_CLASS) == "true")
