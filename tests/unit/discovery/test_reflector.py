"""Following the API server: lists, watches, losses, and what a watch has missed."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from cellmesh_operator.discovery.mirror import Mirror
from cellmesh_operator.discovery.reflector import Pace, Reflector
from cellmesh_operator.errors import ApiError
from support import eventually_async
from unit.discovery.fake_api import CELLS, FakeApi, cell

pytestmark = pytest.mark.anyio

FAST = Pace(compare=0.05, grace=0.01, backoff=0.01, max_backoff=0.02)
#: Comparisons far away: what is seen, the watch has told.
WATCHING = Pace(compare=1000, backoff=0.01, max_backoff=0.02)


class Fixture:
    """A reflector of Cells on a fake API server."""

    def __init__(self, pace: Pace, namespace: str | None = None) -> None:
        self.api = FakeApi()
        self.mirror: Mirror[str] = Mirror(lambda item: item["metadata"]["name"], lambda _old, _new: None)
        self.reflector = Reflector(CELLS, namespace, self.mirror, clock=time.monotonic, pace=pace)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Follow, once the first list has come."""
        task = asyncio.create_task(self.reflector.run(self.api))
        try:
            await eventually_async(lambda: self.reflector.synced, within=5, message="the first list")
            yield
            assert not task.done(), task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def holds(self, *names: str) -> None:
        """Wait until the mirror holds exactly these names."""

        def there() -> bool:
            held = sorted(facts for _, facts in self.mirror._held.values() if facts)
            return self.reflector.synced and held == sorted(names)

        await eventually_async(there, within=5, message=f"the mirror to hold {names}")

    async def watches(self, number: int = 1) -> None:
        """Wait until so many watches have been begun."""
        await eventually_async(lambda: self.api.count("watch", CELLS) >= number, within=5, message="a watch")


async def test_it_is_synced_by_an_empty_list_too() -> None:
    """Expect readiness with no object at all."""
    fixture = Fixture(WATCHING)
    async with fixture.running():
        assert (len(fixture.mirror), fixture.reflector.open) == (0, True)


async def test_it_follows_what_comes_changes_and_goes() -> None:
    """Expect each change by the watch, with one list in all."""
    fixture = Fixture(WATCHING)
    fixture.api.put(CELLS, cell("a"))
    async with fixture.running():
        await fixture.watches()
        fixture.api.put(CELLS, cell("b"))
        fixture.api.remove(CELLS, "m", "a")
        await fixture.holds("b")
        assert fixture.api.count("list", CELLS) == 1


async def test_it_follows_only_its_namespace() -> None:
    """Expect nothing of another one, listed or watched."""
    fixture = Fixture(WATCHING, namespace="m")
    fixture.api.put(CELLS, cell("elsewhere", "n"))
    async with fixture.running():
        await fixture.watches()
        fixture.api.put(CELLS, cell("elsewhere-too", "n"))
        fixture.api.put(CELLS, cell("here"))
        await fixture.holds("here")


async def test_what_was_deleted_while_the_connection_was_cut_is_gone_after_it() -> None:
    """Expect a list after a loss to tell what no watch will."""
    fixture = Fixture(WATCHING)
    for name in ("a", "b"):
        fixture.api.put(CELLS, cell(name))
    async with fixture.running():
        await fixture.watches()
        fixture.api.away = True
        fixture.api.cut()
        await eventually_async(lambda: not fixture.reflector.open, within=5, message="the loss to be noticed")
        fixture.api.remove(CELLS, "m", "a")
        fixture.api.put(CELLS, cell("c"))
        fixture.api.away = False
        await fixture.holds("b", "c")
        assert fixture.reflector.restarts >= 1


async def test_a_watch_that_is_too_far_behind_is_begun_anew_from_a_list() -> None:
    """Expect 410 to be no error, and the deleted object gone."""
    fixture = Fixture(WATCHING)
    fixture.api.put(CELLS, cell("a"))

    def behind(verb: str) -> None:
        if verb == "watch" and fixture.api.count("watch", CELLS) == 1:
            fixture.api.remove(CELLS, "m", "a")
            fixture.api.compact()

    fixture.api.stop_before = behind
    async with fixture.running():
        await fixture.holds()
        await fixture.watches(2)
        assert (fixture.reflector.problem, fixture.reflector.restarts) == ("", 1)


async def test_a_watch_that_ends_in_good_order_goes_on_where_a_bookmark_said() -> None:
    """Expect no other list, and no question for versions that may be gone."""
    fixture = Fixture(WATCHING)
    since: list[str] = []
    watch = fixture.api.watch

    async def ending(*arguments: Any, **options: Any) -> Any:
        since.append(options["since"])
        async with contextlib.aclosing(watch(*arguments, **options)) as changes:
            async for kind, item in changes:
                yield kind, item
                if kind == "BOOKMARK":
                    return

    fixture.api.watch = ending  # type: ignore[method-assign]
    async with fixture.running():
        await fixture.watches()
        fixture.api.put(CELLS, cell("a"))
        await fixture.holds("a")
        fixture.api.version += 50
        fixture.api.bookmark(CELLS)
        await fixture.watches(2)
        fixture.api.put(CELLS, cell("b"))
        await fixture.holds("a", "b")
    assert (since, fixture.api.count("list", CELLS)) == (["100", "151"], 1)


async def test_changes_that_a_watch_swallows_are_repaired_and_counted() -> None:
    """Expect the created and the deleted object within a comparison or two."""
    fixture = Fixture(FAST)
    for name in ("a", "b"):
        fixture.api.put(CELLS, cell(name))
    async with fixture.running():
        fixture.api.silent = True
        fixture.api.remove(CELLS, "m", "a")
        fixture.api.put(CELLS, cell("c"))
        await fixture.holds("b", "c")
        assert fixture.reflector.repairs == 2
        assert not fixture.reflector.broken


