"""The faults: each is done to a victim, undone, and recovered from."""

from __future__ import annotations

import asyncio
import signal
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import ClassVar

from chaos.consumers import Keeper
from chaos.ledger import Fault
from chaos.mesh import CONSUMERS, MESH, Mesh
from chaos.plan import Kind, Planned
from chaos.reader import Reader, Unreadable
from chaos.workload import Load

#: Seconds within which a fault has to be recovered from, and within which it has to find requests in flight.
RECOVERY = 60.0
TRAFFIC = 20.0


class World:
    """What faults are done in.

    Args:
        mesh: the processes.
        load: the messages.
        reader: to ask instances.
        consumers: by name.

    """

    def __init__(self, mesh: Mesh, load: Load, reader: Reader, consumers: Mapping[str, Keeper]) -> None:
        self.mesh = mesh
        self.load = load
        self.progress = load.progress
        self.reader = reader
        self.consumers = consumers
        #: Victims of the faults that are being done now.
        self.harmed: Callable[[], Collection[str]] = tuple

    async def acknowledged(self, fits: Callable[[str, str], bool], since: float) -> None:
        """Wait for an acknowledgement of something begun since a moment; ``fits`` is given sender and receiver."""
        seen = asyncio.Event()

        def watch(entry: str, instance: str, began: float) -> None:
            if began >= since and fits(entry, instance):
                seen.set()

        self.progress.watches.append(watch)
        try:
            await seen.wait()
        finally:
            self.progress.watches.remove(watch)


class Damage(ABC):
    """One fault that is done."""

    kind: ClassVar[Kind]

    def __init__(self, world: World, planned: Planned) -> None:
        self.world = world
        self.mesh = world.mesh
        self.planned = planned
        self.victim = planned.victims[-1]
        #: What else the report should say.
        self.note = ""

    @classmethod
    @abstractmethod
    def victims(cls, mesh: Mesh) -> Sequence[tuple[str, ...]]:
        """Return whom it can be done to; none: it cannot be done on this machine."""

    @property
    def in_flight(self) -> int:
        """How many requests are on their way to the victim now."""
        return self.mesh.gates[self.victim].in_flight() + self.world.progress.under_way[self.victim]

    @abstractmethod
    async def inject(self) -> None:
        """Do it."""

    @abstractmethod
    async def heal(self) -> None:
        """Undo it."""

    async def recovered(self, since: float) -> None:
        """Wait until something begun since it was undone was acknowledged through the victim."""
        await self.world.acknowledged(lambda entry, instance: self.victim in {entry, instance}, since)


class Killed(Damage):
    """A cell is killed, and started again."""

    async def inject(self) -> None:
        await self.mesh.down(self.victim)

    async def heal(self) -> None:
        await self.mesh.up(self.victim)


class ReceiverKilled(Killed):
    """A receiver is killed."""

    kind = Kind("SIGKILL of a receiver", 5, (0.0, 3.0))

    @classmethod
    def victims(cls, mesh: Mesh) -> Sequence[tuple[str, ...]]:
        return [(name,) for name in mesh.receivers]


class SenderKilled(Killed):
    """A sender is killed."""

    kind = Kind("SIGKILL of a sender", 3, (0.0, 3.0))

    @classmethod
    def victims(cls, mesh: Mesh) -> Sequence[tuple[str, ...]]:
        return [(name,) for name in mesh.senders]


class DiscoveryKilled(Killed):
    """Discovery is killed."""

    kind = Kind("SIGKILL of discovery", 1, (0.0, 8.0))

    @classmethod
    def victims(cls, mesh: Mesh) -> Sequence[tuple[str, ...]]:
        return [("discovery",)]

    async def recovered(self, since: float) -> None:
        """Wait until it tells of every instance again that is not itself the victim of something."""
        while True:
            try:
                answer = await self.world.reader.get("discovery", f"/meshes/{MESH}/peers")
                told = {peer["instance"] for peer in answer["peers"]} | set(self.world.harmed())
                if all(name in told for name, role in self.mesh.roles.items() if role.namespace == MESH):
                    return
            except Unreadable:
                pass
            await asyncio.sleep(0.05)


