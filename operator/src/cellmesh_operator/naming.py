"""Names that other programs can see: kinds, labels, annotations, ports, volumes. Nowhere else are they written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

GROUP: Final = "cellmesh.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
KIND: Final = "Cell"
PLURAL: Final = "cells"

#: Whom the API server records as the owner of the fields we apply.
FIELD_MANAGER: Final = "cellmesh-reconciler"

#: On every child, pod and volume claim; its value is the Cell's name. The one label in selectors.
CELL_LABEL: Final = f"{GROUP}/cell"
#: Labels and annotations below this prefix are ours; users' templates may not set them.
OWN_PREFIX: Final = f"{GROUP}/"

#: Hash of what was applied: an object that bears it and still has our fields needs no write.
APPLIED_HASH: Final = f"{GROUP}/applied-hash"
#: Hash of the Cell's spec that an object was built from: tells an operator's change from a user's.
SPEC_HASH: Final = f"{GROUP}/spec-hash"

#: On the Leases by which replicas of discovery share registrations: what selects them, and the peer as JSON.
REGISTRATION_LABEL: Final = f"{GROUP}/registration"
PEER: Final = f"{GROUP}/peer"
#: Whom the API server records as the writer of those Leases.
DISCOVERY_MANAGER: Final = "cellmesh-discovery"

CONTAINER: Final = "cell"
PORT_NAME: Final = "cell"
VOLUME: Final = "inbox"
#: Volume of a writable /tmp beside the read-only root file system.
TMP_VOLUME: Final = "tmp"
DATA_MOUNT: Final = "/var/lib/cellmesh"
DATA_DIR: Final = f"{DATA_MOUNT}/inbox"

#: User and group of every process of ours, as in the images.
UID: Final = 65532


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of objects as the API server names it; ``group`` is empty for the core group."""

    group: str
    version: str
    plural: str
    kind: str

    @property
    def api_version(self) -> str:
        """What stands in ``apiVersion``."""
        return f"{self.group}/{self.version}" if self.group else self.version


CELLS: Final = Resource(GROUP, VERSION, PLURAL, KIND)
STATEFUL_SETS: Final = Resource("apps", "v1", "statefulsets", "StatefulSet")
SERVICES: Final = Resource("", "v1", "services", "Service")
SERVICE_ACCOUNTS: Final = Resource("", "v1", "serviceaccounts", "ServiceAccount")
POD_DISRUPTION_BUDGETS: Final = Resource("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget")
PODS: Final = Resource("", "v1", "pods", "Pod")
CLAIMS: Final = Resource("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim")
EVENTS: Final = Resource("", "v1", "events", "Event")
LEASES: Final = Resource("coordination.k8s.io", "v1", "leases", "Lease")
STORAGE_CLASSES: Final = Resource("storage.k8s.io", "v1", "storageclasses", "StorageClass")

#: The kinds whose objects we make for a Cell, in the order in which they are applied.
CHILDREN: Final = (SERVICE_ACCOUNTS, SERVICES, POD_DISRUPTION_BUDGETS, STATEFUL_SETS)


def cell_selector(cell: str) -> dict[str, str]:
    """Return the labels that select the pods of a cell; they never change, as selectors cannot."""
    return {CELL_LABEL: cell}


def cell_labels(cell: str) -> dict[str, str]:
    """Return the labels of everything that belongs to a cell."""
    return {
        CELL_LABEL: cell,
        "app.kubernetes.io/name": "cellmesh-cell",
        "app.kubernetes.io/instance": cell,
        "app.kubernetes.io/component": "cell",
        "app.kubernetes.io/part-of": "cellmesh",
        "app.kubernetes.io/managed-by": FIELD_MANAGER,
    }


def claim_name(pod: str) -> str:
    """Return the name of a pod's volume claim, as StatefulSets make it."""
    return f"{VOLUME}-{pod}"


def pod_name(cell: str, ordinal: int) -> str:
    """Return the name of an instance's pod, as StatefulSets make it."""
    return f"{cell}-{ordinal}"
