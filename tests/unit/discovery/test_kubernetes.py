"""The HTTP API of a replica in Kubernetes, on an API server in memory."""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from cellmesh_operator.discovery.cluster import DOUBT
from cellmesh_operator.errors import ApiError
from support import eventually_async
from unit.discovery.fake_api import CELLS, LEASES, PODS, FakeApi, cell, pod
from unit.discovery.replicas import Replica, replicas

pytestmark = pytest.mark.anyio


@contextlib.asynccontextmanager
async def serving(api: FakeApi | None = None, **settings: Any) -> AsyncIterator[tuple[Replica, httpx2.AsyncClient]]:
    """Run a replica, synced or not, and a client of it."""
    replica = Replica(api or FakeApi(), **settings)
    transport = httpx2.ASGITransport(app=replica.app)
    async with (
        replica.discovery.running(),
        httpx2.AsyncClient(transport=transport, base_url="http://discovery") as client,
    ):
        yield replica, client


async def synced(replica: Replica) -> None:
    """Wait for the first complete lists."""
    await eventually_async(lambda: replica.cluster.synced, within=5, message="the first lists")


async def test_it_is_ready_once_all_complete_lists_have_come_also_with_no_cell_at_all() -> None:
    """Expect 503 naming what is missing and why, then 200."""
    api = FakeApi()
    api.refuse["list pods"] = ApiError(403, "Forbidden", "pods is forbidden")
    async with serving(api) as (replica, client):
        await eventually_async(lambda: "forbidden" in replica.cluster.missing, within=5, message="the refusal")
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
        assert "pods: may not list and watch" in answer.json()["error"]
        assert "cells" not in answer.json()["error"]
        assert (await client.get("/livez")).status_code == 200
        api.refuse.clear()
        await synced(replica)
        assert (await client.get("/readyz")).status_code == 200


async def test_it_stays_ready_and_serves_what_it_knew_while_the_api_server_is_away() -> None:
    """Expect the pod, its age in body, header and metric, and last_seen not to move on."""
    api = FakeApi()
    api.put(CELLS, cell("pure"))
    api.put(PODS, pod("pure-0"))
    async with serving(api) as (replica, client):
        await synced(replica)
        fresh = await client.get("/peers")
        assert (fresh.json()["age"], fresh.headers["age"]) == (0.0, "0")
        api.away = True
        api.cut()
        await eventually_async(lambda: not replica.cluster.in_contact, within=5, message="the loss")
        replica.now += 42.5
        stale = await client.get("/peers")
        assert (stale.json()["count"], stale.json()["age"], stale.headers["age"]) == (1, 42.5, "42")
        assert stale.json()["peers"][0]["last_seen"] == fresh.json()["peers"][0]["last_seen"]
        assert stale.headers["etag"] == fresh.headers["etag"]
        assert (await client.get("/readyz")).status_code == 200
        assert (await client.get("/health")).json()["age"] == 42.5
        assert "cellmesh_discovery_age_seconds 42.5" in (await client.get("/metrics")).text


async def test_an_idle_api_server_is_asked_whether_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect silence of watches not to count as absence, and absence to be noticed without a broken connection."""
    monkeypatch.setattr("cellmesh_operator.discovery.cluster.PROBE", 0.05)
    async with serving() as (replica, _):
        await synced(replica)
        replica.now += DOUBT + 1
        assert not replica.cluster.in_contact
        await eventually_async(lambda: replica.cluster.in_contact, within=5, message="an answer")
        replica.now += DOUBT + 1
        assert not replica.cluster.in_contact


async def test_an_api_server_that_answers_does_not_make_up_for_a_watch_that_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Expect what is told to grow old when one kind cannot be followed any more."""
    monkeypatch.setattr("cellmesh_operator.discovery.cluster.PROBE", 0.05)
    api = FakeApi()
    async with serving(api) as (replica, _):
        await synced(replica)
        api.refuse["list pods"] = ApiError(403, "Forbidden", "pods is forbidden")
        api.cut()
        pods = next(one for one in replica.cluster.reflectors if one.resource is PODS)
        await eventually_async(lambda: not pods.open, within=5, message="the refusal")
        replica.now += 20
        asked = api.count("get", LEASES)
        await eventually_async(lambda: api.count("get", LEASES) > asked + 1, within=5, message="the API server asked")
        assert replica.cluster.age == 20


async def test_a_registration_too_large_to_be_shared_is_413() -> None:
    """Expect a body within the limit that does not fit with what discovery adds to be refused clearly."""
    async with serving() as (replica, client):
        await synced(replica)
        text = '{"cell_id":"laptop","ip":"h","port":1,"note":"%s"}'
        body = text % ("x" * (16 * 1024 - len(text) + 2))
        answer = await client.post("/register", content=body, headers={"content-type": "application/json"})
        assert (len(body), answer.status_code, answer.json()["code"]) == (16 * 1024, 413, "body_too_large")
        assert replica.names() == []


