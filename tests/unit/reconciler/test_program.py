"""The reconciler's parts together: changes that other threads hand over."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from cellmesh_operator.naming import CELL_LABEL, CELLS, PODS
from cellmesh_operator.reconciler.metrics import Metrics
from cellmesh_operator.reconciler.program import Program
from cellmesh_operator.reconciler.settings import Settings
from support import eventually_async
from unit.reconciler.fake_client import FakeClient

pytestmark = pytest.mark.anyio


def program() -> Program:
    """Return a reconciler that does not run."""
    settings = Settings(discovery_url="http://discovery:8001", cell_image="cellmesh-cell:1")
    return Program(settings, FakeClient(), Metrics())  # type: ignore[arg-type]


def pod(name: str) -> dict[str, Any]:
    """Return a pod of a Cell."""
    metadata = {"name": name, "namespace": "mesh", "uid": name, "resourceVersion": "5", "labels": {CELL_LABEL: "a"}}
    return {"metadata": metadata}


async def test_two_that_hand_over_at_the_same_time_are_both_taken() -> None:
    """Expect a change that another thread has appended, and has not woken us for yet, to keep nobody from it."""
    found = program()
    found._handed.append((PODS, "ADDED", pod("a-0")))
    found._hand_over(PODS, "ADDED", pod("a-1"))
    await asyncio.sleep(0)
    assert set(found._store.keys(PODS)) == {("mesh", "a-0"), ("mesh", "a-1")}


async def test_nothing_that_threads_hand_over_is_left_lying() -> None:
    """Expect every change of several threads to be taken, with no more to wake us after the last."""
    found = program()
    names = [f"a-{number}" for number in range(400)]
    with ThreadPoolExecutor(4) as threads:
        loop = asyncio.get_running_loop()
        handing = [loop.run_in_executor(threads, found._hand_over, PODS, "ADDED", pod(name)) for name in names]
        await asyncio.gather(*handing)
    await eventually_async(lambda: len(found._store.keys(PODS)) == len(names), within=5)


async def test_the_last_state_of_a_pod_comes_with_its_deletion() -> None:
    """Expect last words to be known that no earlier change has told."""
    found = program()
    found._hand_over(CELLS, "ADDED", {"metadata": {**pod("a")["metadata"], "labels": {}}})
    found._hand_over(PODS, "ADDED", pod("a-1"))
    last = pod("a-1")
    last["metadata"] |= {"resourceVersion": "6", "deletionTimestamp": "2026-01-01T00:00:00Z"}
    ended = {"terminated": {"message": '{"remaining":1,"unsent":0}'}}
    found._hand_over(PODS, "DELETED", {**last, "status": {"containerStatuses": [{"name": "cell", "state": ended}]}})
    await asyncio.sleep(0)
    assert set(found._store.keys(PODS)) == set()
    assert [gone["metadata"]["name"] for gone in found._store.departed(("mesh", "a"))] == ["a-1"]


async def test_an_object_that_cannot_be_read_keeps_no_other_from_being_taken() -> None:
    """Expect what was handed over behind it to be known."""
    found = program()
    found._hand_over(CELLS, "ADDED", {"metadata": {}})
    found._hand_over(PODS, "ADDED", pod("a-0"))
    await asyncio.sleep(0)
    assert set(found._store.keys(PODS)) == {("mesh", "a-0")}
