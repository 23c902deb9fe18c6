"""kopf itself, in its thread, on a server that lists and watches: what it passes on, and how it ends."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from cellmesh_operator.naming import CELLS, STATEFUL_SETS, Resource
from cellmesh_operator.reconciler import handlers
from cellmesh_operator.reconciler.handlers import Watcher
from cellmesh_operator.reconciler.store import KINDS
from cellmesh_operator.reconciler.streams import Stream, Streams
from support import eventually_async

pytestmark = pytest.mark.anyio

GROUPS = {"apps": "v1", "policy": "v1", "cellmesh.dev": "v1alpha1", "apiextensions.k8s.io": "v1"}


class Server:
    """As much of an API server as kopf needs.

    Attributes:
        requests: method, path and whether it is a watch, of every request.
        refuse: status by plural, for lists and watches.
        tokens: the logins that were sent.
        prefix: path before that of every request.

    """

    def __init__(self) -> None:
        self.prefix = ""
        self.requests: list[tuple[str, str, bool]] = []
        self.refuse: dict[str, int] = {}
        self.tokens: set[str] = set()
        self._watches: dict[str, asyncio.Queue[Any]] = {kind.plural: asyncio.Queue() for kind in KINDS}

    def tell(self, kind: Resource, event: str, item: dict[str, Any]) -> None:
        """Send an event to the watch of a kind."""
        self._watches[kind.plural].put_nowait({"type": event, "object": item})

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer a request."""
        self.requests.append((request.method, request.path, "watch" in request.query))
        self.tokens.add(request.headers.get("Authorization", ""))
        parts = request.path.removeprefix(self.prefix).strip("/").split("/")
        if parts == ["api"]:
            return web.json_response({"versions": ["v1"]})
        if parts == ["apis"]:
            groups = [
                {"name": name, "preferredVersion": {"version": version}, "versions": [{"version": version}]}
                for name, version in GROUPS.items()
            ]
            return web.json_response({"groups": groups})
        plural = parts[-1]
        if plural not in self._watches:
            return web.json_response({"resources": _resources(parts[1] if parts[0] == "apis" else "")})
        if plural in self.refuse:
            return web.json_response({}, status=self.refuse[plural])
        if "watch" not in request.query:
            return web.json_response({"metadata": {"resourceVersion": "1"}, "items": []})
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            event = await self._watches[plural].get()
            if event is None:
                return response
            await response.write(json.dumps(event).encode() + b"\n")


def _resources(group: str) -> list[dict[str, Any]]:
    kinds = [(one.plural, one.kind) for one in KINDS if one.group == group]
    kinds += [("namespaces", "Namespace"), ("events", "Event")] if not group else []
    kinds += [("customresourcedefinitions", "CustomResourceDefinition")] if group.startswith("apiext") else []
    verbs = ["list", "watch", "patch", "get"]
    return [
        {"name": plural, "singularName": "", "kind": kind, "namespaced": True, "verbs": verbs} for plural, kind in kinds
    ]