async def test_a_cell_without_a_ready_instance_is_known() -> None:
    """Expect known, no peers, and its name among those available for an unknown one."""
    api = FakeApi()
    api.put(CELLS, cell("pure"))
    api.put(PODS, pod("pure-0", ready=False))
    async with serving(api) as (replica, client):
        await synced(replica)
        body = (await client.get("/peers?cell_id=pure")).json()
        assert (body["known"], body["count"]) == (True, 0)
        unknown = (await client.get("/peers?cell_id=prue")).json()
        assert (unknown["known"], unknown["available_cells"]) == (False, ["pure"])
        assert (await client.get("/meshes")).json()["meshes"] == [{"namespace": "m", "cells": 1, "peers": 0}]


async def test_pods_and_registrations_are_told_side_by_side() -> None:
    """Expect both sources in one mesh, and counted apart."""
    api = FakeApi()
    api.put(CELLS, cell("pure"))
    api.put(PODS, pod("pure-0"))
    async with serving(api) as (replica, client):
        await synced(replica)
        await client.post("/register", json={"cell_id": "laptop", "ip": "h", "port": 1})
        peers = (await client.get("/peers")).json()["peers"]
        assert {peer["cell_id"]: peer["source"] for peer in peers} == {"pure": "pod", "laptop": "registered"}
        metrics = (await client.get("/metrics")).text
        for source in ("pod", "registered"):
            assert f'cellmesh_discovery_peers{{mesh="m",source="{source}"}} 1.0' in metrics


async def test_a_query_that_waits_is_woken_by_readiness() -> None:
    """Expect the pod as soon as it is Ready, and its going likewise."""
    api = FakeApi()
    api.put(CELLS, cell("pure"))
    api.put(PODS, pod("pure-0", ready=False))
    async with serving(api) as (replica, client):
        await synced(replica)
        version = (await client.get("/peers?cell_id=pure")).json()["version"]
        for ready in (True, False):
            query = asyncio.create_task(client.get(f"/peers?cell_id=pure&version={version}&wait=30s"))
            await eventually_async(lambda: len(replica.discovery.waiters) == 1, within=5, message="the query to wait")
            api.put(PODS, pod("pure-0", ready=ready))
            body = (await asyncio.wait_for(query, 5)).json()
            assert body["count"] == int(ready)
            version = body["version"]


async def test_a_query_of_an_unknown_name_is_woken_when_there_is_a_cell() -> None:
    """Expect known to be told before any instance is ready."""
    api = FakeApi()
    async with serving(api) as (replica, client):
        await synced(replica)
        version = (await client.get("/peers?cell_id=pure")).json()["version"]
        query = asyncio.create_task(client.get(f"/peers?cell_id=pure&version={version}&wait=30s"))
        await eventually_async(lambda: len(replica.discovery.waiters) == 1, within=5, message="the query to wait")
        api.put(CELLS, cell("pure"))
        assert (await asyncio.wait_for(query, 5)).json()["known"] is True


async def test_what_is_told_of_a_cell_is_complete_at_once_and_of_other_names_after_a_beat() -> None:
    """Expect settled of a Cell with the first lists, else once every living cell has been heard."""
    api = FakeApi()
    api.refuse["list leases"] = ApiError(500)
    api.put(CELLS, cell("pure"))
    async with serving(api, settle=6.0) as (replica, client):
        await eventually_async(lambda: replica.answer("pure")["known"], within=5, message="the Cell")
        assert (await client.get("/peers?cell_id=pure")).json()["settled"] is False
        api.refuse.clear()
        await synced(replica)
        assert (await client.get("/peers?cell_id=pure")).json()["settled"] is True
        assert (await client.get("/peers?cell_id=other")).json()["settled"] is False
        assert (await client.get("/peers")).json()["settled"] is False
        replica.now += 6
        replica.discovery.tick()
        assert (await client.get("/peers?cell_id=other")).json()["settled"] is True


async def test_a_query_that_waits_is_woken_by_the_first_complete_lists() -> None:
    """Expect the answer to be settled then, with the version it had."""
    api = FakeApi()
    api.refuse["list leases"] = ApiError(500)
    async with serving(api) as (replica, client):
        version = (await client.get("/peers")).json()["version"]
        query = asyncio.create_task(client.get(f"/peers?version={version}&wait=30s"))
        await eventually_async(lambda: len(replica.discovery.waiters) == 1, within=5, message="the query to wait")
        api.refuse.clear()
        body = (await asyncio.wait_for(query, 5)).json()
        assert (body["settled"], body["version"]) == (True, version)


