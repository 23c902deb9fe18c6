"""The faults of a chaos run on a cluster: each is done to a victim, undone, and recovered from."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

from chaos.plan import Kind, Planned
from e2e.chaos import nodes
from e2e.chaos.cells import MORE, ROLES, Cells
from e2e.chaos.damage import RECOVERY, Damage, World
from e2e.chaos.flow import CONSUMERS, DEADLY
from e2e.releases import is_ready
from support import eventually

#: Seconds that the API server is away.
API_AWAY = 60.0


def _receivers(*, ephemeral: bool | None = None) -> list[tuple[str, ...]]:
    return [
        (role.instance,) for role in ROLES if role.receives and not role.spare and ephemeral in {None, role.ephemeral}
    ]


def _senders() -> list[tuple[str, ...]]:
    return [(role.instance,) for role in ROLES if role.sends]


class Signalled(Damage):
    """The process of an instance is sent a signal."""

    def send(self, name: str) -> None:
        """Send it."""
        nodes.signal(self.cluster, self.cells.node(self.victim), self.cells.uid(self.victim), name)


class ReceiverKilled(Signalled):
    """A receiver's process is killed; the kubelet starts it again, in the same pod."""

    kind = Kind("SIGKILL of a receiver", 3)

    @classmethod
    def victims(cls, cells: Cells) -> Sequence[tuple[str, ...]]:
        return _receivers()

    def inject(self) -> None:
        self.send("KILL")


class SenderKilled(Signalled):
    """A sender's process is killed."""

    kind = Kind("SIGKILL of a sender", 2)

    @classmethod
    def victims(cls, cells: Cells) -> Sequence[tuple[str, ...]]:
        return _senders()

    def inject(self) -> None:
        self.send("KILL")


class Stopped(Signalled):
    """A receiver's process is stopped for twenty seconds, and goes on."""

    kind = Kind("SIGSTOP for 20 s", 1, (20.0, 20.0))

    @classmethod
    def victims(cls, cells: Cells) -> Sequence[tuple[str, ...]]:
        return _receivers()

    def inject(self) -> None:
        self.send("STOP")

    def heal(self) -> None:
        self.send("CONT")


class OnLink(Damage):
    """Something between two instances."""

    @property
    def sender(self) -> str:
        """The instance that connects."""
        return self.planned.victims[0]

    @classmethod
    def victims(cls, cells: Cells) -> Sequence[tuple[str, ...]]:
        return [(*sender, *receiver) for sender in _senders() for receiver in _receivers()]

    def recovered(self, since: float) -> float:
        return self.world.acknowledged(self.victim, since, by=self.sender)


class Cut(OnLink):
    """The network between two cells is cut."""

    kind = Kind("network cut between two cells", 3, (2.0, 10.0))

    def __init__(self, world: World, planned: Planned) -> None:
        super().__init__(world, planned)
        self._cut = contextlib.ExitStack()

    def inject(self) -> None:
        self._cut.enter_context(nodes.cut(self.cells, self.sender, self.victim))

    def heal(self) -> None:
        self._cut.close()


class AnswerLost(OnLink):
    """Connections are reset after a request and before its answer."""

    kind = Kind("connection reset before the answer", 3)

    def inject(self) -> None:
        nodes.lose_answers(self.cells, self.sender, self.victim)


class OfConsumer(Damage):
    """A consumer dies while it holds messages, and begins another life."""

    def __init__(self, world: World, planned: Planned) -> None:
        super().__init__(world, planned)
        self.held = 0

    @property
    def instances(self) -> list[str]:
        return [CONSUMERS[self.victim]]

    def in_flight(self, began: float, ended: float) -> int:
        """Return how many messages it held, or had been handed meanwhile."""
        return max(self.world.flow.held(self.victim, at) for at in (began, ended))

    def recovered(self, since: float) -> float:
        def seen() -> float | None:
            self.world.flow.pull()
            return self.world.flow.acked(self.victim, since)

        moment = eventually(seen, within=RECOVERY, message=f"an ack of {self.victim}")
        assert moment is not None
        return moment


class ConsumerKilled(OfConsumer):
    """A consumer is killed."""

    kind = Kind("SIGKILL of a consumer", 2)

    @classmethod
    def victims(cls, cells: Cells) -> Sequence[tuple[str, ...]]:
        return [(name,) for name in CONSUMERS]

    def inject(self) -> None:
        self.world.flow.kill(self.victim)


