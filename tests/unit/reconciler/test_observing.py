"""What is asked for while a Cell is looked at: a new life of the reconciler says nothing that it has not read."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cellmesh_operator.decisions import reasons
from cellmesh_operator.errors import ConnectionLost
from cellmesh_operator.naming import CELL_LABEL, CLAIMS, EVENTS, STATEFUL_SETS, STORAGE_CLASSES
from cellmesh_operator.reconciler.observing import LACKING_FIRST
from unit.reconciler.world import World

pytestmark = pytest.mark.anyio

CELLS_THAT_WAIT = ("alpha", "beta", "gamma")


async def waiting_for_a_class(world: World) -> None:
    """Have Cells whose claims wait for a StorageClass, and report that."""
    for name in CELLS_THAT_WAIT:
        world.make_cell(name)
        labels = {CELL_LABEL: name}
        claim = {"metadata": {"name": f"inbox-{name}-0", "labels": labels}, "spec": {}, "status": {"phase": "Pending"}}
        world.tell(CLAIMS, world.client.put(CLAIMS, claim))
        await world.look(name)
        await world.look(name)
        assert world.conditions(name)[reasons.STORAGE_READY] == ("False", reasons.NO_STORAGE_CLASS)


def new_life(world: World) -> World:
    """Start the reconciler anew, with nothing in memory but what it reads."""
    again = World(world.client)
    again.tell_all()
    again.reconciler.prepare()
    again.client.writes.clear()
    again.client.reads.clear()
    return again


async def test_cells_looked_at_while_storage_classes_are_read_report_nothing_else(world: World) -> None:
    """Expect one list for all that look at the same time after a restart, and no write by any of them."""
    await waiting_for_a_class(world)
    again, real = new_life(world), world.client.list

    async def slow(*given: Any, **more: Any) -> Any:
        for _ in range(50):
            await asyncio.sleep(0)
        return await real(*given, **more)

    again.client.list = slow  # type: ignore[method-assign]
    await asyncio.gather(*(again.look(name) for name in CELLS_THAT_WAIT))
    assert again.client.writes == []
    assert again.client.reads.count(("list", STORAGE_CLASSES.plural)) == 1


async def test_storage_classes_that_were_not_reached_are_read_at_the_next_look(world: World) -> None:
    """Expect a lost connection to fail the look, and the look after it to read them and to write nothing."""
    await waiting_for_a_class(world)
    again, real = new_life(world), world.client.list

    async def lost(*_: Any, **__: Any) -> Any:
        raise ConnectionLost("list storageclasses: refused")

    again.client.list = lost  # type: ignore[method-assign]
    with pytest.raises(ConnectionLost):
        await again.look()
    again.client.list = real  # type: ignore[method-assign]
    await again.look()
    assert again.client.writes == []


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ('violates PodSecurity "restricted:latest"', reasons.POD_SECURITY),
        ("exceeded quota: pods", reasons.QUOTA_EXCEEDED),
        ("the webhook says no", reasons.FAILED_CREATE),
    ],
)
async def test_a_restart_does_not_take_back_what_events_have_told(world: World, words: str, reason: str) -> None:
    """Expect the Events to be read at the first look of a new life, and nothing to be written."""
    world.make_cell(storage={"ephemeral": {}})
    await world.look()
    await world.look()
    found = world.client.there(STATEFUL_SETS, "alpha")
    assert found is not None
    event = {
        "metadata": {"name": "e"},
        "involvedObject": {"uid": found["metadata"]["uid"]},
        "reason": "FailedCreate",
        "message": f"create Pod alpha-0 in StatefulSet alpha failed error: {words}",
        "lastTimestamp": "2026-01-01T23:00:00Z",
    }
    world.client.put(EVENTS, event)
    world.now += LACKING_FIRST
    await world.look()
    assert world.conditions()[reasons.READY] == ("False", reason)
    again = new_life(world)
    await again.look()
    assert again.client.writes == []