async def test_a_watch_that_needs_repairs_three_times_running_is_broken() -> None:
    """Expect liveness to be told after the third, and not before."""
    fixture = Fixture(FAST)
    seen: list[tuple[int, bool]] = []

    def swallow(verb: str) -> None:
        if verb == "list":  # something new for every list, of which no watch tells
            seen.append((fixture.reflector.repairs, fixture.reflector.broken))
            fixture.api.put(CELLS, cell(f"c{len(seen)}"))

    fixture.api.silent = True
    fixture.api.stop_before = swallow
    async with fixture.running():
        await eventually_async(lambda: fixture.reflector.broken, within=5, message="it to be broken")
    assert {repairs for repairs, _ in seen} >= {0, 1, 2}
    assert all(broken == (repairs >= 3) for repairs, broken in seen)


async def test_a_comparison_that_finds_nothing_clears_the_watch() -> None:
    """Expect two repairs, a clean comparison and two repairs more not to be three running."""
    fixture = Fixture(FAST)
    compared = 0

    def swallow(verb: str) -> None:
        nonlocal compared
        if verb == "list" and fixture.reflector.repairs < 4:
            compared += fixture.reflector.repairs == 2
            if compared != 2:  # after two repairs: the list anew, and one clean comparison
                fixture.api.put(CELLS, cell(f"c{fixture.api.version}"))

    fixture.api.silent = True
    fixture.api.stop_before = swallow
    async with fixture.running():
        await eventually_async(lambda: fixture.reflector.repairs >= 4, within=5, message="four repairs")
        assert compared >= 2
        assert not fixture.reflector.broken


async def test_a_change_that_is_on_its_way_is_no_repair() -> None:
    """Expect a watch that lags behind a list a little not to be suspected."""
    fixture = Fixture(Pace(compare=0.05, grace=1, backoff=0.01))
    async with fixture.running():
        fixture.api.silent = True
        fixture.api.put(CELLS, cell("a"))
        lists = fixture.api.count("list", CELLS)
        await eventually_async(
            lambda: fixture.api.count("list", CELLS) > lists, within=5, message="a list that knows of it"
        )
        fixture.api.silent = False
        fixture.api.bookmark(CELLS)
        await fixture.holds("a")
        await eventually_async(
            lambda: fixture.api.count("list", CELLS) > lists + 1, within=5, message="the next comparison"
        )
        assert fixture.reflector.repairs == 0


async def test_a_watch_that_is_lost_during_a_comparison_has_not_missed_anything() -> None:
    """Expect what the list knew to be taken in by the next one, and no repair to be counted."""
    fixture = Fixture(Pace(compare=0.05, grace=30, backoff=0.01))
    async with fixture.running():
        await fixture.watches()
        fixture.api.silent = True
        fixture.api.put(CELLS, cell("a"))
        lists = fixture.api.count("list", CELLS)
        await eventually_async(
            lambda: fixture.api.count("list", CELLS) > lists, within=5, message="a list that knows of it"
        )
        fixture.api.cut()
        await fixture.holds("a")
        assert (fixture.reflector.repairs, fixture.reflector.restarts) == (0, 1)


async def test_a_restored_api_server_is_believed() -> None:
    """Expect objects with smaller versions than before to be taken in."""
    fixture = Fixture(WATCHING)
    fixture.api.put(CELLS, cell("a"))
    async with fixture.running():
        await fixture.watches()
        fixture.api.put(CELLS, cell("lost"))
        await fixture.holds("a", "lost")
        del fixture.api._objects["cells", "m", "lost"]
        fixture.api.restore(20)
        await fixture.holds("a")
        fixture.api.put(CELLS, cell("b"))
        await fixture.holds("a", "b")


@pytest.mark.parametrize(
    ("refusal", "remedy"),
    [
        (ApiError(404, "NotFound", "the server could not find the requested resource"), "install the custom resource"),
        (ApiError(403, "Forbidden", "cells is forbidden"), "grant it"),
        (ApiError(500, "InternalError", "etcd has no leader"), "etcd has no leader"),
    ],
)
async def test_a_refusal_is_said_once_with_its_remedy_and_tried_again(
    refusal: ApiError, remedy: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Expect one line while it lasts, and everything to go on when it is over."""
    fixture = Fixture(FAST)
    fixture.api.refuse["list"] = refusal
    fixture.api.put(CELLS, cell("a"))
    task = asyncio.create_task(fixture.reflector.run(fixture.api))
    with caplog.at_level(logging.WARNING):
        await eventually_async(lambda: fixture.api.count("list", CELLS) > 3, within=5, message="attempts")
    assert remedy in fixture.reflector.problem
    assert caplog.text.count(remedy) == 1
    assert not fixture.reflector.synced
    fixture.api.refuse.clear()
    await fixture.holds("a")
    assert fixture.reflector.problem == ""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_what_is_known_is_confirmed_by_what_comes_and_not_while_nothing_does() -> None:
    """Expect the time of the last word from the API server."""
    fixture = Fixture(WATCHING)
    now = 1000.0
    fixture.reflector._clock = lambda: now
    async with fixture.running():
        await fixture.watches()
        assert fixture.reflector.confirmed == 1000
        now = 1010.0
        fixture.api.version += 1
        fixture.api.bookmark(CELLS)
        await eventually_async(lambda: fixture.reflector.confirmed == 1010, within=5, message="the bookmark")
        fixture.api.away = True
        fixture.api.cut()
        await eventually_async(lambda: not fixture.reflector.open, within=5, message="the loss")
        now = 1020.0
        assert fixture.reflector.confirmed == 1010
