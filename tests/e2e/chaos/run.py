"""One run on a cluster: the mesh, the messages, the faults, and the comparison of the books."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cellmesh.protocol.last_words import read_last_words
from chaos import ledger as ledgers
from chaos.books import Account, compare
from chaos.ledger import Fault, Ledger, Left
from chaos.plan import Planned, plan
from e2e.chaos.cells import MORE, ROLES, Cells
from e2e.chaos.damage import World, done
from e2e.chaos.faults import FAULTS
from e2e.chaos.flow import Flow
from e2e.client_pod import ClientPod
from e2e.watching import PodSeen, PodWatch, stay


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a run is to do.

    Attributes:
        seed: of the messages and of the faults.
        faults: how many have to count.
        rate: messages a second.
        gap: mean seconds between two faults.
        limit: seconds after which no more faults are done.
        kinds: names of the faults, each done once in this order; empty: as the seed says, of all.

    """

    seed: int
    faults: int
    rate: float
    gap: float
    limit: float
    kinds: Sequence[str] = ()


class Run:
    """A run.

    Args:
        options: what it is to do.
        client: the pod that messages are sent from.
        cells: the mesh; it is running.
        directory: where the ledger goes.

    """

    def __init__(self, options: Options, client: ClientPod, cells: Cells, directory: Path) -> None:
        self.options = options
        self.name = f"chaos-{options.seed}-{time.time_ns() // 1_000_000:x}"
        self._cells = cells
        self.flow = Flow(client, cells, self.name, directory)
        self._directory = directory
        self._began = time.monotonic()
        #: Messages that consumers could still have, by instance, when they should have consumed all.
        self.left_over: dict[str, int] = {}

    def run(self) -> Account:
        """Do it; return what the books say."""
        flow, cells = self.flow, self._cells
        with PodWatch(cells.space) as here, PodWatch(cells.other) as there:
            flow.start(self.options.seed, self.options.rate)
            world = World(cells, flow)
            for role in ROLES:
                if role.receives and not role.spare:
                    world.acknowledged(role.instance, 0.0)
            self._began = time.monotonic()
            faults = list(self._harm(world))
            # What waits on the volume of an instance that has been scaled away, or is queued for such a one.
            for name in sorted({role.cell for role in ROLES if role.spare}):
                cells.scale(name, MORE)
            self.left_over = flow.stop()
            flow.inspect(ROLES)
            left = [*lives(here, cells), *lives(there, cells)]
        with Ledger(self._directory, "cluster") as ledger:
            ledger.write(*faults, *left)
        return compare(ledgers.read(self._directory), self.name)

    def _harm(self, world: World) -> Iterator[Fault]:
        """Do one fault after the other until enough of them count."""
        counted = 0
        for number, planned in enumerate(self._plan(), 1):
            if counted >= self.options.faults or time.monotonic() - self._began > self.options.limit:
                return
            stay(planned.gap)
            fault = done(FAULTS[planned.kind](world, planned))
            counted += fault.counts
            print(
                f"{time.monotonic() - self._began:5.0f} s: {counted} of {number} faults count; {fault.kind} "
                f"({fault.victim}): {fault.in_flight} in flight, recovered after {fault.recovery:.1f} s; {fault.note}",
                flush=True,
            )
            yield fault

    def _plan(self) -> Iterator[Planned]:
        kinds = [FAULTS[name].kind for name in self.options.kinds or FAULTS]
        victims = {kind.name: FAULTS[kind.name].victims(self._cells) for kind in kinds}
        planned = plan(self.options.seed, kinds, victims, self.options.gap)
        if not self.options.kinds:
            yield from planned
            return
        wanted = list(self.options.kinds)
        for one in planned:
            if one.kind in wanted:
                wanted.remove(one.kind)
                yield one
            if not wanted:
                return


def lives(watch: PodWatch, cells: Cells) -> Iterator[Left]:
    """Return the end of each pod whose messages have gone with it, or rest on a volume until it is scaled up again."""
    elsewhere = watch.namespace == cells.other.name
    for role in ROLES:
        if role.elsewhere == elsewhere and (role.ephemeral or role.spare):
            seen = [one for one in list(watch.seen) if one.name == role.pod]
            for at, words in ends(seen):
                said = read_last_words(words)
                over = said is not None and not said.remaining and not said.unsent
                yield Left(at=at, instance=role.instance, handed_over=over, kept=not role.ephemeral)


def ends(seen: Sequence[PodSeen]) -> Iterator[tuple[float, str]]:
    """Return when each pod of a name was gone, and its last words."""
    uid = words = ""
    for one in seen:
        if one.uid == uid:
            words = one.last_words or words
        if uid and (one.uid != uid or one.gone):
            yield one.at, words
            uid = words = ""
        if not one.gone:
            uid, words = one.uid, one.last_words or words
