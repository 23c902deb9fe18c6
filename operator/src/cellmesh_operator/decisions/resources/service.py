"""The headless Service that gives a cell and its pods names in DNS."""

from __future__ import annotations

from typing import Any

from cellmesh_operator.decisions.cells import Cell
from cellmesh_operator.decisions.resources.metadata import child
from cellmesh_operator.naming import PORT_NAME, SERVICES, cell_selector


def build_service(cell: Cell) -> dict[str, Any]:
    """Return the Service.

    It is for people and programs outside the mesh; cells find each other through discovery, by address. So
    names resolve to instances that are ready and to no others: instances do not look for each other by DNS
    while they start, which is what publishing those that are not ready would be for.
    """
    return {
        **child(cell, SERVICES),
        "spec": {
            "type": "ClusterIP",
            "clusterIP": "None",
            "publishNotReadyAddresses": False,
            "selector": cell_selector(cell.name),
            "ports": [
                {
                    "name": PORT_NAME,
                    "port": cell.spec.port,
                    "targetPort": PORT_NAME,
                    "protocol": "TCP",
                    "appProtocol": "http",
                }
            ],
        },
    }