class Deadly(OfConsumer):
    """A message arrives whose handling kills the process."""

    kind = Kind("message that kills its consumer", 1)

    @classmethod
    def victims(cls, cells: Cells) -> Sequence[tuple[str, ...]]:
        # They are sent to these in turn, and so do plans take victims.
        return [(name,) for name, instance in CONSUMERS.items() if instance in DEADLY]

    def inject(self) -> None:
        flow, before = self.world.flow, self.world.flow.deaths(self.victim)
        flow.send_deadly()
        eventually(lambda: flow.deaths(self.victim) > before, within=RECOVERY, message=f"the death of {self.victim}")


class PodDeleted(Damage):
    """A pod is deleted; its successor has another address, and its volume if it has one."""

    kind = Kind("pod deleted", 5)

    def __init__(self, world: World, planned: Planned) -> None:
        super().__init__(world, planned)
        self._before = ""

    @classmethod
    def victims(cls, cells: Cells) -> Sequence[tuple[str, ...]]:
        return [*_receivers(), *_senders()]

    def inject(self) -> None:
        self._before = self.cells.uid(self.victim)
        at_once = self.planned.dice < 0.3 and not self.cells.roles[self.victim].ephemeral
        how = ("--grace-period=0", "--force") if at_once else ()
        self.note = "at once" if at_once else "with its grace period"
        self.cells.space.kubectl("delete", "pod", self.victim, "--wait=false", *how)

    def recovered(self, since: float) -> float:
        """Wait for its successor first: the pod itself goes on answering for a while."""
        self.cells.space.wait_pod(self.victim, other_than=self._before)
        return super().recovered(time.time())


class NodeDrained(Damage):
    """A node is drained, and given back."""

    kind = Kind("node drained", 1, (5.0, 15.0))

    def __init__(self, world: World, planned: Planned) -> None:
        super().__init__(world, planned)
        self._there: list[str] = []

    @classmethod
    def victims(cls, cells: Cells) -> Sequence[tuple[str, ...]]:
        return [(node,) for node in cells.cluster.workers]

    @property
    def instances(self) -> list[str]:
        return self._there

    def prepare(self) -> None:
        ours = [role.instance for role in ROLES if not role.spare and not role.elsewhere]
        self._there = [name for name in ours if self.cells.node(name) == self.victim]
        self.note = f"with {', '.join(self._there) or 'none of ours'}"

    def inject(self) -> None:
        how = ("--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=110s")
        self.cluster.kubectl("drain", self.victim, *how)

    def heal(self) -> None:
        self.cluster.kubectl("uncordon", self.victim)

    def recovered(self, since: float) -> float:
        self.cells.space.wait_ready(within=RECOVERY)
        return super().recovered(since)


class RollingUpdate(Damage):
    """A Cell is given another image, and its pods are replaced one after the other."""

    kind = Kind("rolling update", 2)

    @classmethod
    def victims(cls, cells: Cells) -> Sequence[tuple[str, ...]]:
        return [("pure",), ("light",), ("solo",), ("alpha",)]

    @property
    def instances(self) -> list[str]:
        return [role.instance for role in ROLES if role.cell == self.victim and not role.spare and not role.elsewhere]

    def inject(self) -> None:
        images = self.release.images
        before = self.world.images.get(self.victim, images.cell)
        after = self.world.images[self.victim] = images.cell if before == images.next_cell else images.next_cell
        self.cells.space.patch(self.victim, {"image": after})
        self.cells.space.wait_ready(self.victim)


class Scaled(Damage):
    """A Cell is scaled up, and, once messages flow to its new instance, down again."""

    kind = Kind("scaled up and down", 2)

    @classmethod
    def victims(cls, cells: Cells) -> Sequence[tuple[str, ...]]:
        return [("pure",), ("light",)]

    @property
    def instances(self) -> list[str]:
        return [role.instance for role in ROLES if role.cell == self.victim and not role.spare and not role.elsewhere]

    def inject(self) -> None:
        self.cells.scale(self.victim, MORE)
        self.world.acknowledged(f"{self.victim}-{MORE - 1}", time.time())

    def heal(self) -> None:
        self.cells.scale(self.victim, self.cells.usual(self.victim))


