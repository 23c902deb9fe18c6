"""The instances of a cell, as its pods and its StatefulSet show them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from cellmesh_operator.decisions.actions import Object
from cellmesh_operator.decisions.cells import Cell
from cellmesh_operator.decisions.ownership import controller

_REVISION_LABEL: Final = "controller-revision-hash"


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One pod of the cell."""

    ordinal: int
    pod: Object
    terminating: bool
    ready: bool
    """Ready, and not about to go."""

    @property
    def name(self) -> str:
        """Name of the pod."""
        name: str = self.pod["metadata"]["name"]
        return name

    def runs(self, revision: str | None) -> bool:
        """Tell whether the pod was made from a revision of the StatefulSet's template."""
        labels = self.pod["metadata"].get("labels") or {}
        return revision is not None and labels.get(_REVISION_LABEL) == revision


@dataclass(frozen=True, kw_only=True)
class Instances:
    """All pods of the cell, by ordinal, against what is wanted."""

    wanted: int
    all: tuple[Instance, ...]
    revision: str | None
    """The newest revision of the template; None while the StatefulSet's controller has not seen it."""

    @property
    def present(self) -> int:
        """How many there are that are not about to go."""
        return sum(not instance.terminating for instance in self.all)

    @property
    def ready(self) -> int:
        """How many are ready, wanted or not, of whatever revision."""
        return sum(instance.ready for instance in self.all)

    @property
    def wanted_ready(self) -> int:
        """How many of the wanted are ready, of whatever revision."""
        return sum(instance.ready for instance in self.all if self.wants(instance))

    @property
    def updated(self) -> int:
        """How many of the wanted are of the newest revision."""
        return sum(instance.runs(self.revision) for instance in self.all if self.wants(instance))

    @property
    def fresh(self) -> int:
        """How many of the wanted are ready and of the newest revision."""
        return sum(instance.ready and instance.runs(self.revision) for instance in self.all if self.wants(instance))

    @property
    def outdated(self) -> bool:
        """Tell whether one of the wanted still runs, or may run, an older revision."""
        return any(not instance.runs(self.revision) for instance in self.all if self.wants(instance))

    @property
    def superfluous(self) -> bool:
        """Tell whether there are more than wanted."""
        return any(not self.wants(instance) for instance in self.all)

    @property
    def missing(self) -> bool:
        """Tell whether a wanted one has no pod at all."""
        return len({instance.ordinal for instance in self.all if self.wants(instance)}) < self.wanted

    def wants(self, instance: Instance) -> bool:
        """Tell whether an instance is one of those that should be there."""
        return instance.ordinal < self.wanted

    def struggling(self) -> list[Instance]:
        """Return the wanted ones that are not ready, for whatever reason but their leaving."""
        return [item for item in self.all if self.wants(item) and not item.ready and not item.terminating]


def instances(cell: Cell, pods: tuple[Object, ...], stateful_set: Object | None) -> Instances:
    """Return the instances among the pods that bear the Cell's label: others may bear it too."""
    found = [_instance(pod, ordinal) for pod in pods if (ordinal := _ordinal(pod, cell)) is not None]
    return Instances(
        wanted=cell.spec.replicas,
        all=tuple(sorted(found, key=lambda instance: instance.ordinal)),
        revision=_revision(stateful_set),
    )


def ordinal_of(name: str, cell: Cell) -> int | None:
    """Return the ordinal in the name of an instance of the cell; None for another name."""
    prefix, _, ordinal = name.rpartition("-")
    return int(ordinal) if prefix == cell.name and ordinal.isascii() and ordinal.isdigit() else None


def pod_condition(pod: Object, kind: str) -> Object:
    """Return a condition of a pod; an empty one if it has none of that type."""
    for condition in (pod.get("status") or {}).get("conditions") or ():
        if condition.get("type") == kind:
            found: Object = condition
            return found
    return {}


def _ordinal(pod: Object, cell: Cell) -> int | None:
    metadata = pod["metadata"]
    owner = controller(pod)
    if owner is not None and (owner.get("kind"), owner.get("name")) != ("StatefulSet", cell.name):
        return None
    return ordinal_of(metadata["name"], cell)


def _instance(pod: Object, ordinal: int) -> Instance:
    terminating = pod["metadata"].get("deletionTimestamp") is not None
    ready = pod_condition(pod, "Ready").get("status") == "True"
    return Instance(ordinal=ordinal, pod=pod, terminating=terminating, ready=ready and not terminating)


def _revision(stateful_set: Object | None) -> str | None:
    if stateful_set is None:
        return None
    status: Any = stateful_set.get("status") or {}
    if status.get("observedGeneration", 0) < stateful_set["metadata"].get("generation", 0):
        return None
    revision: str | None = status.get("updateRevision") or None
    return revision
