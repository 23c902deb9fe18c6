"""The order in which messages are handed out, against a plain model."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellmesh.inbox import ready as module
from cellmesh.inbox.ready import Position, Ready

TYPES = ["a", "b", "c", "d"]


def fill(ready: Ready, positions: Iterable[Position]) -> None:
    """Have messages arrive."""
    for position in positions:
        ready.add(*position)


class Model:
    """What is ready, as a set of positions."""

    def __init__(self) -> None:
        self.positions: set[Position] = set()

    def take(self, most: int, types: list[str] | None) -> list[Position]:
        """Return what must be handed out, and remove it."""
        fitting = [one for one in self.positions if types is None or one.message_type in types]
        taken = sorted(fitting, key=lambda one: (-one.priority, one.seq))[:most]
        self.positions -= set(taken)
        return taken


Step = tuple[str, int, object]
STEP = st.one_of(
    st.tuples(st.just("add"), st.integers(0, 3), st.sampled_from(TYPES)),
    st.tuples(st.just("take"), st.integers(1, 5), st.none() | st.lists(st.sampled_from(TYPES), min_size=1)),
    st.tuples(st.just("back"), st.integers(0, 10), st.none()),
)


@pytest.mark.parametrize("own_queues", [256, 2])
@given(steps=st.lists(STEP, max_size=60))
def test_highest_priority_first_and_oldest_first_within_one(
    own_queues: int, steps: list[tuple[str, int, object]]
) -> None:
    """Expect what a sorted set would give, whatever arrives, is taken and comes back; also in a shared queue."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_TYPES", own_queues)
        ready, model, out, seq = Ready(), Model(), [], 0
        for what, number, more in steps:
            if what == "add":
                seq += 1
                position = Position(seq, number, str(more))
                ready.add(*position)
                model.positions.add(position)
            elif what == "take":
                types = more if isinstance(more, list) else None
                assert ready.has(types) or not model.take(number, types)
                taken = ready.take(number, types)
                assert taken == model.take(number, types)
                out += taken
            elif out:
                position = out.pop(number % len(out))
                ready.give_back(position)
                model.positions.add(position)
            assert ready.size == len(model.positions)
        assert ready.take(1000) == model.take(1000, None)
        assert ready.size == 0


def test_consecutive_positions_take_one_entry() -> None:
    """Expect a hundred thousand messages of one kind to be one run, and to come out in order."""
    ready = Ready()
    fill(ready, (Position(seq, 1, "general") for seq in range(1, 100_001)))
    (queue,) = ready._queues[1].values()
    assert len(queue.runs) == 1
    assert [one.seq for one in ready.take(3)] == [1, 2, 3]
    assert len(queue.runs) == 1
    assert [one.seq for one in ready.take(100_000)] == list(range(4, 100_001))


def test_a_run_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect more consecutive positions than fit into one run to come out in order all the same."""
    monkeypatch.setattr(module, "_RUN", 8)
    ready = Ready()
    fill(ready, (Position(seq, 1, "general") for seq in range(5, 105)))
    assert [one.seq for one in ready.take(1000)] == list(range(5, 105))


def test_a_search_for_a_rare_type_in_the_shared_queue_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect a search to give up after so many, and to lose none of those it passed over."""
    monkeypatch.setattr(module, "MAX_TYPES", 0)
    monkeypatch.setattr(module, "MAX_SEARCH", 10)
    ready = Ready()
    fill(ready, [Position(seq, 1, "common") for seq in range(1, 31)] + [Position(31, 1, "rare")])
    assert ready.take(1, ["rare"]) == []
    assert ready.size == 31
    assert [one.seq for one in ready.take(100)] == list(range(1, 32))


def test_a_search_that_gives_up_does_not_hide_what_has_a_queue_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect the type that is asked for, although the shared queue is full of older ones."""
    monkeypatch.setattr(module, "MAX_TYPES", 1)
    monkeypatch.setattr(module, "MAX_SEARCH", 10)
    ready = Ready()
    fill(ready, [Position(1, 1, "own")] + [Position(seq, 1, "shared") for seq in range(2, 31)])
    fill(ready, [Position(31, 1, "own"), Position(32, 0, "own")])
    assert [one.seq for one in ready.take(3, ["own"])] == [1, 31, 32]
    assert [one.seq for one in ready.take(100)] == list(range(2, 31))


def test_a_position_may_stand_in_two_queues(monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect a message that came back to another queue than it was in to stop nobody."""
    monkeypatch.setattr(module, "MAX_TYPES", 2)
    ready = Ready()
    fill(ready, [Position(1, 1, "own"), Position(2, 1, "another"), Position(3, 1, "shared")])
    assert [one.seq for one in ready.take(2)] == [1, 2]
    ready.give_back(Position(3, 1, "shared"))
    assert {one.seq for one in ready.take(10)} == {3}
