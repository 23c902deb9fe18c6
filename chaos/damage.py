"""What a fault is: done to a victim, undone, and recovered from. Which there are stands in ``faults``."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import ClassVar

from chaos.consumers import Keeper
from chaos.ledger import Fault, Ledger
from chaos.mesh import Mesh
from chaos.plan import Kind, Planned
from chaos.reader import Reader
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
        ledger: where it is written down what has gone.

    """

    def __init__(self, mesh: Mesh, load: Load, reader: Reader, consumers: Mapping[str, Keeper], ledger: Ledger) -> None:
        self.mesh = mesh
        self.load = load
        self.progress = load.progress
        self.reader = reader
        self.consumers = consumers
        self.ledger = ledger
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
