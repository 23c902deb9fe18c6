"""Replicas of discovery inside a test, on one API server in memory and with clocks that the test moves."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from cellmesh.protocol.problems import Problem
from cellmesh_operator.discovery.queries import DeregisterQuery, PeersQuery
from cellmesh_operator.discovery.versions import Scope
from support import eventually_async
from unit.discovery.conftest import World
from unit.discovery.fake_api import FakeApi


class Replica(World):
    """One replica."""

    def __init__(self, api: FakeApi, **settings: Any) -> None:
        given = {"kubernetes": True, "namespace": "d", "default_mesh": "m", "settle": 0.0, **settings}
        super().__init__(connect=lambda: contextlib.nullcontext(api), **given)
        assert self.discovery.cluster is not None
        self.cluster = self.discovery.cluster
        self.sharing = self.cluster.sharing

    def register(self, cell_id: str, *, mesh: str = "m", **fields: Any) -> None:
        """Register a cell with this replica."""
        body = {"cell_id": cell_id, "ip": "10.0.0.1", "port": 8002, **fields}
        self.discovery.register(mesh, json.dumps(body).encode())

    async def beat(self, cell_id: str, *, mesh: str = "m", **fields: Any) -> bool:
        """Send a heartbeat to this replica; return whether the cell is known."""
        try:
            await self.discovery.heartbeat(mesh, json.dumps({"cell_id": cell_id, **fields}).encode())
        except Problem as problem:
            if problem.code != "unknown_registration":
                raise
            return False
        return True

    async def leave(self, cell_id: str, *, mesh: str = "m") -> None:
        """Deregister with this replica."""
        await self.discovery.deregister(mesh, DeregisterQuery(cell_id, None, None))

    def answer(self, cell_id: str | None = None, mesh: str = "m") -> dict[str, Any]:
        """Return what this replica answers to GET /peers."""
        answer = self.discovery.peers(PeersQuery(Scope(mesh, cell_id), None, 0))
        return json.loads(answer.body()) | {"etag": answer.etag}

    def names(self, mesh: str = "m") -> list[str]:
        """Return the names of the cells that have peers here."""
        return sorted({peer["cell_id"] for peer in self.answer(mesh=mesh)["peers"]})


class Replicas:
    """Several replicas whose clocks go alike."""

    def __init__(self, api: FakeApi, *replicas: Replica) -> None:
        self.api = api
        self.all = replicas

    def __iter__(self) -> Any:
        return iter(self.all)

    async def written(self) -> None:
        """Wait until nobody has anything to write."""
        await eventually_async(
            lambda: not any(replica.sharing.unwritten for replica in self.all), within=5, message="all to be written"
        )

    async def see(self, *names: str) -> None:
        """Wait until all replicas have peers of exactly these cells."""
        await eventually_async(
            lambda: all(replica.names() == sorted(names) for replica in self.all),
            within=5,
            message=f"all replicas to see {names}",
        )

    async def pass_time(self, seconds: float) -> None:
        """Let time pass for all, in steps in which what is to be written is written.

        Replicas that have not lost the API server hear of it all the time.
        """
        while seconds > 0:
            step = min(1.0, seconds)
            seconds -= step
            for replica in self.all:
                replica.now += step
                for reflector in replica.cluster.reflectors:
                    if reflector.open and not self.api.away:
                        reflector.confirmed = replica.now
                replica.discovery.tick()
            if not self.api.away:
                await self.written()


@contextlib.asynccontextmanager
async def replicas(number: int = 2, **settings: Any) -> AsyncIterator[Replicas]:
    """Run so many replicas, each synced."""
    api = FakeApi()
    made = Replicas(api, *(Replica(api, **settings) for _ in range(number)))
    async with contextlib.AsyncExitStack() as stack:
        for replica in made:
            await stack.enter_async_context(replica.discovery.running())
        await eventually_async(
            lambda: all(replica.cluster.synced and replica.cluster.in_contact for replica in made),
            within=5,
            message="all to be synced",
        )
        yield made
        for replica in made:
            assert replica.cluster.broken == ""
