"""The mesh of a chaos run on a cluster: its Cells, their instances, and where these are.

alpha, beta      send; beta's outbox is ephemeral    pure    two instances, receive (a third while it is scaled up)
solo             receives, alone                     light   two ephemeral instances, receive; counted apart
bystander        a Cell pure in another namespace: receives nothing
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from e2e.clusters import SOON
from e2e.spaces import VOLUME, Space, cell, spread
from support import eventually

#: How many instances a Cell has that is scaled up.
MORE = 3


@dataclass(frozen=True)
class Role:
    """One instance that is part of the mesh.

    Attributes:
        instance: its name in the ledger; its pod's, but for the bystander.
        cell: of which cell.
        sends: whether messages are sent by it.
        receives: whether messages are sent to it.
        ephemeral: whether its messages go with its pod.
        spare: whether it is there only while its Cell is scaled up.
        elsewhere: whether it is in the other namespace.

    """

    instance: str
    cell: str
    sends: bool = False
    receives: bool = False
    ephemeral: bool = False
    spare: bool = False
    elsewhere: bool = False

    @property
    def pod(self) -> str:
        """Name of its pod."""
        return f"{self.cell}-0" if self.elsewhere else self.instance


ROLES = (
    Role("alpha-0", "alpha", sends=True),
    Role("beta-0", "beta", sends=True, ephemeral=True),
    Role("pure-0", "pure", receives=True),
    Role("pure-1", "pure", receives=True),
    Role("pure-2", "pure", receives=True, spare=True),
    Role("solo-0", "solo", receives=True),
    Role("light-0", "light", receives=True, ephemeral=True),
    Role("light-1", "light", receives=True, ephemeral=True),
    Role("light-2", "light", receives=True, ephemeral=True, spare=True),
    Role("bystander-0", "pure", elsewhere=True, ephemeral=True),
)


class Cells:
    """The Cells of a run.

    Args:
        space: the namespace with the mesh.
        other: that of the bystander.

    """

    def __init__(self, space: Space, other: Space) -> None:
        self.space = space
        self.other = other
        self.cluster = space.cluster
        self.release = space.release
        self.roles = {role.instance: role for role in ROLES}

    def start(self) -> None:
        """Apply the Cells and wait until each is Ready and among the peers."""
        for place, manifests in ((self.space, self._manifests()), (self.other, [cell("pure")])):
            place.apply(*manifests)
        self.space.wait_ready()
        self.other.wait_ready()
        wanted = {role.instance for role in ROLES if not role.spare and not role.elsewhere}
        eventually(lambda: self.space.peers().keys() >= wanted, within=SOON, message="every instance to be a peer")

    def _manifests(self) -> Iterator[dict[str, Any]]:
        for name in sorted({role.cell for role in ROLES if not role.elsewhere}):
            usual = self.usual(name)
            ephemeral = any(role.ephemeral for role in ROLES if role.cell == name and not role.elsewhere)
            more = {} if ephemeral else {"storage": VOLUME, "template": {"topologySpreadConstraints": [spread(name)]}}
            yield cell(name, replicas=usual, **more)

    def usual(self, name: str) -> int:
        """Return how many instances a Cell has when it is not scaled up."""
        return sum(1 for role in ROLES if role.cell == name and not role.spare and not role.elsewhere)

    def scale(self, name: str, replicas: int) -> None:
        """Scale a Cell, and wait until it has so many pods and all are Ready."""
        self.space.kubectl("scale", "cell", name, f"--replicas={replicas}")
        eventually(lambda: len(self.space.pods(name)) == replicas, within=SOON, message=f"{replicas} pods of {name}")
        self.space.wait_ready(name)

    def pod(self, instance: str) -> dict[str, Any]:
        """Return the pod of an instance."""
        role = self.roles[instance]
        return (self.other if role.elsewhere else self.space).pod(role.pod)

    def uid(self, instance: str) -> str:
        """Return the uid of its pod."""
        return str(self.pod(instance)["metadata"]["uid"])

    def address(self, instance: str) -> str:
        """Return the IP address of its pod."""
        return str(self.pod(instance)["status"]["podIP"])

    def node(self, instance: str) -> str:
        """Return the node of its pod."""
        return str(self.pod(instance)["spec"]["nodeName"])

    def replace(self, instance: str, *how: str) -> None:
        """Delete the pod of an instance and wait until its successor is Ready."""
        role, before = self.roles[instance], self.uid(instance)
        place = self.other if role.elsewhere else self.space
        place.kubectl("delete", "pod", role.pod, "--wait=false", *how)
        place.wait_pod(role.pod, other_than=before)
