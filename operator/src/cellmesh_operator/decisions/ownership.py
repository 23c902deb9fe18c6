"""Whose a child is: only what this very Cell controls is ever written to."""

from __future__ import annotations

from enum import Enum, auto
from typing import Any

from cellmesh_operator.decisions.actions import Object
from cellmesh_operator.decisions.cells import Cell
from cellmesh_operator.naming import API_VERSION, KIND


class Standing(Enum):
    """How an object of a child's name stands to the Cell."""

    ABSENT = auto()
    OURS = auto()
    LEAVING = auto()
    """It will go by itself: it is being deleted, or belongs to a former Cell of this name."""
    FOREIGN = auto()


def standing(live: Object | None, cell: Cell) -> Standing:
    """Return how an object that bears a child's name stands to the Cell."""
    if live is None:
        return Standing.ABSENT
    metadata = live["metadata"]
    owner = controller(live)
    if metadata.get("deletionTimestamp") is not None:
        return Standing.LEAVING
    if owner is not None and owner.get("uid") == cell.uid:
        return Standing.OURS
    if owner is not None and _is_cell(owner, cell.name):
        return Standing.LEAVING
    return Standing.FOREIGN


def controller(live: Object) -> Object | None:
    """Return the owner reference of an object's controller, if it has one."""
    for reference in live["metadata"].get("ownerReferences") or ():
        if reference.get("controller"):
            found: Object = reference
            return found
    return None


def _is_cell(owner: Any, name: str) -> bool:
    return (owner.get("apiVersion"), owner.get("kind"), owner.get("name")) == (API_VERSION, KIND, name)
