"""The rules of discovery: the registry, those who wait for it to change, and the clocks."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cellmesh_operator.discovery.answers import peers_body
from cellmesh_operator.discovery.cluster import Cluster, Connect, connect
from cellmesh_operator.discovery.counters import Counters
from cellmesh_operator.discovery.leases import check_size
from cellmesh_operator.discovery.members import Key
from cellmesh_operator.discovery.queries import DeregisterQuery, PeersQuery
from cellmesh_operator.discovery.registration import parse_heartbeat, parse_registration
from cellmesh_operator.discovery.registry import Registry
from cellmesh_operator.discovery.settings import Settings
from cellmesh_operator.discovery.versions import Scope
from cellmesh_operator.discovery.waiters import Waiters

#: Seconds between two looks at the clock; expiry and settling are late by at most this much.
TICK = 0.25
#: Longer than this between two looks, and this process did not run: it may have missed beats meanwhile.
STALL = 1.0


@dataclass(frozen=True, slots=True)
class PeersAnswer:
    """An answer to ``GET /peers``; ``body`` is not built for a client that has it already.

    ``age`` is how long ago, in seconds, what is told of pods was known to be so; None without Kubernetes.
    """

    etag: str
    version: str
    age: float | None
    body: Callable[[], bytes]


def utc_now(ago: float = 0.0) -> str:
    """Return the wall-clock time some seconds ago as ``last_seen`` shows it: ISO 8601, UTC, milliseconds."""
    then = datetime.now(UTC) - timedelta(seconds=ago)
    return then.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Discovery:
    """One replica of discovery. Everything runs on one event loop; nothing blocks.

    Args:
        settings: the settings.
        clock: monotonic seconds; decides about expiry.
        wall: text of ``last_seen``, so many seconds ago; decides nothing.
        connect: opens the client of the API server.

    Attributes:
        cluster: Kubernetes' side; None without it.

    """

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[float], str] = utc_now,
        connect: Connect = connect,
    ) -> None:
        self.settings = settings
        self.waiters = Waiters()
        self.counters = Counters()
        epoch = secrets.token_hex(8)
        self.registry = Registry(
            epoch=epoch,
            expiry=settings.expiry,
            limit=settings.max_registrations,
            on_change=self.waiters.wake,
        )
        self._clock = clock
        self._wall = wall
        self._heard = settings.settle == 0
        self.cluster: Cluster | None = None
        if settings.kubernetes:
            self.cluster = Cluster(
                settings,
                self.registry,
                self.counters,
                holder=f"{socket.gethostname()}-{epoch}",
                clock=clock,
                seen=self._now,
                connect=connect,
            )
        self._synced = self.synced
        self._started = self._ticked = clock()
        self._expire_from = self._started

    @property
    def synced(self) -> bool:
        """Whether all that Kubernetes knows is known here; true without Kubernetes."""
        return self.cluster is None or self.cluster.synced

    @property
    def settled(self) -> bool:
        """Whether every living cell has had time to be heard."""
        return self.synced and self._heard

    @property
    def uptime(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._started

    def register(self, mesh: str, body: bytes) -> str:
        """Take a registration and return the cell's name.

        Raises:
            Problem: the body is wrong, the name is a Cell's, or there are too many registrations.

        """
        record = parse_registration(body, mesh)
        if self.cluster is not None:
            check_size(record)
        self.registry.register(mesh, record, self._clock(), self._now())
        self.counters.registrations += 1
        if self.cluster is not None:
            self.cluster.sharing.registered((mesh, record.cell_id, record.key))
        return record.cell_id

    async def heartbeat(self, mesh: str, body: bytes) -> tuple[str, int]:
        """Take a sign of life; return the cell's name and the number of peers in its mesh.

        Raises:
            Problem: the body is wrong, or nobody of that name is registered, here or with another replica.

        """
        beat = parse_heartbeat(body)
        key = (mesh, beat.cell_id, beat.instance or beat.cell_id)
        await self._look_up(key)
        self.registry.heartbeat(mesh, beat.cell_id, beat.instance, self._clock(), self._now())
        self.counters.heartbeats += 1
        if self.cluster is not None:
            self.cluster.sharing.beaten(key)
        return beat.cell_id, len(self.registry.members(Scope(mesh)))

    async def deregister(self, mesh: str, query: DeregisterQuery) -> None:
        """Remove a registration.

        Raises:
            Problem: there is none, or it has another uid.

        """
        key = (mesh, query.cell_id, query.instance or query.cell_id)
        await self._look_up(key)
        self.registry.deregister(mesh, query.cell_id, query.instance, query.uid)
        self.counters.deregistrations += 1
        if self.cluster is not None:
            self.cluster.sharing.removed(key)

    async def _look_up(self, key: Key) -> None:
        """Learn of a registration that another replica took a moment ago."""
        if self.cluster is not None and self.registry.registration(key) is None:
            await self.cluster.sharing.look_up(key)

    def peers(self, query: PeersQuery) -> PeersAnswer:
        """Answer ``GET /peers`` from what is known now."""
        scope = query.scope
        settled = self._settled(scope)
        version = self.registry.version(scope)
        age = None if self.cluster is None else round(self.cluster.age, 3)

        def body() -> bytes:
            members = self.registry.members(scope)
            peers = members.encoded(self._wall(age or 0.0))
            if scope.cell_id is None:
                return peers_body(peers, version, settled=settled, age=age)
            names = [] if members.known else self.registry.cell_names(scope.mesh)
            return peers_body(
                peers,
                version,
                settled=settled,
                age=age,
                known=members.known,
                available=names,
                replicas=members.replicas,
            )

        return PeersAnswer(self.registry.etag(scope, settled=settled), version, age, body)

    def _settled(self, scope: Scope) -> bool:
        """Tell whether an answer is complete: of a Cell, which nobody registers, as soon as Kubernetes has told it."""
        if scope.cell_id is not None and self.registry.declared(scope.mesh, scope.cell_id):
            return self.synced
        return self.settled

    async def wait(self, query: PeersQuery, disconnected: Callable[[], Awaitable[None]]) -> None:
        """Return when there is something newer than the query's version, at the latest after its ``wait``.

        Also when discovery settles or shuts down, and when ``disconnected`` returns: nobody is there to
        be answered then.
        """
        if query.version is None or query.wait <= 0 or query.version != self.registry.version(query.scope):
            return
        waiter = self.waiters.add(query.scope)
        listener = asyncio.ensure_future(disconnected())
        try:
            await asyncio.wait({waiter, listener}, timeout=query.wait, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.waiters.discard(query.scope, waiter)
            listener.cancel()
            await asyncio.gather(listener, return_exceptions=True)

    def tick(self) -> None:
        """Look at the clock: settle, and let the silent expire. Called every ``TICK`` seconds."""
        now = self._clock()
        in_contact = self.cluster is None or self.cluster.in_contact
        if now - self._ticked > STALL or not in_contact:
            # Stopped, starved or cut off from what other replicas hear: the silence may be ours. Cells get the
            # time of a fresh start to be heard.
            self._expire_from = now + self.settings.settle
        self._ticked = now
        if in_contact and now >= self._expire_from:
            self._expire(now)
        settled, synced = self.settled, self._synced
        self._synced = self.synced
        self._heard = self._heard or now - self._started >= self.settings.settle
        if (settled, synced) != (self.settled, self._synced):
            self.waiters.wake_all()

    def _expire(self, now: float) -> None:
        if self.cluster is None:
            self.counters.expired += self.registry.expire(now)
        else:
            self.cluster.sharing.expire(now)

    def _now(self) -> str:
        return self._wall(0.0)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Tick for as long as the context lasts; at its end nobody waits any more."""
        self._started = self._ticked = self._expire_from = self._clock()
        self.waiters.open()
        async with self.cluster.running() if self.cluster else contextlib.nullcontext():
            ticker = asyncio.create_task(self._tick_forever())
            try:
                yield
            finally:
                self.waiters.close()
                ticker.cancel()
                await asyncio.gather(ticker, return_exceptions=True)

    async def _tick_forever(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            self.tick()
