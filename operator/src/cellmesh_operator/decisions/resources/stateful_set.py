"""The StatefulSet of a cell: stable names, one inbox for each."""

from __future__ import annotations

from typing import Any

from cellmesh_operator.decisions.actions import BuildSettings
from cellmesh_operator.decisions.cells import Cell, Volume
from cellmesh_operator.decisions.resources.metadata import child
from cellmesh_operator.decisions.resources.pod_template import build_pod_template
from cellmesh_operator.naming import SPEC_HASH, STATEFUL_SETS, VOLUME, cell_labels, cell_selector

#: Fields of the spec that an API server does not let change: the StatefulSet must be made anew instead.
IMMUTABLE = ("serviceName", "podManagementPolicy", "selector", "volumeClaimTemplates")


def build_stateful_set(cell: Cell, settings: BuildSettings, *, size: str | None = None) -> dict[str, Any]:
    """Return the StatefulSet.

    Instances start in parallel: none waits for another, and with ``OrderedReady`` a bad image would stay
    even after it has been put right. Updates still go one instance at a time, highest ordinal first.

    Args:
        cell: the Cell.
        settings: what the reconciler adds.
        size: storage of each instance, in place of the Cell's: what it is while it cannot grow.

    """
    spec: dict[str, Any] = {
        "replicas": cell.spec.replicas,
        "serviceName": cell.name,
        "podManagementPolicy": "Parallel",
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
        "selector": {"matchLabels": cell_selector(cell.name)},
        "template": build_pod_template(cell, settings),
    }
    storage = cell.spec.storage
    if isinstance(storage, Volume):
        spec["volumeClaimTemplates"] = [_claim_template(cell, storage, size or storage.size)]
        spec["persistentVolumeClaimRetentionPolicy"] = {
            "whenDeleted": storage.when_deleted,
            "whenScaled": storage.when_scaled,
        }
    return {**child(cell, STATEFUL_SETS, annotations={SPEC_HASH: cell.spec_hash}), "spec": spec}


def _claim_template(cell: Cell, storage: Volume, size: str) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "accessModes": list(storage.access_modes),
        "resources": {"requests": {"storage": size}},
    }
    if storage.class_name is not None:
        spec["storageClassName"] = storage.class_name
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": VOLUME, "labels": cell_labels(cell.name)},
        "spec": spec,
    }
