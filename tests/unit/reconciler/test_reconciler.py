"""One look at a Cell: what is written, what is left alone, and what is reported."""

from __future__ import annotations

from typing import Any

import pytest

from cellmesh_operator.decisions import reasons
from cellmesh_operator.errors import ApiError, ConnectionLost
from cellmesh_operator.naming import (
    CELLS,
    EVENTS,
    POD_DISRUPTION_BUDGETS,
    PODS,
    SERVICE_ACCOUNTS,
    SERVICES,
    STATEFUL_SETS,
    STORAGE_CLASSES,
)
from cellmesh_operator.reconciler.observing import LACKING_FIRST
from unit.reconciler.world import World

pytestmark = pytest.mark.anyio

CHILDREN = [("apply", one, "alpha") for one in ("serviceaccounts", "services", "statefulsets")]


async def test_a_new_cell_gets_its_children_then_its_status(world: World) -> None:
    """Expect three applies and one report of this generation."""
    world.make_cell()
    outcome = await world.look()
    assert world.client.writes == [*CHILDREN, ("apply", "cells/status", "alpha")]
    assert not outcome.again
    cell = world.client.there(CELLS, "alpha")
    assert cell is not None
    assert cell["status"]["observedGeneration"] == 1


async def test_a_second_look_writes_nothing(world: World) -> None:
    """Expect answers to our own writes to be known without their watch."""
    world.make_cell()
    await world.look()
    world.client.writes.clear()
    await world.look()
    assert world.client.writes == []


async def test_a_running_cell_is_ready_with_one_more_write(world: World) -> None:
    """Expect the status alone to be written when pods become ready."""
    world.make_cell(storage={"ephemeral": {}})
    await world.look()
    world.client.writes.clear()
    await world.run_pods()
    await world.look()
    assert world.client.writes == [("apply", "cells/status", "alpha")]
    assert world.conditions()[reasons.READY] == ("True", reasons.INSTANCES_READY)


async def test_a_restart_writes_nothing(world: World) -> None:
    """Expect another life of the reconciler, with nothing in memory, to find all as it should be."""
    world.make_cell(storage={"ephemeral": {}})
    await world.look()
    await world.run_pods()
    await world.look()
    await world.send_notices()
    again = World(world.client)
    again.client.writes.clear()
    again.tell_all()
    again.reconciler.prepare()
    await again.look()
    await again.send_notices()
    assert again.client.writes == []


async def test_an_object_of_somebody_else_is_left_alone_and_reported(world: World) -> None:
    """Expect the foreign Service as it was, the Cell stalled, an Event, and another look later."""
    foreign = world.client.put(SERVICES, {"metadata": {"name": "alpha"}, "spec": {"ports": []}})
    world.make_cell()
    outcome = await world.look()
    await world.send_notices()
    assert world.client.there(SERVICES, "alpha") == foreign
    assert world.conditions()[reasons.STALLED] == ("True", reasons.NAME_CONFLICT)
    assert world.events() == [reasons.NAME_CONFLICT]
    assert outcome.again_in is not None


async def test_an_object_that_comes_between_looking_and_applying_is_not_taken_over(world: World) -> None:
    """Expect the apply to be a conflict, nothing to be reported from it, and the next look to see the object."""
    world.make_cell()
    raced = False

    real = world.client.apply

    async def apply(resource: Any, body: Any, **more: Any) -> Any:
        nonlocal raced
        if resource == SERVICES and not raced:
            raced = True
            world.client.put(SERVICES, {"metadata": {"name": "alpha"}, "spec": {"clusterIP": "10.0.0.7"}})
        return await real(resource, body, **more)

    world.client.apply = apply  # type: ignore[method-assign]
    outcome = await world.look()
    assert outcome.again
    assert world.client.written("cells/status") == 0
    await world.look()
    found = world.client.there(SERVICES, "alpha")
    assert found is not None
    assert found["spec"] == {"clusterIP": "10.0.0.7"}
    assert world.conditions()[reasons.STALLED] == ("True", reasons.NAME_CONFLICT)


