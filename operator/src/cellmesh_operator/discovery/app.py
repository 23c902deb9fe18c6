"""The HTTP API of discovery: routes, and the application that holds them together."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import FastAPI
from msgspec import UNSET
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from cellmesh.protocol.problems import Problem
from cellmesh_operator.discovery.answers import Beaten, Deregistered, Health, Mesh, Meshes, Probe, Registered
from cellmesh_operator.discovery.cluster import Connect, connect
from cellmesh_operator.discovery.metrics import CONTENT_TYPE, Metrics
from cellmesh_operator.discovery.openapi import DESCRIPTION, TITLE, api_version, openapi_document
from cellmesh_operator.discovery.queries import etag_matches, parse_deregister, parse_peers
from cellmesh_operator.discovery.registration import check_cell_id
from cellmesh_operator.discovery.service import Discovery, utc_now
from cellmesh_operator.discovery.settings import Settings
from cellmesh_operator.discovery.web import (
    Guard,
    answering,
    disconnected,
    draining,
    http_error,
    json_response,
    read_json,
)

#: Header of every answer of ``GET /peers``, also of a 304: the version to wait on next.
VERSION_HEADER = "CellMesh-Version"


class DiscoveryApp(FastAPI):
    """The application; ``discovery`` is what it serves.

    The OpenAPI document is built from the types of the wire: the routes take raw requests, of which
    FastAPI can tell nothing.
    """

    def __init__(self, discovery: Discovery) -> None:
        self.discovery = discovery
        metrics = Metrics(discovery)
        super().__init__(
            title=TITLE,
            description=DESCRIPTION,
            version=api_version(),
            routes=_routes(_Endpoints(discovery, metrics)),
            lifespan=_lifespan,
            redirect_slashes=False,
            exception_handlers={HTTPException: http_error},
        )
        self.add_middleware(
            Guard,
            hosts=frozenset(discovery.settings.allowed_hosts),
            origins=frozenset(discovery.settings.allowed_origins),
            count=metrics.count_request,
            draining=lambda: discovery.waiters.closed,
        )

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document."""
        if self.openapi_schema is None:
            self.openapi_schema = openapi_document()
        return self.openapi_schema


def create_app(
    settings: Settings,
    *,
    clock: Callable[[], float] = time.monotonic,
    wall: Callable[[float], str] = utc_now,
    connect: Connect = connect,
) -> DiscoveryApp:
    """Return the application of one replica; see ``Discovery`` for the arguments."""
    return DiscoveryApp(Discovery(settings, clock=clock, wall=wall, connect=connect))


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    assert isinstance(app, DiscoveryApp)  # noqa: S101 - for mypy; nobody else uses it
    async with app.discovery.running():
        yield


class _Endpoints:
    """One method for each endpoint; a request without ``/meshes/<namespace>`` is of the default mesh."""

    def __init__(self, discovery: Discovery, metrics: Metrics) -> None:
        self._discovery = discovery
        self._metrics = metrics

    def _mesh(self, request: Request) -> str:
        mesh = request.path_params.get("namespace")
        if mesh is None:
            return self._discovery.settings.default_mesh
        return check_cell_id("namespace", mesh)

    async def peers(self, request: Request) -> Response:
        query = parse_peers(self._mesh(request), request.query_params.multi_items())
        await self._discovery.wait(query, lambda: disconnected(request))
        answer = self._discovery.peers(query)
        # Weak: last_seen and version are not part of it. no-cache: to be asked about every time.
        headers = {
            "ETag": f'W/"{answer.etag}"',
            "Cache-Control": "no-cache",
            VERSION_HEADER: answer.version,
        }
        if answer.age is not None:
            headers["Age"] = str(int(answer.age))
        if etag_matches(", ".join(request.headers.getlist("if-none-match")), answer.etag):
            return Response(status_code=304, headers=headers)
        return Response(answer.body(), headers=headers, media_type="application/json")

    async def register(self, request: Request) -> Response:
        mesh = self._mesh(request)
        return json_response(Registered(cell_id=self._discovery.register(mesh, await read_json(request))))

    async def heartbeat(self, request: Request) -> Response:
        mesh = self._mesh(request)
        cell_id, peers = await self._discovery.heartbeat(mesh, await read_json(request))
        return json_response(Beaten(cell_id=cell_id, peers_count=peers))

    async def deregister(self, request: Request) -> Response:
        query = parse_deregister(request.path_params["cell_id"], request.query_params.multi_items())
        await self._discovery.deregister(self._mesh(request), query)
        return json_response(Deregistered(cell_id=query.cell_id))

    async def meshes(self, _request: Request) -> Response:
        meshes = [
            Mesh(name, len(members.names), len(members)) for name, members in self._discovery.registry.meshes().items()
        ]
        return json_response(Meshes(meshes, len(meshes)))

    async def health(self, _request: Request) -> Response:
        discovery = self._discovery
        health = Health(
            status="draining" if discovery.waiters.closed else "healthy",
            peers=len(discovery.registry),
            meshes=len(discovery.registry.meshes()),
            settled=discovery.settled,
            uptime=round(discovery.uptime, 3),
            age=UNSET if discovery.cluster is None else round(discovery.cluster.age, 3),
        )
        return json_response(health)

    async def livez(self, _request: Request) -> Response:
        cluster = self._discovery.cluster
        if cluster is not None and cluster.broken:
            raise Problem("broken", f"{cluster.broken}; a new start mends it")
        return json_response(Probe())

    async def readyz(self, _request: Request) -> Response:
        cluster = self._discovery.cluster
        if self._discovery.waiters.closed:
            raise draining()
        if cluster is not None and not cluster.synced:
            raise Problem("not_ready", f"no complete list yet of {cluster.missing}", retry_after=1)
        return json_response(Probe())

    async def metrics(self, _request: Request) -> Response:
        return Response(self._metrics.text(), headers={"content-type": CONTENT_TYPE})


def _routes(endpoints: _Endpoints) -> list[BaseRoute]:
    in_mesh = [
        ("/peers", "GET", endpoints.peers),
        ("/register", "POST", endpoints.register),
        ("/heartbeat", "POST", endpoints.heartbeat),
        ("/peer/{cell_id}", "DELETE", endpoints.deregister),
    ]
    table = [
        *in_mesh,
        *[("/meshes/{namespace}" + path, method, handler) for path, method, handler in in_mesh],
        ("/meshes", "GET", endpoints.meshes),
        ("/health", "GET", endpoints.health),
        ("/livez", "GET", endpoints.livez),
        ("/readyz", "GET", endpoints.readyz),
        ("/metrics", "GET", endpoints.metrics),
    ]
    return [Route(path, answering(handler), methods=[method]) for path, method, handler in table]
