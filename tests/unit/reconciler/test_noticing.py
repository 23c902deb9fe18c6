"""Events about Cells: said once in a while, never too many, never in the way."""

from __future__ import annotations

import pytest

from cellmesh_operator.decisions.actions import Notice
from cellmesh_operator.errors import ApiError
from cellmesh_operator.naming import EVENTS
from cellmesh_operator.reconciler.noticing import REFUSED_WINDOW, WAITING, WINDOW
from unit.reconciler.world import World

pytestmark = pytest.mark.anyio

NOTICE = Notice("Warning", "NameConflict", "the Service of this name belongs to somebody else")


async def test_a_notice_becomes_an_event_of_the_cell(world: World) -> None:
    """Expect reason, message and the Cell's identity in it."""
    cell = world.make_cell()
    world.notices.tell(cell, NOTICE)
    await world.send_notices()
    (event,) = world.client._matching(EVENTS, None, "")
    assert (event["type"], event["reason"], event["count"]) == ("Warning", "NameConflict", 1)
    assert event["message"] == NOTICE.message
    assert event["involvedObject"]["uid"] == cell["metadata"]["uid"]
    assert event["metadata"]["namespace"] == "mesh"


async def test_the_same_is_not_said_twice_within_a_while(world: World) -> None:
    """Expect one request for many tellings, and a count when the window is over."""
    cell = world.make_cell()
    for _ in range(5):
        world.notices.tell(cell, NOTICE)
    await world.send_notices()
    assert world.client.written("events") == 1
    world.now += WINDOW
    world.notices.tell(cell, NOTICE)
    await world.send_notices()
    (event,) = world.client._matching(EVENTS, None, "")
    assert event["count"] == 2


async def test_an_event_from_a_former_life_is_renewed(world: World) -> None:
    """Expect no second Event of the same words after a restart."""
    cell = world.make_cell()
    world.notices.tell(cell, NOTICE)
    await world.send_notices()
    again = World(world.client)
    again.notices.tell(cell, NOTICE)
    await again.send_notices()
    assert len(again.client._matching(EVENTS, None, "")) == 1


async def test_too_many_notices_are_left_out_and_counted(world: World) -> None:
    """Expect a bound on what waits, and the rest in the metrics."""
    cell = world.make_cell()
    for number in range(WAITING + 7):
        world.notices.tell(cell, Notice("Normal", "Recovered", str(number)))
    assert b'notices_total{result="dropped"} 7.0' in world.metrics.text()


async def test_an_event_that_is_refused_does_no_harm(world: World) -> None:
    """Expect the next one to be sent."""
    cell = world.make_cell()
    world.client.refuse["create", "events"] = ApiError(403, "Forbidden", "the namespace is being terminated")
    world.notices.tell(cell, NOTICE)
    await world.send_notices()
    world.client.refuse.clear()
    world.notices.tell(cell, Notice("Normal", "Recovered", "well again"))
    await world.send_notices()
    assert world.events() == ["Recovered"]


async def test_an_event_that_is_refused_is_said_again_at_its_next_occasion(world: World) -> None:
    """Expect it soon, not only after the window of what was said; and counted as the first."""
    cell = world.make_cell()
    world.client.refuse["create", "events"] = ApiError(403, "Forbidden", "not yet")
    world.notices.tell(cell, NOTICE)
    await world.send_notices()
    world.client.refuse.clear()
    world.now += REFUSED_WINDOW
    for _ in range(2):
        world.notices.tell(cell, NOTICE)
    await world.send_notices()
    (event,) = world.client._matching(EVENTS, None, "")
    assert (event["reason"], event["count"]) == ("NameConflict", 1)


async def test_an_overlong_message_is_cut(world: World) -> None:
    """Expect what the API server takes: 1,024 characters."""
    world.notices.tell(world.make_cell(), Notice("Warning", "ApplyRefused", "x" * 5000))
    await world.send_notices()
    (event,) = world.client._matching(EVENTS, None, "")
    assert len(event["message"]) == 1024
