"""The HTTP API, in process."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from cellmesh_operator.discovery import web

pytestmark = pytest.mark.anyio

PURE = {"cell_id": "pure", "ip": "10.0.0.1", "port": 8002}
JSON = {"content-type": "application/json"}


async def test_a_registered_cell_is_among_the_peers(client: httpx2.AsyncClient) -> None:
    """Expect the registration back, with what discovery adds."""
    answer = await client.post("/register", json={**PURE, "consciousness_level": 3.2})
    assert (answer.status_code, answer.json()) == (200, {"status": "registered", "cell_id": "pure"})
    body = (await client.get("/peers")).json()
    assert body["count"] == 1
    assert body["peers"] == [
        {
            **PURE,
            "consciousness_level": 3.2,
            "namespace": "default",
            "source": "registered",
            "last_seen": "2026-01-31T12:00:00.001000Z",
        }
    ]


async def test_the_default_mesh_is_also_there_by_its_name(client: httpx2.AsyncClient) -> None:
    """Expect one mesh under two URLs, and none of it in another mesh."""
    await client.post("/register", json=PURE)
    assert (await client.get("/meshes/default/peers")).json()["count"] == 1
    assert (await client.get("/meshes/other/peers")).json()["count"] == 0


async def test_every_operation_works_in_a_named_mesh(client: httpx2.AsyncClient) -> None:
    """Expect a whole life of a registration under /meshes/m."""
    assert (await client.post("/meshes/m/register", json=PURE)).status_code == 200
    beat = await client.post("/meshes/m/heartbeat", json={"cell_id": "pure"})
    assert beat.json() == {"status": "ok", "cell_id": "pure", "peers_count": 1}
    assert (await client.get("/meshes")).json() == {
        "meshes": [{"namespace": "m", "cells": 1, "peers": 1}],
        "count": 1,
    }
    gone = await client.delete("/meshes/m/peer/pure")
    assert gone.json() == {"status": "deregistered", "cell_id": "pure"}
    assert (await client.get("/meshes")).json() == {"meshes": [], "count": 0}


async def test_a_known_cell_is_said_to_be_known(client: httpx2.AsyncClient) -> None:
    """Expect known and no list of others."""
    await client.post("/register", json=PURE)
    body = (await client.get("/peers", params={"cell_id": "pure"})).json()
    assert body["known"] is True
    assert "available_cells" not in body


async def test_a_registered_cell_says_where_it_keeps_messages_and_how_many_it_should_have(
    client: httpx2.AsyncClient,
) -> None:
    """Expect both for who asks for the cell, the number beside the peers, and none where none was sent."""
    plain = (await client.post("/register", json={**PURE, "cell_id": "plain"})).status_code
    sent = {**PURE, "instance": "pure-0", "durability": "ephemeral", "replicas": 2.0}
    assert (plain, (await client.post("/register", json=sent)).status_code) == (200, 200)
    body = (await client.get("/peers", params={"cell_id": "pure"})).json()
    assert (body["replicas"], body["peers"][0]["durability"]) == (2, "ephemeral")
    assert "replicas" not in (await client.get("/peers", params={"cell_id": "plain"})).json()
    assert "replicas" not in (await client.get("/peers")).json()


async def test_for_an_unknown_cell_the_available_ones_are_named(client: httpx2.AsyncClient) -> None:
    """Expect known false and the names of this mesh."""
    await client.post("/register", json=PURE)
    body = (await client.get("/peers", params={"cell_id": "prue"})).json()
    assert (body["known"], body["available_cells"], body["peers"]) == (False, ["pure"], [])


async def test_settled_is_false_for_the_first_six_seconds(client: httpx2.AsyncClient, world: Any) -> None:
    """Expect settled once every living cell has beaten."""
    world.pass_time(5.9)
    assert (await client.get("/peers")).json()["settled"] is False
    world.pass_time(0.2)
    assert (await client.get("/peers")).json()["settled"] is True


async def test_the_silent_are_gone_after_fifteen_seconds(client: httpx2.AsyncClient, world: Any) -> None:
    """Expect the peer at 14.9 s and none at 15.1 s."""
    await client.post("/register", json=PURE)
    world.pass_time(14.9)
    assert (await client.get("/peers")).json()["count"] == 1
    world.pass_time(0.2)
    assert (await client.get("/peers")).json()["count"] == 0


async def test_a_stalled_discovery_does_not_take_its_own_silence_for_that_of_cells(
    client: httpx2.AsyncClient, world: Any
) -> None:
    """Expect cells to have the time of a fresh start to be heard after the process was stopped."""
    await client.post("/register", json=PURE)
    world.now += 60
    world.discovery.tick()
    world.pass_time(5.9)
    assert (await client.get("/peers")).json()["count"] == 1
    world.pass_time(0.2)
    assert (await client.get("/peers")).json()["count"] == 0


async def test_unchanged_content_is_answered_304_with_the_version(client: httpx2.AsyncClient) -> None:
    """Expect no body, and the version that a client needs for its next long poll."""
    await client.post("/register", json=PURE)
    first = await client.get("/peers")
    again = await client.get("/peers", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["cellmesh-version"] == first.json()["version"]
    assert again.headers["etag"] == first.headers["etag"]


async def test_changed_content_is_answered_in_full(client: httpx2.AsyncClient) -> None:
    """Expect 200 and another ETag after a change."""
    first = await client.get("/peers")
    await client.post("/register", json=PURE)
    second = await client.get("/peers", headers={"if-none-match": first.headers["etag"]})
    assert second.status_code == 200
    assert second.headers["etag"] != first.headers["etag"]


async def test_one_registration_too_many_is_429(make_world: Any) -> None:
    """Expect the code and Retry-After."""
    app = make_world(max_registrations=1).app
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://d") as client:
        await client.post("/register", json=PURE)
        answer = await client.post("/register", json={**PURE, "cell_id": "alpha"})
    assert (answer.status_code, answer.json()["code"]) == (429, "too_many_registrations")
    assert answer.headers["retry-after"] == "5"


REFUSED = [
    ("POST", "/register", {"content": b"{", "headers": JSON}, 400, "malformed_json", None),
    ("POST", "/register", {"content": b"{}", "headers": JSON}, 422, "invalid_field", "cell_id"),
    ("POST", "/register", {"content": b"{}"}, 415, "unsupported_media_type", "Content-Type"),
    ("POST", "/register", {"data": {"a": "b"}}, 415, "unsupported_media_type", "Content-Type"),
    ("POST", "/register", {"content": b" " * 16385, "headers": JSON}, 413, "body_too_large", None),
    ("POST", "/heartbeat", {"json": {"cell_id": "pure"}}, 404, "unknown_registration", None),
    ("POST", "/heartbeat", {"json": {"cell_id": 5}}, 422, "invalid_field", "cell_id"),
    ("POST", "/meshes/a.b/register", {"json": PURE}, 422, "invalid_field", "namespace"),
    ("POST", "/register", {"json": {**PURE, "namespace": "m"}}, 422, "invalid_field", "namespace"),
    ("DELETE", "/peer/pure", {}, 404, "unknown_registration", None),
    ("DELETE", "/peer/a.b", {}, 422, "invalid_field", "cell_id"),
    ("DELETE", "/peer/pure%0A", {}, 422, "invalid_field", "cell_id"),
    ("GET", "/meshes/a.b/peers", {}, 422, "invalid_field", "namespace"),
    ("GET", "/peers?cell_id=a.b", {}, 422, "invalid_field", "cell_id"),
    ("GET", "/peers?cell_id=", {}, 422, "invalid_field", "cell_id"),
    ("GET", "/peers?wait=soon", {}, 422, "invalid_field", "wait"),
    ("GET", "/peers?version=x&wait=61s", {}, 422, "invalid_field", "wait"),
    ("GET", "/", {}, 404, "not_found", None),
    ("GET", "/peers/", {}, 404, "not_found", None),
    ("GET", "/meshes/m", {}, 404, "not_found", None),
    ("GET", "/peers", {"headers": {"host": "evil.example"}}, 403, "forbidden_host", "Host"),
    ("GET", "/peers", {"headers": {"origin": "http://evil.example"}}, 403, "forbidden_origin", "Origin"),
    ("GET", "/nowhere", {"headers": {"origin": "null"}}, 403, "forbidden_origin", "Origin"),
]


@pytest.mark.parametrize(("method", "url", "request_", "status", "code", "field"), REFUSED)
async def test_what_is_refused_says_why(
    client: httpx2.AsyncClient, method: str, url: str, request_: dict, status: int, code: str, field: str | None
) -> None:
    """Expect the status, our JSON form with its code, and the field that is wrong."""
    answer = await client.request(method, url, **request_)
    body = answer.json()
    assert (answer.status_code, body["status"], body["code"], body.get("field")) == (status, "error", code, field)
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("method", "url", "allow"),
    [("PUT", "/peers", {"GET", "HEAD"}), ("GET", "/register", {"POST"}), ("POST", "/meshes/m/peer/a", {"DELETE"})],
)
async def test_a_wrong_method_is_told_the_right_ones(
    client: httpx2.AsyncClient, method: str, url: str, allow: set[str]
) -> None:
    """Expect 405 in our form with Allow."""
    answer = await client.request(method, url)
    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
    assert set(answer.headers["allow"].split(", ")) == allow


async def test_a_second_host_header_does_not_hide_behind_the_first(client: httpx2.AsyncClient) -> None:
    """Expect 403 if any of them is foreign."""
    answer = await client.get("/peers", headers=[("host", "localhost"), ("host", "evil.example")])
    assert answer.status_code == 403


async def test_configured_names_and_origins_are_served(make_world: Any) -> None:
    """Expect 200 for a name and an origin from the settings."""
    app = make_world(allowed_hosts=("discovery.example",), allowed_origins=("https://app.example",)).app
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://d") as client:
        answer = await client.get("/peers", headers={"host": "discovery.example", "origin": "https://app.example"})
    assert answer.status_code == 200


async def test_a_chunked_body_is_bounded_too(client: httpx2.AsyncClient) -> None:
    """Expect 413 without a Content-Length, before the body has ended."""

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b" " * 4096

    answer = await client.post("/register", content=endless(), headers=JSON)
    assert answer.status_code == 413


async def test_a_body_that_does_not_come_is_not_waited_for(
    client: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Expect 408 and the end of the connection."""
    monkeypatch.setattr(web, "BODY_TIMEOUT", 0.01)

    async def never() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    answer = await client.post("/register", content=never(), headers=JSON)
    assert (answer.status_code, answer.json()["code"]) == (408, "request_timeout")
    assert answer.headers["connection"] == "close"


