"""What the reconciler sees of a Cell, and what it is told to do: plain values between I/O and decisions.

Objects are dicts as the API server gives them. Nothing here is changed once it is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from cellmesh_operator.naming import CLAIMS, SPEC_HASH, STATEFUL_SETS, Resource

Object = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class BuildSettings:
    """Settings of the reconciler that go into the children of a Cell."""

    cell_image: str
    """Image of Cells that name none."""
    image_pull_policy: str = ""
    """Pull policy of Cells that name none: Always, IfNotPresent, Never; empty: the API server's default."""
    discovery_url: str = ""
    """Base URL of discovery, ``http://host:port``; the mesh is appended."""
    cluster_domain: str = "cluster.local"
    """Domain of the cluster's Services, for the names under which a cell answers."""
    max_concurrent: int = 5
    """Cells that an operator's change rolls out to at a time; here only said in a message."""


@dataclass(frozen=True, kw_only=True)
class Observed:
    """A Cell and all that belongs to it, as read at one time."""

    cell: Object
    service_account: Object | None = None
    service: Object | None = None
    stateful_set: Object | None = None
    pod_disruption_budget: Object | None = None
    pods: tuple[Object, ...] = ()
    """Pods that bear the Cell's label."""
    departed: tuple[Object, ...] = ()
    """Such pods that have gone since the last report, as they were last, if they have left last words."""
    claims: tuple[Object, ...] = ()
    """PersistentVolumeClaims that bear the Cell's label."""
    failures: tuple[Object, ...] = ()
    """Events with reason FailedCreate about the StatefulSet."""
    storage_classes: Mapping[str, Object] | None = None
    """StorageClasses by name; None where they may not be read (a reconciler with Roles only)."""


@dataclass(frozen=True)
class Apply:
    """Apply an object server-side, by force, under our field manager."""

    resource: Resource
    body: Object
    uid: str | None
    """Only this very object; None where there was none."""
    changed: tuple[str, ...] = ()
    """Fields that others have changed since this very body was applied. Not empty again and again: something,
    most likely a mutating webhook, changes them each time; wait longer each time."""


@dataclass(frozen=True)
class Remove:
    """Take away by a merge patch what others have added and an apply leaves in place."""

    resource: Resource
    namespace: str
    name: str
    uid: str
    patch: Object
    """The merge patch; its metadata holds the uid, so that another object is refused with a conflict."""
    changed: tuple[str, ...] = ()
    """The fields that others have added; see ``Apply.changed``."""


@dataclass(frozen=True)
class Delete:
    """Delete an object."""

    resource: Resource
    namespace: str
    name: str
    uid: str
    orphan: bool = False
    """Leave what the object owns."""


@dataclass(frozen=True)
class ResizeClaim:
    """Ask for more storage: a merge patch of ``spec.resources.requests.storage``."""

    name: str
    namespace: str
    size: str

    @property
    def patch(self) -> Object:
        """The merge patch."""
        return {"spec": {"resources": {"requests": {"storage": self.size}}}}

    @property
    def resource(self) -> Resource:
        """The kind of the object that is patched."""
        return CLAIMS


@dataclass(frozen=True)
class Scale:
    """Change the number of instances alone, by a merge patch: the rest of the StatefulSet waits for its turn."""

    name: str
    namespace: str
    uid: str
    replicas: int
    spec_hash: str
    """The spec that asks for so many: from now on what differs comes from the operator again."""

    @property
    def patch(self) -> Object:
        """The merge patch; its metadata holds the uid, so that another object is refused with a conflict."""
        metadata = {"uid": self.uid, "annotations": {SPEC_HASH: self.spec_hash}}
        return {"metadata": metadata, "spec": {"replicas": self.replicas}}

    @property
    def resource(self) -> Resource:
        """The kind of the object that is patched."""
        return STATEFUL_SETS


Action = Apply | Remove | Delete | ResizeClaim | Scale


@dataclass(frozen=True)
class Notice:
    """An Event to be reported on the Cell."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What to do now, and what to say."""

    actions: tuple[Action, ...] = ()
    """In this order; after one has failed the rest is not tried."""
    status: Mapping[str, Any] = field(default_factory=dict)
    """Status of the Cell once the actions are done; the one observed, unchanged, if nothing is to be said."""
    notices: tuple[Notice, ...] = ()
    from_operator: bool = False
    """The children differ from what this operator builds though the Cell has not changed: a rollout needs a slot.
    Without one the actions leave the StatefulSet as it is, but for the number of its instances."""

    @property
    def changed(self) -> tuple[str, ...]:
        """The fields that others have changed behind our back and that the actions set right."""
        return tuple(path for action in self.actions if isinstance(action, (Apply, Remove)) for path in action.changed)
