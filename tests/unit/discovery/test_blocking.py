"""Queries that wait for something newer."""

import asyncio
from typing import Any
from urllib.parse import urlencode

import httpx2
import pytest

from support import eventually_async

pytestmark = pytest.mark.anyio

PURE = {"cell_id": "pure", "ip": "10.0.0.1", "port": 8002}


async def version(client: httpx2.AsyncClient, url: str = "/peers") -> str:
    """Return the version of a scope."""
    return (await client.get(url)).json()["version"]


def ask(client: httpx2.AsyncClient, url: str, known: str, wait: str = "30s") -> "asyncio.Task[httpx2.Response]":
    """Ask for something newer than ``known``, in a task."""
    parameters = urlencode({"version": known, "wait": wait})
    return asyncio.create_task(client.get(f"{url}{'&' if '?' in url else '?'}{parameters}"))


async def waiting(world: Any, count: int) -> None:
    """Return once so many queries wait."""
    await eventually_async(lambda: len(world.discovery.waiters) == count, within=5, message=f"{count} queries to wait")


async def test_a_registration_ends_the_wait(client: httpx2.AsyncClient, world: Any) -> None:
    """Expect the new peer and another version, long before the wait is over."""
    known = await version(client)
    query = ask(client, "/peers", known)
    await waiting(world, 1)
    await client.post("/register", json=PURE)
    body = (await asyncio.wait_for(query, 5)).json()
    assert body["count"] == 1
    assert body["version"] != known
    assert len(world.discovery.waiters) == 0


async def test_expiry_ends_the_wait(client: httpx2.AsyncClient, world: Any) -> None:
    """Expect to be told that a cell has fallen silent."""
    world.pass_time(7)
    await client.post("/register", json=PURE)
    query = ask(client, "/peers?cell_id=pure", await version(client, "/peers?cell_id=pure"))
    await waiting(world, 1)
    world.pass_time(15)
    assert (await asyncio.wait_for(query, 5)).json()["count"] == 0


async def test_deregistration_ends_the_wait(client: httpx2.AsyncClient, world: Any) -> None:
    """Expect to be told that a cell has left."""
    await client.post("/register", json=PURE)
    query = ask(client, "/peers", await version(client))
    await waiting(world, 1)
    await client.delete("/peer/pure")
    assert (await asyncio.wait_for(query, 5)).json()["count"] == 0


async def test_without_a_change_the_wait_ends_with_the_same_version(client: httpx2.AsyncClient, world: Any) -> None:
    """Expect a normal answer after the wait, in spite of a heartbeat meanwhile."""
    await client.post("/register", json=PURE)
    known = await version(client)
    query = ask(client, "/peers", known, "500ms")
    await waiting(world, 1)
    await client.post("/heartbeat", json={"cell_id": "pure"})
    body = (await asyncio.wait_for(query, 5)).json()
    assert (body["version"], body["count"]) == (known, 1)


@pytest.mark.parametrize("known", ["", "other-1", "nonsense", "🙂"])
async def test_a_version_of_another_life_is_answered_at_once(client: httpx2.AsyncClient, known: str) -> None:
    """Expect no waiting: what it stands for is not known here."""
    assert (await asyncio.wait_for(ask(client, "/peers", known), 5)).status_code == 200


async def test_wait_without_version_does_not_wait(client: httpx2.AsyncClient) -> None:
    """Expect an answer at once."""
    assert (await asyncio.wait_for(client.get("/peers?wait=30s"), 5)).status_code == 200


async def test_a_query_of_one_cell_sleeps_through_changes_of_others(client: httpx2.AsyncClient, world: Any) -> None:
    """Expect it to be still waiting after another cell came, and woken by its own."""
    query = ask(client, "/peers?cell_id=pure", await version(client, "/peers?cell_id=pure"))
    await waiting(world, 1)
    await client.post("/register", json={**PURE, "cell_id": "alpha"})
    await client.post("/meshes/other/register", json=PURE)
    assert not query.done()
    assert len(world.discovery.waiters) == 1
    await client.post("/register", json=PURE)
    assert (await asyncio.wait_for(query, 5)).json()["known"] is True


async def test_another_number_of_instances_ends_the_wait(client: httpx2.AsyncClient, world: Any) -> None:
    """Expect the new number for who asks for the Cell, and who asks for the mesh to sleep on."""
    registry = world.discovery.registry
    registry.declare("default", "pure", 2)
    first = (await client.get("/peers?cell_id=pure")).json()
    of_mesh = ask(client, "/peers", await version(client))
    query = ask(client, "/peers?cell_id=pure", first["version"])
    await waiting(world, 2)
    registry.declare("default", "pure", 0)
    body = (await asyncio.wait_for(query, 5)).json()
    assert (first["replicas"], body["replicas"], body["known"]) == (2, 0, True)
    assert not of_mesh.done()
    of_mesh.cancel()


async def test_settling_wakes_everyone(client: httpx2.AsyncClient, world: Any) -> None:
    """Expect the same version, now settled."""
    known = await version(client)
    query = ask(client, "/peers", known)
    await waiting(world, 1)
    world.pass_time(6.1)
    body = (await asyncio.wait_for(query, 5)).json()
    assert (body["settled"], body["version"]) == (True, known)


async def test_shutdown_answers_those_who_wait_and_those_who_come(client: httpx2.AsyncClient, world: Any) -> None:
    """Expect normal answers at once, before and after."""
    known = await version(client)
    query = ask(client, "/peers", known)
    await waiting(world, 1)
    world.discovery.waiters.close()
    assert (await asyncio.wait_for(query, 5)).status_code == 200
    assert (await asyncio.wait_for(ask(client, "/peers", known), 5)).json()["version"] == known


async def test_not_modified_after_the_wait(client: httpx2.AsyncClient) -> None:
    """Expect 304 when nothing came, for a client that sends its ETag along."""
    first = await client.get("/peers")
    answer = await client.get(
        "/peers",
        params={"version": first.json()["version"], "wait": "10ms"},
        headers={"if-none-match": first.headers["etag"]},
    )
    assert answer.status_code == 304


async def test_a_client_that_goes_away_leaves_no_waiter(client: httpx2.AsyncClient, world: Any) -> None:
    """Expect the query to end as soon as the server learns of it."""
    known = await version(client)
    gone = asyncio.Event()
    messages = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> dict:
        if messages:
            return messages.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(_message: dict) -> None:
        pass

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/peers",
        "query_string": f"version={known}&wait=60s".encode(),
        "headers": [],
    }
    query = asyncio.create_task(world.app(scope, receive, send))
    await waiting(world, 1)
    gone.set()
    await asyncio.wait_for(query, 5)
    assert len(world.discovery.waiters) == 0


async def test_a_cancelled_query_leaves_no_waiter(client: httpx2.AsyncClient, world: Any) -> None:
    """Expect nothing left behind when the server cuts a request off."""
    query = ask(client, "/peers", await version(client))
    await waiting(world, 1)
    query.cancel()
    with pytest.raises(asyncio.CancelledError):
        await query
    assert len(world.discovery.waiters) == 0


async def test_many_wait_and_all_are_told(client: httpx2.AsyncClient, world: Any) -> None:
    """Expect one change to answer two hundred queries."""
    known = await version(client)
    queries = [ask(client, "/peers", known) for _ in range(200)]
    await waiting(world, 200)
    await client.post("/register", json=PURE)
    answers = await asyncio.wait_for(asyncio.gather(*queries), 10)
    assert {answer.json()["count"] for answer in answers} == {1}