async def test_deregistration_by_uid_spares_the_successor(client: httpx2.AsyncClient) -> None:
    """Expect 404 for the old life, and the new one still there."""
    await client.post("/register", json={**PURE, "uid": "new"})
    assert (await client.delete("/peer/pure", params={"uid": "old"})).status_code == 404
    assert (await client.get("/peers")).json()["count"] == 1


async def test_deregistration_without_instance_names_those_there_are(client: httpx2.AsyncClient) -> None:
    """Expect 404 with the list, and nothing removed."""
    await client.post("/register", json={**PURE, "instance": "pure-0"})
    answer = await client.delete("/peer/pure")
    assert (answer.status_code, answer.json()["instances"]) == (404, ["pure-0"])
    assert (await client.delete("/peer/pure", params={"instance": "pure-0"})).status_code == 200


async def test_an_error_of_ours_tells_the_client_nothing_and_the_log_no_payload(
    client: httpx2.AsyncClient, world: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Expect 500 internal, and a log line with the type and place only."""

    def fail(*_arguments: object) -> None:
        raise RuntimeError("secret payload")

    monkeypatch.setattr(world.discovery, "register", fail)
    with caplog.at_level(logging.ERROR):
        answer = await client.post("/register", json=PURE)
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert "secret" not in answer.text + caplog.text
    assert "RuntimeError at fail" in caplog.text


async def test_health_tells_how_it_is(client: httpx2.AsyncClient, world: Any) -> None:
    """Expect counts, uptime and whether it has settled."""
    await client.post("/register", json=PURE)
    world.pass_time(7)
    assert (await client.get("/health")).json() == {
        "status": "healthy",
        "service": "discovery",
        "peers": 1,
        "meshes": 1,
        "settled": True,
        "uptime": 7.0,
    }


async def test_it_is_ready_until_it_shuts_down(client: httpx2.AsyncClient, world: Any) -> None:
    """Expect readiness to end at shutdown, liveness to stay."""
    assert (await client.get("/readyz")).status_code == 200
    world.discovery.waiters.close()
    answer = await client.get("/readyz")
    assert (answer.status_code, answer.json()["code"]) == (503, "draining")
    assert (await client.get("/livez")).status_code == 200


async def test_metrics_count_what_happened(client: httpx2.AsyncClient, world: Any) -> None:
    """Expect peers by mesh, totals, and answers by endpoint and status."""
    await client.post("/register", json=PURE)
    await client.post("/heartbeat", json={"cell_id": "pure"})
    await client.post("/heartbeat", json={"cell_id": "nobody"})
    await client.get("/nowhere")
    world.pass_time(20)
    await client.post("/register", json=PURE)
    lines = (await client.get("/metrics")).text.splitlines()
    for line in (
        'cellmesh_discovery_peers{mesh="default",source="registered"} 1.0',
        "cellmesh_discovery_registrations_total 2.0",
        "cellmesh_discovery_heartbeats_total 1.0",
        "cellmesh_discovery_expired_total 1.0",
        "cellmesh_discovery_waiters 0.0",
        'cellmesh_discovery_requests_total{endpoint="heartbeat",status="404"} 1.0',
        'cellmesh_discovery_requests_total{endpoint="other",status="404"} 1.0',
    ):
        assert line in lines


async def test_each_value_survives_the_way_through_a_mesh_of_many(client: httpx2.AsyncClient) -> None:
    """Expect valid JSON with every peer in it."""
    for number in range(50):
        await client.post("/register", json={**PURE, "cell_id": f"c{number}", "note": '"}],\\' * number})
    body = json.loads((await client.get("/peers")).content)
    assert {peer["cell_id"]: peer["note"] for peer in body["peers"]} == {
        f"c{number}": '"}],\\' * number for number in range(50)
    }
