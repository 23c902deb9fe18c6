"""Which faults are done to whom and for how long, from a seed. Pure: the same seed, the same plan."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """One kind of fault.

    Attributes:
        name: as the report has it.
        weight: how many of it there are for one of weight 1.
        hold: least and greatest seconds until it is undone.
        most: how many there are at most; None: any number.

    """

    name: str
    weight: int
    hold: tuple[float, float] = (0.0, 0.0)
    most: int | None = None


@dataclass(frozen=True)
class Planned:
    """One fault of a plan.

    Attributes:
        index: its position.
        kind: what.
        victims: to whom; of a link first who connects, then to whom.
        hold: seconds until it is undone.
        gap: seconds after the one before has begun, or ended where both cannot be at once.
        dice: a number below 1 for what else the fault leaves to chance.

    """

    index: int
    kind: str
    victims: tuple[str, ...]
    hold: float
    gap: float
    dice: float

    @property
    def victim(self) -> str:
        """The victims in one word."""
        return " to ".join(self.victims)


def plan(
    seed: int, kinds: Sequence[Kind], victims: Mapping[str, Sequence[tuple[str, ...]]], gap: float
) -> Iterator[Planned]:
    """Make the faults of a seed, without end.

    First each kind comes once; then, in every round, as often as its weight says, in an order that changes from round
    to round; each of its victims in turn.

    Args:
        seed: of the plan.
        kinds: that there are.
        victims: of each kind.
        gap: mean seconds between two faults.

    """
    rng = random.Random(seed)
    turns = {kind.name: rng.sample(list(victims[kind.name]), len(victims[kind.name])) for kind in kinds}
    done = dict.fromkeys(turns, 0)
    index = itertools.count()
    possible = [kind for kind in kinds if turns[kind.name]]
    for number in itertools.count() if possible else ():
        cards = [kind for kind in possible for _ in range(kind.weight if number else 1)]
        rng.shuffle(cards)
        for kind in cards:
            hold, pause, dice = rng.uniform(*kind.hold), rng.uniform(0.2, 1.8) * gap, rng.random()
            if kind.most is not None and done[kind.name] >= kind.most:
                continue
            whom = turns[kind.name][done[kind.name] % len(turns[kind.name])]
            done[kind.name] += 1
            yield Planned(next(index), kind.name, whom, hold, pause, dice)