@pytest.fixture
async def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    """Run a server, named by KUBECONFIG."""
    found = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", found.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{runner.addresses[0][1]}"}}],
        "users": [{"name": "c", "user": {"token": "secret"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
    }
    (tmp_path / "config").write_text(json.dumps(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    monkeypatch.setattr(handlers, "ENDING", 0.5)
    yield found
    await runner.cleanup()


def move(path: str) -> None:
    """Put a path behind the server's address in the file that KUBECONFIG names."""
    file = Path(os.environ["KUBECONFIG"])
    config = json.loads(file.read_text())
    config["clusters"][0]["cluster"]["server"] += path
    file.write_text(json.dumps(config))


class Watching:
    """A watcher and what it has passed on."""

    def __init__(self) -> None:
        self.seen: list[tuple[Resource, str | None, str]] = []
        self.listed: list[Stream] = []
        self.streams = Streams((None,), self.listed.append)
        self.watcher = Watcher((), self._take, self.streams)

    def _take(self, kind: Resource, event: str | None, item: dict[str, Any]) -> None:
        self.seen.append((kind, event, item["metadata"]["name"]))

    async def connected(self) -> None:
        """Wait until everything is watched."""
        await eventually_async(lambda: self.streams.all_watched, within=20)


def item(name: str, version: str = "2") -> dict[str, Any]:
    """Return an object."""
    return {"metadata": {"name": name, "namespace": "m", "uid": name, "resourceVersion": version}, "spec": {}}


async def test_events_are_passed_on_and_nothing_is_written(server: Server) -> None:
    """Expect every kind to be listed and watched with our login, changes to come through, and only GETs."""
    watching = Watching()
    task = asyncio.create_task(watching.watcher.run())
    await watching.connected()
    assert {stream[0] for stream in watching.listed} == set(KINDS)
    server.tell(CELLS, "ADDED", item("alpha"))
    server.tell(STATEFUL_SETS, "DELETED", item("alpha"))
    await eventually_async(lambda: len(watching.seen) == 2, within=10)
    assert set(watching.seen) == {(CELLS, "ADDED", "alpha"), (STATEFUL_SETS, "DELETED", "alpha")}
    assert {method for method, _, _ in server.requests} == {"GET"}
    assert server.tokens == {"Bearer secret"}
    task.cancel()
    await asyncio.wait([task], timeout=10)
    assert task.cancelled()


async def test_a_gap_is_seen_as_a_list(server: Server) -> None:
    """Expect that a watch from too old a version, after which kopf lists anew, is reported as a list of that kind."""
    watching = Watching()
    task = asyncio.create_task(watching.watcher.run())
    await watching.connected()
    watching.listed.clear()
    gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
    server.tell(CELLS, "ERROR", gone)
    await eventually_async(lambda: watching.listed == [(CELLS, None)], within=10)
    task.cancel()
    await asyncio.wait([task], timeout=10)


@pytest.mark.parametrize("status", [403, 404, 500])
async def test_a_refused_watch_is_tried_until_it_works(server: Server, status: int) -> None:
    """Expect kopf to go on, the fault to be known meanwhile, and to be over once the server lets it."""
    server.refuse["cells"] = status
    watching = Watching()
    task = asyncio.create_task(watching.watcher.run())
    await eventually_async(lambda: (CELLS, None) in watching.streams.faults, within=20)
    assert watching.streams.undefined == (status == 404)
    server.refuse.clear()
    await watching.connected()
    assert watching.streams.faults == {}
    assert not task.done()
    task.cancel()
    await asyncio.wait([task], timeout=10)


async def test_a_watch_that_fails_for_good_ends_kopf_and_it_can_be_started_again(server: Server) -> None:
    """Expect the whole of kopf to end within seconds, though its other watches would wait for ever."""
    for _ in range(2):
        watching = Watching()
        task = asyncio.create_task(watching.watcher.run())
        await watching.connected()
        server.tell(STATEFUL_SETS, "ERROR", {"kind": "Status", "code": 500, "message": "decoding failed"})
        await asyncio.wait([task], timeout=20)
        assert task.done()
        assert "decoding failed" in str(task.exception())
        for kind in KINDS:
            server.tell(kind, "BOOKMARK", {"metadata": {"resourceVersion": "3"}})


@pytest.mark.parametrize("end", ["", "/"])
async def test_a_server_behind_a_path_is_heard(server: Server, end: str) -> None:
    """Expect watches to be known as connected where all the server's paths begin with one of its own."""
    server.prefix = "/clusters/one"
    move(server.prefix + end)
    watching = Watching()
    task = asyncio.create_task(watching.watcher.run())
    await watching.connected()
    assert all(path.startswith("/clusters/one/api") for _, path, _ in server.requests)
    assert {stream[0] for stream in watching.listed} == set(KINDS)
    task.cancel()
    await asyncio.wait([task], timeout=10)
