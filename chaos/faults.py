"""The faults there are."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Sequence

from chaos.consumers import Keeper
from chaos.damage import TRAFFIC, Damage
from chaos.ledger import Left
from chaos.mesh import CONSUMERS, MESH, Mesh
from chaos.plan import Kind
from chaos.reader import Unreadable


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
        if self.mesh.roles[self.victim].ephemeral:
            # It has handed over what it had; what nobody has taken is still there.
            self.world.ledger.write(Left(at=time.time(), instance=self.victim, kept=True))

    async def heal(self) -> None:
        await self.mesh.up(self.victim)


class Replaced(Damage):
    """An instance without a volume ends, hands over what it has, and another one of its name begins with nothing."""

    kind = Kind("end of an ephemeral instance", 2, (0.0, 2.0))

    @classmethod
    def victims(cls, mesh: Mesh) -> Sequence[tuple[str, ...]]:
        return [(name,) for name, role in mesh.roles.items() if role.ephemeral]

    async def inject(self) -> None:
        at, left = await self.mesh.replace(self.victim)
        self.world.ledger.write(Left(at=at, instance=self.victim, handed_over=not any(left)))
        self.world.reader.begin_anew(self.victim)
        self.note = "left behind: " + ", ".join(map(str, left))

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
    Replaced,
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