async def test_a_child_that_was_deleted_is_made_again(world: World) -> None:
    """Expect one apply, of the child that is gone."""
    world.make_cell()
    await world.look()
    gone = world.client.remove(SERVICES, "alpha")
    world.store.drop(SERVICES, ("mesh", "alpha"), uid=gone["metadata"]["uid"], version=999)
    world.client.writes.clear()
    await world.look()
    assert world.client.writes == [("apply", "services", "alpha")]


async def test_a_child_whose_deletion_was_missed_is_made_again_at_the_second_look(world: World) -> None:
    """Expect the conflict to make the reconciler look for itself."""
    world.make_cell()
    await world.look()
    world.client.remove(STATEFUL_SETS, "alpha")
    world.make_cell(replicas=2)
    assert (await world.look()).again
    assert not (await world.look()).again
    assert world.client.there(STATEFUL_SETS, "alpha") is not None


async def test_what_others_change_is_set_right_and_later_each_time(world: World) -> None:
    """Expect an apply, an Event, and a wait in case it happens again."""
    world.make_cell()
    await world.look()
    live = world.client.there(STATEFUL_SETS, "alpha")
    assert live is not None
    live["spec"]["replicas"] = 7
    world.tell(STATEFUL_SETS, world.client.put(STATEFUL_SETS, live))
    world.client.writes.clear()
    outcome = await world.look()
    await world.send_notices()
    assert world.client.writes[0] == ("apply", "statefulsets", "alpha")
    assert outcome.again
    assert not outcome.failed
    after = world.client.there(STATEFUL_SETS, "alpha")
    assert after is not None
    assert after["spec"]["replicas"] == 1


async def test_what_a_pod_left_behind_is_reported_once_and_kept(world: World) -> None:
    """Expect last words of a pod that is gone to reach the status, to be forgotten, and to survive a restart."""
    world.make_cell(replicas=2, storage={"ephemeral": {}})
    await world.look()
    await world.run_pods()
    await world.look()
    pod = world.client.there(PODS, "alpha-1")
    assert pod is not None
    message = '{"remaining":4,"unsent":2}'
    state = {"phase": "Running", "containerStatuses": [{"name": "cell", "state": {"terminated": {"message": message}}}]}
    gone = {**pod, "metadata": {**pod["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": state}
    gone = world.tell(PODS, world.client.put(PODS, gone))
    world.store.drop(PODS, ("mesh", "alpha-1"), uid=gone["metadata"]["uid"], version=10**6)

    await world.look()
    await world.send_notices()
    world.client.writes.clear()
    await world.look()

    left = [{"instance": "alpha-1", "remaining": 4, "unsent": 2, "lost": True}]
    cell = world.client.there(CELLS, "alpha")
    assert cell is not None
    assert (cell["status"]["messagesLeft"], world.client.writes) == (left, [])
    assert world.conditions()[reasons.MESSAGES_LEFT] == ("True", reasons.MESSAGES_LOST)
    assert world.store.departed(("mesh", "alpha")) == ()
    assert reasons.MESSAGES_LOST in world.events()
    again = World(world.client)
    again.tell_all()
    await again.look()
    cell = world.client.there(CELLS, "alpha")
    assert cell is not None
    assert cell["status"]["messagesLeft"] == left


async def test_what_a_pod_left_behind_waits_for_a_report_that_succeeds(world: World) -> None:
    """Expect it not to be forgotten while the API server does not take the status."""
    world.make_cell(storage={"ephemeral": {}})
    await world.look()
    await world.run_pods()
    pod = world.client.there(PODS, "alpha-0")
    assert pod is not None
    message = '{"remaining":4,"unsent":2}'
    state = {"phase": "Failed", "containerStatuses": [{"name": "cell", "state": {"terminated": {"message": message}}}]}
    world.tell(PODS, world.client.put(PODS, {**pod, "status": state}))
    world.store.drop(PODS, ("mesh", "alpha-0"), uid=pod["metadata"]["uid"], version=10**6)
    world.client.refuse["apply", "cells/status"] = ApiError(500, "InternalError", "etcd is away")

    with pytest.raises(ApiError):
        await world.look()

    world.client.refuse.clear()
    await world.look()
    assert world.conditions()[reasons.MESSAGES_LEFT] == ("True", reasons.MESSAGES_LOST)


async def test_a_webhook_that_changes_our_fields_makes_no_loop(world: World) -> None:
    """Expect every look to ask for a longer wait, and the Event once."""

    def mutate(resource: Any, item: Any) -> Any:
        if resource == STATEFUL_SETS:
            item["spec"]["replicas"] = 3
        return item

    world.client.mutate = mutate
    world.make_cell()
    await world.look()
    outcomes = []
    for _ in range(3):
        outcomes.append(await world.look())
        world.now += 5
        await world.send_notices()
    assert all(outcome.again for outcome in outcomes)
    assert world.events().count(reasons.FIELDS_CHANGED) == 1


async def test_a_refusal_is_reported_and_tried_again(world: World) -> None:
    """Expect what the API server said in the conditions and an Event, no later action, and a backoff."""
    world.client.refuse["apply", "services"] = ApiError(403, "Forbidden", "exceeded quota: services")
    world.make_cell()
    outcome = await world.look()
    await world.send_notices()
    assert outcome.again
    assert outcome.failed
    assert world.client.written("statefulsets") == 0
    cell = world.client.there(CELLS, "alpha")
    assert cell is not None
    assert "exceeded quota" in str(cell["status"]["conditions"])
    assert world.events() == [reasons.APPLY_REFUSED]
    world.client.refuse.clear()
    assert not (await world.look()).again


async def test_the_same_refusal_again_writes_nothing_more(world: World) -> None:
    """Expect neither the status nor an Event at the second attempt."""
    world.client.refuse["apply", "services"] = ApiError(422, "Invalid", "no")
    world.make_cell()
    await world.look()
    world.client.writes.clear()
    world.now += 3600
    await world.look()
    await world.send_notices()
    assert [write for write in world.client.writes if write[1] != "services"] == [
        write for write in world.client.writes if write[1] == "events"
    ]
    assert world.client.written("cells/status") == 0


async def test_a_server_that_is_away_is_no_failure_of_the_cell(world: World) -> None:
    """Expect the error to be raised to the worker and nothing to be reported."""
    world.make_cell()
    world.client.away = True
    with pytest.raises(ConnectionLost):
        await world.look()
    world.client.away = False
    await world.look()
    assert world.conditions()[reasons.UP_TO_DATE] == ("True", reasons.APPLIED)


async def test_a_cell_that_is_gone_is_forgotten(world: World) -> None:
    """Expect no request, and it no longer to be counted."""
    world.make_cell()
    await world.look()
    assert sum(world.reconciler.counts().values()) > 0
    gone = world.client.remove(CELLS, "alpha")
    world.store.drop(CELLS, ("mesh", "alpha"), uid=gone["metadata"]["uid"], version=999)
    world.client.writes.clear()
    assert not (await world.look()).again
    assert world.client.writes == []
    assert world.reconciler.counts() == {}


async def test_a_cell_that_is_being_deleted_is_left_to_the_garbage_collector(world: World) -> None:
    """Expect no child to be made anew."""
    cell = world.make_cell()
    cell["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    world.tell(CELLS, world.client.put(CELLS, cell))
    await world.look()
    assert world.client.writes == []


async def test_a_cell_that_is_deleted_while_it_is_looked_at_is_no_failure(world: World) -> None:
    """Expect nothing to be tried again and no warning: the watch is about to tell."""
    world.make_cell()
    world.client.remove(CELLS, "alpha")
    outcome = await world.look()
    assert (outcome.failed, outcome.again) == (False, False)


async def test_the_status_of_a_cell_that_was_made_anew_is_not_written(world: World) -> None:
    """Expect a report about a former Cell of this name to be refused, and to be tried again with the new one."""
    world.make_cell()
    stale = world.store.get(CELLS, ("mesh", "alpha"))
    world.client.remove(CELLS, "alpha")
    fresh = world.client.put(CELLS, {"metadata": {"name": "alpha", "uid": "fresh"}, "spec": {}})
    assert stale is not None
    with pytest.raises(ApiError, match="uid"):
        await world.look()
    found = world.client.there(CELLS, "alpha")
    assert found == fresh


async def test_a_budget_is_asked_for_only_where_one_is_wanted(world: World) -> None:
    """Expect no request about it for one instance, an apply for two, a deletion when scaled back."""
    world.make_cell()
    await world.look()
    assert ("get", "poddisruptionbudgets") not in world.client.reads
    world.make_cell(replicas=2)
    await world.look()
    assert world.client.there(POD_DISRUPTION_BUDGETS, "alpha") is not None
    world.make_cell(replicas=1)
    await world.look()
    assert world.client.there(POD_DISRUPTION_BUDGETS, "alpha") is None
    assert world.store.get(POD_DISRUPTION_BUDGETS, ("mesh", "alpha")) is None


async def test_events_about_pods_are_read_only_when_pods_are_lacking_for_a_while(world: World) -> None:
    """Expect none for a Cell that is just starting, and its failure in the conditions afterwards."""
    world.make_cell(storage={"ephemeral": {}})
    await world.look()
    outcome = await world.look()
    assert ("list", "events") not in world.client.reads
    assert outcome.again_in == LACKING_FIRST
    found = world.client.there(STATEFUL_SETS, "alpha")
    assert found is not None
    world.client.put(
        EVENTS,
        {
            "metadata": {"name": "e"},
            "involvedObject": {"uid": found["metadata"]["uid"]},
            "reason": "FailedCreate",
            "message": "create Pod alpha-0 in StatefulSet alpha failed error: exceeded quota: pods",
            "lastTimestamp": "2026-01-01T23:00:00Z",
        },
    )
    world.now += LACKING_FIRST
    outcome = await world.look()
    assert world.conditions()[reasons.READY] == ("False", reasons.QUOTA_EXCEEDED)
    assert outcome.again_in == pytest.approx(2 * LACKING_FIRST)


async def test_events_are_not_read_once_the_pods_are_there(world: World) -> None:
    """Expect the check to end with its cause."""
    world.make_cell(storage={"ephemeral": {}})
    await world.look()
    await world.look()
    await world.run_pods()
    world.now += 60
    outcome = await world.look()
    assert ("list", "events") not in world.client.reads
    assert outcome.again_in is None


async def test_storage_classes_are_read_once_in_a_while_and_only_for_volumes(world: World) -> None:
    """Expect one list for many looks, and none for an ephemeral Cell."""
    world.make_cell(storage={"ephemeral": {}})
    await world.look()
    assert ("list", "storageclasses") not in world.client.reads
    for name in ("a", "b"):
        world.make_cell(name)
        await world.look(name)
    assert world.client.reads.count(("list", "storageclasses")) == 1


async def test_a_reconciler_that_may_not_read_storage_classes_goes_on(world: World) -> None:
    """Expect the children all the same: with Roles only, these are out of reach."""
    world.client.refuse["list", STORAGE_CLASSES.plural] = ApiError(403, "Forbidden", "no")
    world.make_cell()
    await world.look()
    assert world.client.there(STATEFUL_SETS, "alpha") is not None


async def test_news_from_the_operator_reach_a_few_cells_at_a_time(world: World) -> None:
    """Expect another default image to be applied to two of three Cells, and to the third when one is Ready again."""
    names = ["a", "b", "c"]
    for name in names:
        world.make_cell(name, storage={"ephemeral": {}})
        await world.look(name)
        await world.run_pods(name)
        await world.look(name)
    later = World(world.client, cell_image="cellmesh-cell:2", max_concurrent=2)
    later.tell_all()
    later.reconciler.prepare()
    later.client.writes.clear()
    for name in names:
        await later.look(name)
    assert later.client.written("statefulsets") == 2
    assert later.conditions("c")[reasons.UP_TO_DATE] == ("False", reasons.WAITING_FOR_ROLLOUT)
    await later.run_pods("a")
    await later.look("a")
    assert later.woken == [("mesh", "c")]
    await later.look("c")
    assert later.client.written("statefulsets") == 3
    assert later.conditions("c")[reasons.UP_TO_DATE] == ("True", reasons.APPLIED)


async def test_a_restart_in_the_middle_of_a_rollout_reaches_no_further_cells(world: World) -> None:
    """Expect the Cell that is being rolled out to keep its slot in the reconciler's next life."""
    for name in ("a", "b"):
        world.make_cell(name, storage={"ephemeral": {}})
        await world.look(name)
        await world.run_pods(name)
        await world.look(name)
    client = world.client
    for _ in range(2):
        life = World(client, cell_image="cellmesh-cell:2", max_concurrent=1)
        life.now += 60
        life.tell_all()
        life.reconciler.prepare()
        for name in ("a", "b"):
            await life.look(name)
    assert life.conditions("b")[reasons.UP_TO_DATE] == ("False", reasons.WAITING_FOR_ROLLOUT)


async def test_a_change_by_the_cells_author_waits_for_nobody(world: World) -> None:
    """Expect it to be applied although every slot is taken."""
    for name in ("a", "b"):
        world.make_cell(name, storage={"ephemeral": {}})
        await world.look(name)
        await world.run_pods(name)
        await world.look(name)
    later = World(world.client, cell_image="cellmesh-cell:2", max_concurrent=1)
    later.tell_all()
    later.reconciler.prepare()
    await later.look("a")
    later.make_cell("b", storage={"ephemeral": {}}, replicas=2)
    await later.look("b")
    found = later.client.there(STATEFUL_SETS, "b")
    assert found is not None
    assert found["spec"]["replicas"] == 2


async def test_scaling_does_not_let_a_change_of_the_operator_out_of_turn(world: World) -> None:
    """Expect the number of instances at once, by one write, and the image when it is the Cell's turn."""
    for name in ("a", "b"):
        world.make_cell(name, storage={"ephemeral": {}})
        await world.look(name)
        await world.run_pods(name)
        await world.look(name)
    later = World(world.client, cell_image="cellmesh-cell:2", max_concurrent=1)
    later.tell_all()
    later.reconciler.prepare()
    await later.look("a")
    later.make_cell("b", storage={"ephemeral": {}}, replicas=3)
    later.client.writes.clear()

    def replicas_and_image() -> tuple[int, str]:
        found = later.client.there(STATEFUL_SETS, "b")
        assert found is not None
        return found["spec"]["replicas"], found["spec"]["template"]["spec"]["containers"][0]["image"]

    await later.look("b")
    await later.look("b")
    assert later.client.written("statefulsets") == 1
    assert replicas_and_image() == (3, "cellmesh-cell:1")
    for name in ("b", "a"):
        await later.run_pods(name)
        await later.look(name)
    assert later.woken == [("mesh", "b")]
    await later.look("b")
    assert replicas_and_image() == (3, "cellmesh-cell:2")


async def test_children_bear_their_owner(world: World) -> None:
    """Expect the Cell as controller, so that the garbage collector takes them with it."""
    cell = world.make_cell()
    await world.look()
    for kind in (SERVICE_ACCOUNTS, SERVICES, STATEFUL_SETS):
        found = world.client.there(kind, "alpha")
        assert found is not None
        (owner,) = found["metadata"]["ownerReferences"]
        assert (owner["uid"], owner["controller"]) == (cell["metadata"]["uid"], True)
