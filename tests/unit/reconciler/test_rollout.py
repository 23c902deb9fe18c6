"""Slots of a rollout: how many at a time, when it halts, who comes next."""

from __future__ import annotations

from cellmesh_operator.reconciler.rollout import ADOPTED, PATIENCE, Rollout
from cellmesh_operator.reconciler.store import Key


def key(number: int) -> Key:
    """Return the key of a Cell."""
    return ("mesh", f"c{number}")


def of_ready_cells(count: int, limit: int = 2) -> Rollout:
    """Return slots for Cells that are all Ready and wait for a change."""
    rollout = Rollout(limit)
    for number in range(count):
        rollout.saw(key(number), 0.0, ready=True, up_to_date=False)
    return rollout


def test_no_more_cells_than_the_limit_hold_a_slot() -> None:
    """Expect the third of three to wait."""
    rollout = of_ready_cells(3)
    assert [rollout.acquire(key(number), 0.0) for number in range(3)] == [True, True, False]
    assert (rollout.holders, rollout.waiting) == (2, 1)


def test_a_slot_is_given_back_when_the_cell_is_ready_and_up_to_date() -> None:
    """Expect the waiting Cell to be named only then."""
    rollout = of_ready_cells(2, limit=1)
    rollout.acquire(key(0), 0.0)
    rollout.acquire(key(1), 0.0)
    assert rollout.saw(key(0), 1.0, ready=False, up_to_date=True) == []
    assert rollout.saw(key(0), 2.0, ready=True, up_to_date=True) == [key(1)]
    assert rollout.acquire(key(1), 2.0)


def test_a_cell_that_is_ready_but_not_up_to_date_yet_keeps_its_slot() -> None:
    """Expect Ready from before the change not to count."""
    rollout = of_ready_cells(1)
    rollout.acquire(key(0), 0.0)
    rollout.saw(key(0), 1.0, ready=True, up_to_date=False)
    assert rollout.holds(key(0))


def test_the_rollout_halts_while_more_cells_than_the_limit_are_not_ready() -> None:
    """Expect a Ready Cell to wait although a slot is free, and to go on when enough are Ready."""
    rollout = of_ready_cells(1)
    for number in (1, 2, 3):
        rollout.saw(key(number), 0.0, ready=False, up_to_date=True)
    assert rollout.halted
    assert not rollout.acquire(key(0), 0.0)
    assert rollout.saw(key(1), 1.0, ready=True, up_to_date=True) == [key(0)]


def test_as_many_as_the_limit_that_are_not_ready_do_not_halt_it() -> None:
    """Expect the rule to be "more than"."""
    rollout = of_ready_cells(1)
    for number in (1, 2):
        rollout.saw(key(number), 0.0, ready=False, up_to_date=True)
    assert rollout.acquire(key(0), 0.0)


def test_a_bad_change_takes_down_no_more_than_the_limit() -> None:
    """Expect that Cells which do not become Ready keep their slots for ever."""
    rollout = of_ready_cells(10)
    reached = set()
    for now in range(1000):
        for number in range(10):
            if rollout.acquire(key(number), float(now)):
                reached.add(number)
                rollout.saw(key(number), float(now), ready=False, up_to_date=True)
    assert len(reached) == 2


def test_cells_that_are_not_ready_come_first_and_are_not_halted() -> None:
    """Expect the change to reach first those whom it cannot harm, and may mend."""
    rollout = of_ready_cells(2, limit=1)
    for number in (5, 6, 7):
        rollout.saw(key(number), 0.0, ready=False, up_to_date=False)
    assert rollout.acquire(key(5), 0.0)
    assert not rollout.acquire(key(0), 0.0)
    assert not rollout.acquire(key(6), 0.0)
    assert rollout.saw(key(5), 1.0, ready=True, up_to_date=True) == [key(6)]


def test_a_cell_that_was_not_ready_before_does_not_keep_its_slot_for_ever() -> None:
    """Expect the next after a while, though the first never becomes Ready."""
    rollout = of_ready_cells(0, limit=1)
    for number in (0, 1):
        rollout.saw(key(number), 0.0, ready=False, up_to_date=False)
    rollout.acquire(key(0), 0.0)
    assert not rollout.acquire(key(1), 1.0)
    assert rollout.again_in(key(0), 1.0) == PATIENCE - 1.0
    assert rollout.saw(key(0), PATIENCE, ready=False, up_to_date=True) == [key(1)]


def test_a_cell_that_is_gone_gives_its_slot_back() -> None:
    """Expect the waiting one to be named, and the gone one not to count as not Ready."""
    rollout = of_ready_cells(2, limit=1)
    rollout.acquire(key(0), 0.0)
    rollout.acquire(key(1), 0.0)
    rollout.saw(key(0), 0.0, ready=False, up_to_date=True)
    assert rollout.forget(key(0), 1.0) == [key(1)]
    assert not rollout.halted


def test_a_slot_from_before_a_restart_is_kept_for_a_while() -> None:
    """Expect that a restart in the middle of a rollout lets no further Cells go at once."""
    rollout = of_ready_cells(1, limit=1)
    rollout.adopt(key(9), 0.0)
    assert not rollout.acquire(key(0), ADOPTED - 1)
    assert rollout.acquire(key(0), ADOPTED)


def test_a_cell_that_was_brought_up_to_date_otherwise_waits_no_longer() -> None:
    """Expect its author's edit to take it off the list."""
    rollout = of_ready_cells(2, limit=1)
    rollout.acquire(key(0), 0.0)
    rollout.acquire(key(1), 0.0)
    rollout.saw(key(1), 1.0, ready=True, up_to_date=True)
    assert rollout.waiting == 0
