"""The ServiceAccount that a cell's pods run under."""

from __future__ import annotations

from typing import Any

from cellmesh_operator.decisions.cells import Cell
from cellmesh_operator.decisions.resources.metadata import child
from cellmesh_operator.naming import OWN_PREFIX, SERVICE_ACCOUNTS


def build_service_account(cell: Cell) -> dict[str, Any]:
    """Return the ServiceAccount: an identity of the cell's own, without a token, since cells ask no API server."""
    given = cell.spec.service_account_annotations
    annotations = {name: value for name, value in given.items() if not name.startswith(OWN_PREFIX)}
    return {**child(cell, SERVICE_ACCOUNTS, annotations=annotations), "automountServiceAccountToken": False}