class AddressReused(Damage):
    """The address of a receiver is given to another cell while discovery is away, so that senders still use it."""

    kind = Kind("pod IP reused by another cell", 2, (3.0, 6.0))
    #: Who is given it: its cell has the same name, in another namespace.
    OTHER = "bystander-0"

    @classmethod
    def victims(cls, cells: Cells) -> Sequence[tuple[str, ...]]:
        return _receivers(ephemeral=False)

    def inject(self) -> None:
        self.release.scale("discovery", 0)
        address, node = self.cells.address(self.victim), self.cells.node(self.victim)
        self.cells.replace(self.victim)
        nodes.give_address(self.cells, address, node, self.OTHER)

    def heal(self) -> None:
        self.note = f"{self._misdirected()} messages were refused with 421"
        self.release.scale("discovery", 2)

    def _misdirected(self) -> int:
        metrics = self.cells.other.ask("pure-0", "GET", "/metrics").body.decode()
        wanted = 'cellmesh_received_messages_total{outcome="misdirected"}'
        return sum(int(float(line.split()[-1])) for line in metrics.splitlines() if line.startswith(wanted))


class OfTheOperator(Damage):
    """Something done to the operator, or to what it depends on: it concerns all messages, and should concern none."""

    @property
    def instances(self) -> list[str]:
        return []

    def recovered(self, since: float) -> float:
        """Wait until it is ready again, knows every instance, and messages flow through each."""
        eventually(self._ready, within=RECOVERY, message="the operator to be ready")
        ours = [role.instance for role in ROLES if not role.spare and not role.elsewhere]
        eventually(lambda: self.cells.space.peers().keys() >= {*ours}, within=RECOVERY, message="every peer")
        return max(time.time(), *(self.world.acknowledged(instance, since) for instance in ours))

    def _ready(self) -> bool:
        pods = [pod for part in ("reconciler", "discovery") for pod in self.release.pods(part)]
        return len(pods) == 3 and all(map(is_ready, pods))

    def killed(self, component: str) -> None:
        """Kill the process of one pod of reconciler or discovery."""
        pods = self.release.pods(component)
        pod = pods[int(self.planned.dice * len(pods))]
        nodes.signal(self.cluster, pod["spec"]["nodeName"], pod["metadata"]["uid"], "KILL")


class ReconcilerKilled(OfTheOperator):
    """The reconciler's process is killed while a Cell is scaled, which it has to finish."""

    kind = Kind("reconciler restarted", 1)

    @classmethod
    def victims(cls, cells: Cells) -> Sequence[tuple[str, ...]]:
        return [("reconciler",)]

    def inject(self) -> None:
        self.cells.space.kubectl("scale", "cell", "light", f"--replicas={MORE}")
        self.killed("reconciler")

    def heal(self) -> None:
        self.cells.scale("light", MORE)
        self.cells.scale("light", self.cells.usual("light"))


class DiscoveryKilled(OfTheOperator):
    """The process of one replica of discovery is killed."""

    kind = Kind("SIGKILL of discovery", 1)

    @classmethod
    def victims(cls, cells: Cells) -> Sequence[tuple[str, ...]]:
        return [("discovery",)]

    def inject(self) -> None:
        self.killed("discovery")


class DiscoveryRestarted(OfTheOperator):
    """All pods of discovery are deleted."""

    kind = Kind("discovery restarted", 1)

    @classmethod
    def victims(cls, cells: Cells) -> Sequence[tuple[str, ...]]:
        return [("discovery",)]

    def inject(self) -> None:
        names = [pod["metadata"]["name"] for pod in self.release.pods("discovery")]
        self.cluster.kubectl("-n", self.release.namespace, "delete", "pod", "--wait=false", *names)


class ApiServerStopped(OfTheOperator):
    """The API server is away for a minute."""

    kind = Kind("API server stopped for 60 s", 1, (API_AWAY, API_AWAY))

    def __init__(self, world: World, planned: Planned) -> None:
        super().__init__(world, planned)
        self._stopped = contextlib.ExitStack()

    @classmethod
    def victims(cls, cells: Cells) -> Sequence[tuple[str, ...]]:
        return [("API server",)]

    def inject(self) -> None:
        self._stopped.enter_context(self.cluster.api_server_stopped())

    def heal(self) -> None:
        self._stopped.close()


FAULTS: dict[str, type[Damage]] = {
    damage.kind.name: damage
    for damage in (
        ReceiverKilled, SenderKilled, ConsumerKilled, Deadly, Stopped, Cut, AnswerLost, PodDeleted, NodeDrained,
        RollingUpdate, Scaled, AddressReused, ReconcilerKilled, DiscoveryKilled, DiscoveryRestarted, ApiServerStopped,
    )
}  # fmt: skip