class Restarted(Damage):
    """A cell is stopped in good order, and started again."""

    kind = Kind("restart in good order", 2, (0.0, 2.0))

    @classmethod
    def victims(cls, mesh: Mesh) -> Sequence[tuple[str, ...]]:
        return [(name,) for name in (*mesh.receivers, *mesh.senders)]

    async def inject(self) -> None:
        code = await self.mesh.stop(self.victim)
        if code:
            self.mesh.failures.append(f"{self.victim} was told to stop, and ended with {code}")

    async def heal(self) -> None:
        await self.mesh.up(self.victim)


class Stopped(Damage):
    """A cell is stopped for twenty seconds, and goes on."""

    kind = Kind("SIGSTOP for 20 s", 2, (20.0, 20.0), most=20)

    @classmethod
    def victims(cls, mesh: Mesh) -> Sequence[tuple[str, ...]]:
        return [(name,) for name in (*mesh.receivers, *mesh.senders)]

    async def inject(self) -> None:
        self.mesh.processes[self.victim].signal(signal.SIGSTOP)

    async def heal(self) -> None:
        self.mesh.processes[self.victim].signal(signal.SIGCONT)


class DiskFull(Damage):
    """The disk of a receiver is full for ten seconds."""

    kind = Kind("disk full for 10 s", 1, (10.0, 10.0))

    @classmethod
    def victims(cls, mesh: Mesh) -> Sequence[tuple[str, ...]]:
        return [(name,) for name in mesh.disks]

    async def inject(self) -> None:
        # Below the cell's reserve, or to the last page.
        left = 4 * 1024 * 1024 if self.planned.dice < 0.5 else 0
        self.note = f"{left} bytes left"
        self.mesh.disks[self.victim].fill(left)

    async def heal(self) -> None:
        self.mesh.disks[self.victim].clear()


class OnLink(Damage):
    """Something between two cells."""

    @property
    def _by(self) -> str:
        return self.planned.victims[0]

    @classmethod
    def victims(cls, mesh: Mesh) -> Sequence[tuple[str, ...]]:
        return [(by, to) for by in mesh.senders for to in mesh.receivers]

    @property
    def in_flight(self) -> int:
        return self.mesh.gates[self.victim].in_flight(self._by)

    async def recovered(self, since: float) -> None:
        await self.world.acknowledged(lambda entry, instance: (entry, instance) == (self._by, self.victim), since)


class Cut(OnLink):
    """The network between two cells is cut."""

    kind = Kind("network cut between two cells", 3, (2.0, 10.0))

    async def inject(self) -> None:
        self.mesh.gates[self.victim].cut(self._by)

    async def heal(self) -> None:
        broken = self.planned.dice < 0.5
        self.note = "connections died of it" if broken else "connections lived on"
        self.mesh.gates[self.victim].mend(self._by, broken=broken)


class AnswerLost(OnLink):
    """A connection is reset after the request and before the answer."""

    kind = Kind("connection reset before the answer", 4)

    async def inject(self) -> None:
        answers = 1 + int(self.planned.dice * 3)
        after = 0 if self.planned.dice < 0.7 else 20
        self.note = f"{answers} answers, {after} bytes came through"
        lost = self.mesh.gates[self.victim].lose(self._by, answers, after)
        async with asyncio.timeout(TRAFFIC):
            await lost.wait()

    async def heal(self) -> None:
        """Nothing is left to undo."""


class ClockMoved(Damage):
    """The wall clock of a cell is moved by an hour."""

    kind = Kind("wall clock moved by an hour", 2, (3.0, 10.0))

    @classmethod
    def victims(cls, mesh: Mesh) -> Sequence[tuple[str, ...]]:
        return [(name,) for name in (*mesh.receivers, *mesh.senders) if name in mesh.clocks]

    async def inject(self) -> None:
        seconds = 3600 if self.planned.dice < 0.5 else -3600
        self.note = f"{seconds:+} s"
        self.mesh.clocks[self.victim].move(seconds)

    async def heal(self) -> None:
        self.mesh.clocks[self.victim].move(0)


