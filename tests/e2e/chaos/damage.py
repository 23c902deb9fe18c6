"""What every fault of a chaos run on a cluster has in common, and how one is done."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from chaos.ledger import Fault
from chaos.plan import Kind, Planned
from e2e.chaos.cells import Cells
from e2e.chaos.flow import Flow
from e2e.programs import Failed
from e2e.watching import stay
from support import eventually

#: Seconds within which a fault has to be recovered from: a node that was drained, on a busy machine of two cores.
RECOVERY = 180.0


class World:
    """What faults are done in: the mesh, and the messages that flow through it."""

    def __init__(self, cells: Cells, flow: Flow) -> None:
        self.cells = cells
        self.flow = flow
        #: Image of the Cells that were updated, by name: the next update takes the other one.
        self.images: dict[str, str] = {}

    def acknowledged(self, instance: str, since: float, by: str = "", within: float = RECOVERY) -> float:
        """Wait until something begun since a moment was acknowledged through an instance; return when it was.

        Raises:
            AssertionError: it was not.

        """

        def seen() -> float | None:
            self.flow.pull()
            return self.flow.acknowledged(instance, since, by)

        moment = eventually(seen, within=within, message=f"something acknowledged through {instance}")
        assert moment is not None
        return moment


class Damage(ABC):
    """One fault that is done."""

    kind: ClassVar[Kind]

    def __init__(self, world: World, planned: Planned) -> None:
        self.world = world
        self.cells = world.cells
        self.cluster = world.cells.cluster
        self.release = world.cells.release
        self.planned = planned
        #: What else the report should say.
        self.note = ""

    @classmethod
    @abstractmethod
    def victims(cls, cells: Cells) -> Sequence[tuple[str, ...]]:
        """Return whom it can be done to."""

    @property
    def victim(self) -> str:
        """The instance, the cell or the program that it is done to."""
        return self.planned.victims[-1]

    @property
    def instances(self) -> list[str]:
        """The instances that it concerns; none: all, for it is done to what they have in common."""
        return [self.victim]

    def in_flight(self, began: float, ended: float) -> int:
        """Return how many requests were on their way to those that it concerns, at any time between two moments."""
        return self.world.flow.in_flight(self.instances, began, ended)

    def prepare(self) -> None:  # noqa: B027 - most need nothing
        """Make ready what has to be there before."""

    @abstractmethod
    def inject(self) -> None:
        """Do it."""

    def heal(self) -> None:  # noqa: B027 - most is undone by Kubernetes
        """Undo it; where Kubernetes does that, nothing."""

    def recovered(self, since: float) -> float:
        """Wait until something begun since it was undone was acknowledged through each instance that it concerns.

        Returns:
            when the last of them had.

        """
        return max([self.world.acknowledged(instance, since) for instance in self.instances], default=since)


def done(damage: Damage) -> Fault:
    """Do a fault as planned, undo it, and wait until it is recovered from; return what was seen of it.

    What it takes to do it is done by commands, so requests in flight are those under way at any time between the
    command and its end; of a fault that lasts, until it is undone.
    """
    planned, flow = damage.planned, damage.world.flow
    damage.prepare()
    began, struck, healed, recovery = time.time(), 0.0, 0.0, -1.0
    try:
        try:
            damage.inject()
            struck = time.time()
            stay(planned.hold)
        finally:
            damage.heal()
        healed = time.time() if planned.hold or type(damage).heal is not Damage.heal else struck
        recovery = damage.recovered(healed) - healed
    except (AssertionError, Failed) as error:
        damage.note += f"; {error}"
    flow.pull()
    return Fault(
        index=planned.index,
        kind=planned.kind,
        victim=planned.victim,
        began=began,
        healed=healed,
        in_flight=damage.in_flight(began, (struck + planned.hold) if struck else time.time()),
        recovery=recovery,
        note=damage.note,
    )
