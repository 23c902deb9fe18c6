"""The PodDisruptionBudget of a cell with several instances."""

from __future__ import annotations

from typing import Any

from cellmesh_operator.decisions.cells import Cell
from cellmesh_operator.decisions.resources.metadata import child
from cellmesh_operator.naming import POD_DISRUPTION_BUDGETS, cell_selector


def build_pod_disruption_budget(cell: Cell) -> dict[str, Any] | None:
    """Return the budget: one instance at a time may be evicted. None for a single instance.

    With one instance a budget would either say nothing or block every node drain. An instance that is not
    ready may always be evicted: a cell that is broken anyway should not keep a node from being drained.
    """
    if cell.spec.replicas < 2:
        return None
    return {
        **child(cell, POD_DISRUPTION_BUDGETS),
        "spec": {
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": cell_selector(cell.name)},
        },
    }
