"""Cells and pods as the API server tells them: the little that discovery needs of each. Pure.

Nothing else of an object is kept, so that a mesh of thousands fits into little memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from cellmesh.protocol.fields import is_cell_id
from cellmesh_operator.discovery.records import PeerRecord, record_of
from cellmesh_operator.naming import CELL_LABEL, PORT_NAME, STATEFUL_SETS, pod_name

_encode = msgspec.json.encode


@dataclass(frozen=True, slots=True)
class CellFacts:
    """A Cell: what peers are told of each of its instances."""

    namespace: str
    name: str
    type: str | None = None
    branch: str | None = None
    services: tuple[str, ...] | None = None
    durability: str | None = None
    replicas: int | None = None
    """How many instances it should have; told of the cell, not of each instance."""


@dataclass(frozen=True, slots=True)
class PodFacts:
    """A pod that serves: Ready, not terminating, with an address. ``cell`` is the name of the Cell it says it is of."""

    namespace: str
    name: str
    uid: str
    cell: str
    ip: str
    port: int


class _Owner(msgspec.Struct):
    apiVersion: str  # noqa: N815 - as Kubernetes has it, here and below
    kind: str
    name: str
    controller: bool = False


class _Meta(msgspec.Struct):
    name: str
    namespace: str
    uid: str = ""
    labels: dict[str, str] | None = None
    ownerReferences: list[_Owner] | None = None  # noqa: N815
    deletionTimestamp: str | None = None  # noqa: N815


class _Storage(msgspec.Struct):
    ephemeral: dict[str, Any] | None = None


class _CellSpec(msgspec.Struct):
    type: str | None = None
    branch: str | None = None
    services: list[str] | None = None
    storage: _Storage | None = None
    replicas: int = 1


class _Cell(msgspec.Struct):
    metadata: _Meta
    spec: _CellSpec = msgspec.field(default_factory=_CellSpec)


class _Port(msgspec.Struct):
    containerPort: int  # noqa: N815
    name: str | None = None


class _Container(msgspec.Struct):
    ports: list[_Port] | None = None


class _PodSpec(msgspec.Struct):
    containers: list[_Container]


class _Condition(msgspec.Struct):
    type: str
    status: str


class _PodStatus(msgspec.Struct):
    podIP: str | None = None  # noqa: N815
    conditions: list[_Condition] | None = None


class _Pod(msgspec.Struct):
    metadata: _Meta
    spec: _PodSpec
    status: _PodStatus = msgspec.field(default_factory=_PodStatus)


def read_cell(item: dict[str, Any]) -> CellFacts | None:
    """Return what is needed of a Cell; None for one that no cell can be named after, or that cannot be read."""
    try:
        cell = msgspec.convert(item, _Cell)
    except msgspec.ValidationError:
        return None
    metadata, spec = cell.metadata, cell.spec
    if not is_cell_id(metadata.name):
        return None
    services = None if spec.services is None else tuple(spec.services)
    kept = spec.storage is None or spec.storage.ephemeral is None
    return CellFacts(
        metadata.namespace,
        metadata.name,
        spec.type,
        spec.branch,
        services,
        durability="volume" if kept else "ephemeral",
        replicas=spec.replicas,
    )


def read_pod(item: dict[str, Any]) -> PodFacts | None:
    """Return what is needed of a pod that serves as an instance of a Cell; None for any other pod.

    An instance bears the Cell's label and is controlled by the StatefulSet of the Cell's name, or will be: while
    storage grows, the StatefulSet is made anew around its pods, which have no controller until it adopts them. The
    port is the container port named ``cell``, so that old and new ports live side by side in a rollout.
    """
    try:
        pod = msgspec.convert(item, _Pod)
    except msgspec.ValidationError:
        return None
    metadata, status = pod.metadata, pod.status
    cell = (metadata.labels or {}).get(CELL_LABEL, "")
    port = _port(pod.spec)
    ready = any(condition.type == "Ready" and condition.status == "True" for condition in status.conditions or ())
    if not (cell and _controlled(metadata, cell) and ready and status.podIP and port):
        return None
    if metadata.deletionTimestamp is not None:
        return None
    return PodFacts(metadata.namespace, metadata.name, metadata.uid, cell, status.podIP, port)


def peer_of(cell: CellFacts, pod: PodFacts) -> PeerRecord:
    """Return the peer that a pod of a Cell is."""
    fields: dict[str, object] = {
        "cell_id": cell.name,
        "ip": pod.ip,
        "port": pod.port,
        "hostname": pod.name,
        "type": cell.type,
        "branch": cell.branch,
        "services": cell.services,
        "namespace": pod.namespace,
        "instance": pod.name,
        "uid": pod.uid,
        "source": "pod",
        "durability": cell.durability,
    }
    texts = {name: _encode(value) for name, value in fields.items() if value is not None}
    return record_of(cell.name, pod.name, pod.uid, texts)


def _controlled(metadata: _Meta, cell: str) -> bool:
    controllers = [owner for owner in metadata.ownerReferences or () if owner.controller]
    if not controllers:
        return _adoptable(metadata.name, cell)
    return any(
        owner.name == cell and owner.kind == STATEFUL_SETS.kind and owner.apiVersion == STATEFUL_SETS.api_version
        for owner in controllers
    )


def _adoptable(pod: str, cell: str) -> bool:
    """Tell whether the Cell's StatefulSet would adopt a pod of this name: with an ordinal behind its own."""
    start, _, ordinal = pod.rpartition("-")
    return start == cell and ordinal.isdecimal() and pod == pod_name(cell, int(ordinal))


def _port(spec: _PodSpec) -> int | None:
    ports = (port for container in spec.containers for port in container.ports or ())
    return next((port.containerPort for port in ports if port.name == PORT_NAME), None)