async def test_replicas_answer_with_the_same_etag_and_versions_of_their_own() -> None:
    """Expect a client to be able to change replicas, and a version of another to be answered at once."""
    async with replicas() as both:
        one, two = both
        both.api.put(CELLS, cell("pure", type="pure"))
        both.api.put(CELLS, cell("idle"))
        for number in range(3):
            both.api.put(PODS, pod(f"pure-{number}", ip=f"10.0.0.{number}"))
        one.register("laptop")
        two.now += 1  # another replica's clock
        await both.see("laptop", "pure")
        for name in (None, "pure", "idle", "laptop", "nobody"):
            first, second = one.answer(name), two.answer(name)
            assert first["etag"] == second["etag"], name
            assert first["version"] != second["version"]


async def test_a_registration_under_a_cells_name_is_409() -> None:
    """Expect the code and the field."""
    api = FakeApi()
    api.put(CELLS, cell("pure"))
    async with serving(api) as (replica, client):
        await synced(replica)
        answer = await client.post("/register", json={"cell_id": "pure", "ip": "h", "port": 1})
        assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (409, "name_taken", "cell_id")
        elsewhere = await client.post("/meshes/n/register", json={"cell_id": "pure", "ip": "h", "port": 1})
        assert elsewhere.status_code == 200


async def test_a_pod_is_not_deregistered() -> None:
    """Expect 404, and the pod still there."""
    api = FakeApi()
    api.put(CELLS, cell("pure"))
    api.put(PODS, pod("pure-0"))
    async with serving(api) as (replica, client):
        await synced(replica)
        for url in ("/peer/pure", "/peer/pure?instance=pure-0"):
            assert (await client.delete(url)).status_code == 404
        assert (await client.post("/heartbeat", json={"cell_id": "pure", "instance": "pure-0"})).status_code == 404
        assert (await client.get("/peers")).json()["count"] == 1


async def test_only_the_namespaces_that_are_set_are_followed() -> None:
    """Expect a Cell of another namespace not to be known, and one list for each kind and namespace."""
    api = FakeApi()
    for namespace in ("m", "n", "o"):
        api.put(CELLS, cell("pure", namespace))
        api.put(PODS, pod("pure-0", namespace))
    async with serving(api, namespaces=("m", "n")) as (replica, client):
        await synced(replica)
        meshes = (await client.get("/meshes")).json()["meshes"]
        assert [mesh["namespace"] for mesh in meshes] == ["m", "n"]
        assert (api.count("list", CELLS), api.count("list", PODS), api.count("list", LEASES)) == (2, 2, 1)


async def test_liveness_fails_when_a_watch_is_broken() -> None:
    """Expect 503 with the reason, so that the kubelet starts it anew."""
    async with serving() as (replica, client):
        await synced(replica)
        replica.cluster.reflectors[1]._strikes = 3
        answer = await client.get("/livez")
        assert (answer.status_code, answer.json()["code"]) == (503, "broken")
        assert "the watch of pods misses changes" in answer.json()["error"]


async def test_liveness_fails_when_a_part_has_ended_by_an_error_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    """Expect 503, and where it happened in the log, without what the API server sent."""
    api = FakeApi()

    def fail(verb: str) -> None:
        if verb == "watch":
            raise RuntimeError("secret")

    api.stop_before = fail
    async with serving(api) as (replica, client):
        await eventually_async(lambda: replica.cluster.broken, within=5, message="the end")
        assert (await client.get("/livez")).status_code == 503
    assert "RuntimeError at fail" in caplog.text
    assert "secret" not in caplog.text


async def test_metrics_tell_of_watches_and_leases() -> None:
    """Expect restarts and repairs by kind, and writes."""
    async with replicas(1) as one:
        (replica,) = one
        replica.register("pure")
        await one.written()
        transport = httpx2.ASGITransport(app=replica.app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://d") as client:
            lines = (await client.get("/metrics")).text.splitlines()
    for line in (
        "cellmesh_discovery_synced 1.0",
        'cellmesh_discovery_watch_restarts_total{namespace="",resource="pods"} 0.0',
        'cellmesh_discovery_repairs_total{namespace="d",resource="leases"} 0.0',
        'cellmesh_discovery_lease_writes_total{kind="register"} 1.0',
        "cellmesh_discovery_lease_write_failures_total 0.0",
        "cellmesh_discovery_unwritten_registrations 0.0",
    ):
        assert line in lines


async def test_without_kubernetes_nothing_of_it_is_told(client: httpx2.AsyncClient) -> None:
    """Expect a laptop's answers as they always were."""
    answer = await client.get("/peers")
    assert answer.json().keys() == {"peers", "count", "version", "settled"}
    assert "age" not in answer.headers
    assert "age" not in (await client.get("/health")).json()
    assert "lease" not in (await client.get("/metrics")).text


def test_without_kubernetes_its_client_is_not_loaded() -> None:
    """Expect a laptop to need neither kubernetes nor aiohttp."""
    code = (
        "import sys; import cellmesh_operator.discovery.__main__, cellmesh_operator.discovery.server; "
        "print(*sorted({name.partition('.')[0] for name in sys.modules} & {'kubernetes', 'aiohttp', 'kopf'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == ""
