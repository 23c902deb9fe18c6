"""Clients that speak the older dialect work unchanged: registering ones, and ones that only read."""

from typing import Any

import httpx2
import pytest

pytestmark = pytest.mark.anyio

REGISTRATION = {
    "cell_id": "pure",
    "ip": "20302eb1df3f",
    "port": 8002,
    "hostname": "20302eb1df3f",
    "type": "pure",
    "branch": "main",
    "services": ["code-analysis"],
    "consciousness_level": 3.2,
    "last_seen": "2025-01-31T12:00:00.123456",
}


async def test_a_legacy_registration_is_taken_and_told(client: httpx2.AsyncClient) -> None:
    """Expect every field back but last_seen, which is discovery's."""
    answer = await client.post("/register", json=REGISTRATION)
    assert (answer.status_code, answer.json()) == (200, {"status": "registered", "cell_id": "pure"})
    (peer,) = (await client.get("/peers")).json()["peers"]
    assert {name: peer[name] for name in REGISTRATION if name != "last_seen"} == {
        name: value for name, value in REGISTRATION.items() if name != "last_seen"
    }
    assert peer["last_seen"] != REGISTRATION["last_seen"]


async def test_a_legacy_heartbeat_keeps_the_cell_and_renews_last_seen(client: httpx2.AsyncClient, world: Any) -> None:
    """Expect a beat each 5 s to keep the cell for a minute, seen later after each."""
    await client.post("/register", json=REGISTRATION)
    seen = [(await client.get("/peers")).json()["peers"][0]["last_seen"]]
    for _ in range(12):
        world.pass_time(5)
        beat = await client.post("/heartbeat", json={"cell_id": "pure", "consciousness_level": 3.3})
        assert beat.json() == {"status": "ok", "cell_id": "pure", "peers_count": 1}
        seen.append((await client.get("/peers")).json()["peers"][0]["last_seen"])
    assert seen == sorted(set(seen))


async def test_a_cell_that_was_forgotten_is_told_to_register_again(client: httpx2.AsyncClient, world: Any) -> None:
    """Expect 404 for the beat, 200 for the registration, 200 for the next beat."""
    await client.post("/register", json=REGISTRATION)
    world.pass_time(16)
    assert (await client.post("/heartbeat", json={"cell_id": "pure"})).status_code == 404
    assert (await client.post("/register", json=REGISTRATION)).status_code == 200
    assert (await client.post("/heartbeat", json={"cell_id": "pure"})).status_code == 200


async def test_a_legacy_cell_leaves_by_its_name(client: httpx2.AsyncClient) -> None:
    """Expect nobody left."""
    await client.post("/register", json=REGISTRATION)
    answer = await client.delete("/peer/pure")
    assert (answer.status_code, answer.json()["status"]) == (200, "deregistered")
    assert (await client.get("/peers")).json()["peers"] == []


async def test_a_legacy_reader_finds_a_cell_of_ours(client: httpx2.AsyncClient) -> None:
    """Expect cell_id, an address and the port of a cell that registered with all its fields."""
    ours = {
        "cell_id": "alpha",
        "ip": "10.0.0.7",
        "port": 8005,
        "instance": "alpha-0",
        "uid": "u",
        "namespace": "default",
    }
    await client.post("/meshes/default/register", json=ours)
    peers = (await client.get("/peers")).json()["peers"]
    target = next(peer for peer in peers if peer["cell_id"] == "alpha")
    assert f"http://{target['ip'] or target['hostname']}:{target['port']}/message" == "http://10.0.0.7:8005/message"


async def test_our_reader_finds_a_legacy_cell(client: httpx2.AsyncClient) -> None:
    """Expect the legacy cell by name in the mesh that ours asks."""
    await client.post("/register", json=REGISTRATION)
    body = (await client.get("/meshes/default/peers", params={"cell_id": "pure"})).json()
    assert (body["known"], body["peers"][0]["ip"], body["peers"][0]["port"]) == (True, "20302eb1df3f", 8002)