class AddressReused(Damage):
    """The address of a receiver is another cell's for a while, which has to refuse what is not for it."""

    kind = Kind("address given to another cell", 1, (1.0, 4.0))

    @classmethod
    def victims(cls, mesh: Mesh) -> Sequence[tuple[str, ...]]:
        return [(name,) for name in mesh.receivers]

    async def inject(self) -> None:
        others = [name for name, role in self.mesh.roles.items() if name != self.victim and not role.sends]
        other = others[int(self.planned.dice * len(others))]
        self.note = f"that of {other}"
        self.mesh.gates[self.victim].lead_astray(self.mesh.gates[other].target)

    async def heal(self) -> None:
        self.mesh.gates[self.victim].lead_astray(None)


class OfConsumer(Damage):
    """Something that a consumer dies of. Its keeper starts it again."""

    @classmethod
    def victims(cls, mesh: Mesh) -> Sequence[tuple[str, ...]]:
        return [(name,) for name in CONSUMERS]

    @property
    def consumer(self) -> Keeper:
        """The victim."""
        return self.world.consumers[self.victim]

    @property
    def in_flight(self) -> int:
        return int(self.consumer.holding)

    async def heal(self) -> None:
        """Its keeper does it."""

    async def recovered(self, since: float) -> None:
        """Wait until an ack of its was taken."""
        while not self.consumer.acked_since(since):
            await asyncio.sleep(0.05)


class ConsumerKilled(OfConsumer):
    """A consumer is killed while it holds messages."""

    kind = Kind("SIGKILL of a consumer", 3)

    async def inject(self) -> None:
        await self.consumer.kill()


class Deadly(OfConsumer):
    """A message arrives whose handling kills the process."""

    kind = Kind("message that kills its consumer", 1)

    @classmethod
    def victims(cls, mesh: Mesh) -> Sequence[tuple[str, ...]]:
        # Where there are several, it is not known who will get it.
        of = Counter(CONSUMERS.values())
        return [(name,) for name, instance in CONSUMERS.items() if of[instance] == 1]

    async def inject(self) -> None:
        instance = self.consumer.instance
        self.consumer.died.clear()
        self.world.load.send_deadly(self.mesh.roles[instance].cell, instance, self.world.harmed())
        async with asyncio.timeout(TRAFFIC):
            await self.consumer.died.wait()


class CellDeadly(Damage):
    """A message arrives whose handling kills the cell, again after every start until it is a dead letter."""

    kind = Kind("message that kills its cell", 1)

    @classmethod
    def victims(cls, mesh: Mesh) -> Sequence[tuple[str, ...]]:
        return [(name,) for name, role in mesh.roles.items() if role.handles]

    async def inject(self) -> None:
        deaths = self.mesh.deaths[self.victim]
        self.world.load.send_deadly(self.mesh.roles[self.victim].cell, self.victim, self.world.harmed())
        async with asyncio.timeout(TRAFFIC):
            while self.mesh.deaths[self.victim] == deaths:
                await asyncio.sleep(0.01)

    async def heal(self) -> None:
        """See ``Mesh``: it is started again as often as it dies."""


_ALL: tuple[type[Damage], ...] = (
    ReceiverKilled,
    SenderKilled,
    ConsumerKilled,
    DiscoveryKilled,
    Restarted,
    Deadly,
    CellDeadly,
    Stopped,
    DiskFull,
    Cut,
    AnswerLost,
    ClockMoved,
    AddressReused,
)
FAULTS: dict[str, type[Damage]] = {damage.kind.name: damage for damage in _ALL}


async def done(damage: Damage) -> Fault:
    """Do a fault as planned, undo it, and wait until it is recovered from; return what was seen of it."""
    deadline = time.monotonic() + TRAFFIC
    while not (in_flight := damage.in_flight) and time.monotonic() < deadline:
        await asyncio.sleep(0.001)
    began, healed, recovery = time.time(), 0.0, -1.0
    try:
        await damage.inject()
        try:
            await asyncio.sleep(damage.planned.hold)
        finally:
            healed = time.time()
            await damage.heal()
        async with asyncio.timeout(RECOVERY):
            await damage.recovered(healed)
        recovery = time.time() - healed
    except TimeoutError:
        damage.note += "; it did not come to it" if not healed else "; not recovered from"
    planned = damage.planned
    return Fault(
        index=planned.index,
        kind=planned.kind,
        victim=planned.victim,
        began=began,
        healed=healed,
        in_flight=in_flight,
        recovery=recovery,
        note=damage.note,
    )
