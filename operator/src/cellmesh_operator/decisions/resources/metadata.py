"""Metadata of a Cell's children."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cellmesh_operator.decisions.cells import Cell
from cellmesh_operator.naming import API_VERSION, KIND, Resource, cell_labels


def child(cell: Cell, resource: Resource, *, annotations: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return kind and metadata of a child: it bears the Cell's name and is owned by it."""
    metadata: dict[str, Any] = {
        "name": cell.name,
        "namespace": cell.namespace,
        "labels": cell_labels(cell.name),
        "ownerReferences": [owner_reference(cell)],
    }
    if annotations:
        metadata["annotations"] = dict(annotations)
    return {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata}


def owner_reference(cell: Cell) -> dict[str, Any]:
    """Return what makes an object the Cell's: garbage-collected with it, and adopted by nobody else.

    ``blockOwnerDeletion`` is false. It would only make a foreground deletion of the Cell wait for its
    children, and where the admission plugin OwnerReferencesPermissionEnforcement is on it takes the right to
    update the finalizers of Cells, which the reconciler has no other use for.
    """
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": cell.name,
        "uid": cell.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }
