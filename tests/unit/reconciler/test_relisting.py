"""Complete lists: what watches have missed is put right, counted, and no more than that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cellmesh_operator.errors import ApiError
from cellmesh_operator.naming import CELL_LABEL, CELLS, PODS, SERVICES, STATEFUL_SETS
from cellmesh_operator.reconciler.metrics import Metrics
from cellmesh_operator.reconciler.relisting import BROKEN_AFTER, GRACE, PATIENCE, Relisting
from cellmesh_operator.reconciler.store import Key, Store
from unit.reconciler.fake_client import FakeClient

pytestmark = pytest.mark.anyio

LABELS = {CELL_LABEL: "alpha"}


class Lists:
    """Comparisons whose waits move a clock instead."""

    def __init__(self, **more: Any) -> None:
        self.client, self.store, self.metrics = FakeClient(), Store(), Metrics()
        self.now, self.repaired = 0.0, list[Key]()
        self.newest = 0
        self.while_waiting: Callable[[], None] = lambda: None
        given: dict[str, Any] = {"scopes": (None,), "interval": 60.0, **more}
        self.relisting = Relisting(
            self.client,  # type: ignore[arg-type]
            self.store,
            self.metrics,
            progress=lambda _: self.newest,
            repaired=self.repaired.append,
            clock=lambda: self.now,
            sleep=self.sleep,
            **given,
        )

    async def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        self.while_waiting()

    def pod(self, name: str, namespace: str = "mesh") -> Any:
        """Make a pod without the watch telling."""
        return self.client.put(PODS, {"metadata": {"name": name, "namespace": namespace, "labels": LABELS}})

    async def compare(self, kind: Any = PODS) -> int:
        """Compare a kind once; return the number of repairs."""
        return await self.relisting._compare(kind, patient=True)


async def test_at_the_start_everything_is_read() -> None:
    """Expect all Cells to be named, and children and pods to be known."""
    lists = Lists()
    lists.client.put(CELLS, {"metadata": {"name": "alpha"}})
    lists.client.put(SERVICES, {"metadata": {"name": "alpha", "labels": LABELS}})
    lists.client.put(SERVICES, {"metadata": {"name": "other"}})
    lists.pod("alpha-0")
    assert await lists.relisting.fill() == [("mesh", "alpha")]
    assert lists.store.get(SERVICES, ("mesh", "alpha")) is not None
    assert lists.store.get(SERVICES, ("mesh", "other")) is None
    assert lists.store.count_of_cell(PODS, ("mesh", "alpha")) == 1
    found = lists.store.get(PODS, ("mesh", "alpha-0"))
    assert found is not None
    assert (found["kind"], found["apiVersion"]) == ("Pod", "v1")


async def test_a_list_that_is_refused_says_so() -> None:
    """Expect the start without the definition of Cells to fail as such."""
    lists = Lists()
    lists.client.refuse["heads", "cells"] = ApiError(404, "NotFound")
    with pytest.raises(ApiError) as caught:
        await lists.relisting.fill()
    assert caught.value.not_found


async def test_what_was_deleted_in_a_gap_is_found() -> None:
    """Expect it to be forgotten and its Cell to be looked at."""
    lists = Lists()
    lists.pod("alpha-0")
    await lists.relisting.fill()
    lists.repaired.clear()
    lists.client.remove(PODS, "alpha-0")
    assert await lists.compare() == 1
    assert lists.store.get(PODS, ("mesh", "alpha-0")) is None
    assert lists.repaired == [("mesh", "alpha")]


async def test_what_was_made_and_changed_in_a_gap_is_found() -> None:
    """Expect both states to be known afterwards."""
    lists = Lists()
    lists.pod("alpha-0")
    await lists.relisting.fill()
    lists.repaired.clear()
    found = lists.client.there(PODS, "alpha-0")
    assert found is not None
    lists.client.put(PODS, {**found, "status": {"phase": "Running"}})
    lists.pod("alpha-1")
    assert await lists.compare() == 2
    now = lists.store.get(PODS, ("mesh", "alpha-0"))
    assert now is not None
    assert now["status"] == {"phase": "Running"}
    assert lists.store.count_of_cell(PODS, ("mesh", "alpha")) == 2


async def test_what_the_watch_brings_by_itself_is_no_repair() -> None:
    """Expect a watch that is merely behind to be waited for."""
    lists = Lists()
    await lists.relisting.fill()
    late = lists.pod("alpha-0")
    lists.while_waiting = lambda: lists.store.put(PODS, late) and None
    assert await lists.compare() == 0
    assert lists.now < GRACE


async def test_a_watch_that_makes_progress_is_waited_for_longer_but_not_for_ever() -> None:
    """Expect patience with one that is busy, and an end to it."""
    lists = Lists()
    await lists.relisting.fill()
    lists.pod("alpha-0")

    def advance() -> None:
        lists.newest += 1

    lists.while_waiting = advance
    assert await lists.compare() == 1
    assert PATIENCE <= lists.now < PATIENCE + GRACE


async def test_a_watch_without_progress_is_not_waited_for_long() -> None:
    """Expect a repair within seconds."""
    lists = Lists()
    await lists.relisting.fill()
    lists.pod("alpha-0")
    assert await lists.compare() == 1
    assert lists.now < 2 * GRACE


async def test_what_is_newer_than_the_list_stays() -> None:
    """Expect an object that was made after the list was taken not to be taken for gone."""
    lists = Lists()
    await lists.relisting.fill()
    real = lists.client.heads

    async def slow(*given: Any, **more: Any) -> Any:
        answer = await real(*given, **more)
        lists.store.put(PODS, lists.pod("alpha-0"))
        return answer

    lists.client.heads = slow  # type: ignore[method-assign]
    assert await lists.compare() == 0
    assert lists.store.get(PODS, ("mesh", "alpha-0")) is not None


async def restored(lists: Lists) -> None:
    """Have two pods known, then restore a backup that has the first in an older state and not the second."""
    old = lists.pod("alpha-0")
    lists.client.put(PODS, {**old, "status": {"phase": "Running"}})
    lists.pod("alpha-1")
    await lists.relisting.fill()
    lists.repaired.clear()
    lists.client.remove(PODS, "alpha-1")
    lists.client.remove(PODS, "alpha-0")
    lists.client.version = int(old["metadata"]["resourceVersion"]) - 1
    again = lists.pod("alpha-0")
    again["metadata"]["uid"] = old["metadata"]["uid"]
    lists.client._objects[PODS.plural, "mesh", "alpha-0"] = again


@pytest.mark.parametrize("later", [0, 1000], ids=["at once", "when versions have caught up"])
async def test_a_cluster_that_was_restored_is_believed(later: int) -> None:
    """Expect the older state to be known and what is not there to be forgotten, both counted, and changes after it."""
    lists = Lists()
    await restored(lists)
    lists.client.version += later
    assert await lists.compare() == 2
    assert lists.repaired == [("mesh", "alpha")] * 2
    found = lists.store.get(PODS, ("mesh", "alpha-0"))
    assert found is not None
    assert "status" not in found
    assert list(lists.store.keys(PODS)) == [("mesh", "alpha-0")]
    assert lists.store.put(PODS, lists.client.put(PODS, {**found, "status": {"phase": "Failed"}})) == ("mesh", "alpha")
    assert await lists.compare() == 0


async def test_a_namespace_that_was_not_restored_is_not_read_anew() -> None:
    """Expect versions of one scope to say nothing of another, as lists of both may be far apart in time."""
    lists = Lists(scopes=("mesh", "other"))
    lists.pod("alpha-0", "other")
    await restored(lists)
    lists.repaired.clear()
    assert lists.store.newest(PODS, "other") < lists.store.newest(PODS, "mesh")
    await lists.compare()
    assert lists.repaired == [("mesh", "alpha")] * 2


async def test_other_namespaces_are_not_compared() -> None:
    """Expect the list of one namespace to say nothing about another."""
    lists = Lists(scopes=("mesh", "other"))
    lists.pod("alpha-0")
    lists.pod("alpha-0", "other")
    await lists.relisting.fill()
    lists.client.remove(PODS, "alpha-0", "other")
    assert await lists.compare() == 1
    assert list(lists.store.keys(PODS)) == [("mesh", "alpha-0")]


async def test_a_watch_that_needs_repairs_again_and_again_is_broken() -> None:
    """Expect the third running to count, and one without repairs to begin anew."""
    lists = Lists()
    await lists.relisting.fill()
    for number in range(BROKEN_AFTER):
        assert lists.relisting.broken == []
        lists.pod(f"alpha-{number}")
        lists.relisting._note(PODS, await lists.compare())
    assert lists.relisting.broken == ["pods"]
    lists.relisting._note(PODS, await lists.compare())
    assert lists.relisting.broken == []


async def test_a_kind_that_was_listed_anew_is_compared_soon() -> None:
    """Expect the next comparison within seconds instead of a minute."""
    lists = Lists()
    await lists.relisting.fill()
    before = lists.relisting._due[STATEFUL_SETS]
    lists.relisting.request(STATEFUL_SETS)
    assert before > 5
    assert lists.relisting._due[STATEFUL_SETS] <= 2
    assert min(lists.relisting._due, key=lambda kind: lists.relisting._due[kind]) == STATEFUL_SETS


async def test_kinds_take_turns() -> None:
    """Expect comparisons to be spread over the interval, each kind once in it."""
    lists = Lists()
    await lists.relisting.fill()
    times = sorted(lists.relisting._due.values())
    assert len(set(times)) == len(times)
    assert times[-1] == 60.0
