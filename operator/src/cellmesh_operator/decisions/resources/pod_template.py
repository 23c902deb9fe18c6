"""The pods of a cell: what an instance runs as, within the Pod Security Standard ``restricted``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from cellmesh_operator.decisions.actions import BuildSettings
from cellmesh_operator.decisions.cells import Cell, Ephemeral
from cellmesh_operator.decisions.resources.environment import build_environment
from cellmesh_operator.naming import (
    CONTAINER,
    DATA_MOUNT,
    OWN_PREFIX,
    PORT_NAME,
    TMP_VOLUME,
    UID,
    VOLUME,
    cell_labels,
    cell_selector,
)

#: Seconds between SIGTERM and SIGKILL: the cell's drain of 25 s and what follows it.
GRACE: Final = 35
#: Requests of a cell that says nothing: what an idle one uses, with room. No limits: a memory limit that is too
#: low kills a cell under load, and only its author knows what its handlers need.
DEFAULT_RESOURCES: Final = {"requests": {"cpu": "50m", "memory": "96Mi"}}
#: Scratch space beside the read-only root file system; SQLite and Python put little there.
TMP_SIZE: Final = "64Mi"

#: What every container of the pod is held to unless its author says otherwise.
_CONFINED: Final[Mapping[str, Any]] = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def build_pod_template(cell: Cell, settings: BuildSettings) -> dict[str, Any]:
    """Return the pod template.

    Nothing in it depends on the number of instances: scaling must not restart those that are there.
    """
    template = cell.spec.template
    metadata = template.get("metadata") or {}
    annotations = _foreign(metadata.get("annotations"))
    grace = template.get("terminationGracePeriodSeconds", GRACE)
    spec: dict[str, Any] = {
        "serviceAccountName": cell.name,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": grace,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": UID,
            "runAsGroup": UID,
            "fsGroup": UID,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            _cell_container(cell, settings, grace),
            *(_confined(container) for container in template.get("containers") or ()),
        ],
        "volumes": [*_own_volumes(cell), *(template.get("volumes") or ())],
        "topologySpreadConstraints": template.get("topologySpreadConstraints", _spread(cell)),
    }
    if template.get("initContainers"):
        spec["initContainers"] = [_confined(container) for container in template["initContainers"]]
    spec |= {name: template[name] for name in _AS_WRITTEN if name in template}
    return {
        "metadata": {
            "labels": {**_foreign(metadata.get("labels")), **cell_labels(cell.name)},
            **({"annotations": annotations} if annotations else {}),
        },
        "spec": spec,
    }


#: Fields of ``spec.template`` that stand in the pod's spec as they are.
_AS_WRITTEN: Final = (
    "nodeSelector",
    "tolerations",
    "affinity",
    "imagePullSecrets",
    "priorityClassName",
    "runtimeClassName",
    "dnsConfig",
)


def _cell_container(cell: Cell, settings: BuildSettings, grace: int) -> dict[str, Any]:
    spec = cell.spec
    container: dict[str, Any] = {
        "name": CONTAINER,
        "image": spec.image or settings.cell_image,
        "ports": [{"name": PORT_NAME, "containerPort": spec.port, "protocol": "TCP"}],
        "env": build_environment(cell, settings, grace=grace),
        "resources": spec.resources or DEFAULT_RESOURCES,
        "volumeMounts": _mounts(spec.volume_mounts),
        "securityContext": {**_CONFINED, "readOnlyRootFilesystem": True},
        # Opening an inbox may take a while: after a crash its journal is played back and checked.
        "startupProbe": _probe("/livez", period=1, timeout=1, failures=300),
        "readinessProbe": _probe("/readyz", period=1, timeout=1, failures=3),
        # Slow on purpose: killing an instance because its disk is slow for some seconds makes nothing better.
        "livenessProbe": _probe("/livez", period=10, timeout=5, failures=6),
    }
    if policy := spec.image_pull_policy or settings.image_pull_policy:
        container["imagePullPolicy"] = policy
    if spec.env_from:
        container["envFrom"] = list(spec.env_from)
    return container


def _probe(path: str, *, period: int, timeout: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": PORT_NAME, "scheme": "HTTP"},
        "periodSeconds": period,
        "timeoutSeconds": timeout,
        "failureThreshold": failures,
    }


def _mounts(given: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the inbox, a /tmp unless the author mounts one, and the author's mounts."""
    own: list[Mapping[str, Any]] = [{"name": VOLUME, "mountPath": DATA_MOUNT}]
    if all(str(mount.get("mountPath")).rstrip("/") != "/tmp" for mount in given):  # noqa: S108 - a mount point
        own.append({"name": TMP_VOLUME, "mountPath": "/tmp"})  # noqa: S108
    return [*own, *given]


def _own_volumes(cell: Cell) -> list[dict[str, Any]]:
    """Return the volumes besides those that the StatefulSet makes from claims."""
    tmp = {"name": TMP_VOLUME, "emptyDir": {"sizeLimit": TMP_SIZE}}
    storage = cell.spec.storage
    if not isinstance(storage, Ephemeral):
        return [tmp]
    return [{"name": VOLUME, "emptyDir": {"sizeLimit": storage.size_limit} if storage.size_limit else {}}, tmp]


def _confined(container: Mapping[str, Any]) -> dict[str, Any]:
    """Return an author's container held to ``restricted`` in what it leaves open."""
    given = container.get("securityContext") or {}
    capabilities = {**_CONFINED["capabilities"], **(given.get("capabilities") or {})}
    return {**container, "securityContext": {**_CONFINED, **given, "capabilities": capabilities}}


def _spread(cell: Cell) -> list[dict[str, Any]]:
    """Return the wish, no more, that instances run on different nodes and in different zones."""
    return [
        {
            "maxSkew": 1,
            "topologyKey": key,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": cell_selector(cell.name)},
        }
        for key in ("kubernetes.io/hostname", "topology.kubernetes.io/zone")
    ]


def _foreign(given: Mapping[str, str] | None) -> dict[str, str]:
    return {name: value for name, value in (given or {}).items() if not name.startswith(OWN_PREFIX)}
