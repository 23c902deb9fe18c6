"""Plans: the same seed gives the same faults, and each kind and victim gets its turn."""

from __future__ import annotations

import itertools
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from chaos.plan import Kind, Planned, plan

KINDS = (Kind("often", 3, (1.0, 2.0)), Kind("once", 1), Kind("rare", 2, most=3), Kind("never", 5))
VICTIMS = {"often": [("a",), ("b",)], "once": [("a", "b")], "rare": [("c",)], "never": []}


def faults(seed: int, count: int = 60) -> list[Planned]:
    """Return the first faults of a seed."""
    return list(itertools.islice(plan(seed, KINDS, VICTIMS, 2.0), count))


@given(st.integers())
def test_the_same_seed_gives_the_same_plan(seed: int) -> None:
    """Kinds, victims, times and what is left to chance."""
    assert faults(seed) == faults(seed)
    assert faults(seed) != faults(seed + 1)


@given(st.integers())
def test_each_kind_comes_as_often_as_its_weight_says(seed: int) -> None:
    """In every round; one that has a greatest number never more often; one without victims never."""
    found = faults(seed)
    kinds = Counter(fault.kind for fault in found)
    assert kinds["rare"] == 3
    assert kinds["never"] == 0
    assert abs(kinds["often"] - 3 * kinds["once"]) <= 3
    assert Counter(fault.kind for fault in found[:3]) == {"often": 1, "once": 1, "rare": 1}
    assert Counter(fault.kind for fault in found[3:9]) == {"often": 3, "once": 1, "rare": 2}


@given(st.integers())
def test_each_victim_gets_its_turn(seed: int) -> None:
    """One after the other, and held as long as the kind says."""
    often = [fault for fault in faults(seed) if fault.kind == "often"]
    assert {first.victims for first in often[:2]} == {("a",), ("b",)}
    assert [fault.victims for fault in often[::2]] == [often[0].victims] * len(often[::2])
    assert all(1.0 <= fault.hold <= 2.0 and 0.4 <= fault.gap <= 3.6 and 0 <= fault.dice < 1 for fault in often)
    assert [fault.index for fault in faults(seed)] == list(range(60))


def test_a_link_names_both_its_ends() -> None:
    """As the report has it."""
    assert next(fault for fault in faults(1) if fault.kind == "once").victim == "a to b"


def test_a_plan_of_nothing_ends() -> None:
    """It does not look for victims for ever."""
    assert list(plan(1, KINDS[3:], VICTIMS, 1.0)) == []
