"""The rules of discovery: the registry, those who wait for it to change, and the clocks."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from cellmesh_operator.discovery.answers import peers_body
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


@dataclass(slots=True)
class Counters:
    """What has happened since the start."""

    registrations: int = 0
    heartbeats: int = 0
    deregistrations: int = 0
    expired: int = 0


@dataclass(frozen=True, slots=True)
class PeersAnswer:
    """An answer to ``GET /peers``; ``body`` is not built for a client that has it already."""

    etag: str
    version: str
    body: Callable[[], bytes]


def utc_now() -> str:
    """Return the wall-clock time as ``last_seen`` shows it: ISO 8601, UTC, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Discovery:
    """One replica of discovery. Everything runs on one event loop; nothing blocks.

    Args:
        settings: the settings.
        clock: monotonic seconds; decides about expiry.
        wall: text of ``last_seen``; decides nothing.

    """

    def __init__(
        self, settings: Settings, *, clock: Callable[[], float] = time.monotonic, wall: Callable[[], str] = utc_now
    ) -> None:
        self.settings = settings
        self.waiters = Waiters()
        self.counters = Counters()
        self.settled = settings.settle == 0
        self.registry = Registry(
            epoch=secrets.token_hex(8),
            expiry=settings.expiry,
            limit=settings.max_registrations,
            on_change=self.waiters.wake,
        )
        self._clock = clock
        self._wall = wall
        self._started = self._ticked = clock()
        self._expire_from = self._started

    @property
    def uptime(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._started

    def register(self, mesh: str, body: bytes) -> str:
        """Take a registration and return the cell's name.

        Raises:
            Problem: the body is wrong, or there are too many registrations.

        """
        registration = parse_registration(body, mesh)
        self.registry.register(mesh, registration, self._clock(), self._wall())
        self.counters.registrations += 1
        return registration.cell_id

    def heartbeat(self, mesh: str, body: bytes) -> tuple[str, int]:
        """Take a sign of life; return the cell's name and the number of peers in its mesh.

        Raises:
            Problem: the body is wrong, or nobody of that name is registered.

        """
        beat = parse_heartbeat(body)
        self.registry.heartbeat(mesh, beat.cell_id, beat.instance, self._clock(), self._wall())
        self.counters.heartbeats += 1
        return beat.cell_id, len(self.registry.members(Scope(mesh)))

    def deregister(self, mesh: str, query: DeregisterQuery) -> None:
        """Remove a registration.

        Raises:
            Problem: there is none, or it has another uid.

        """
        self.registry.deregister(mesh, query.cell_id, query.instance, query.uid)
        self.counters.deregistrations += 1

    def peers(self, query: PeersQuery) -> PeersAnswer:
        """Answer ``GET /peers`` from what is known now."""
        scope, settled = query.scope, self.settled
        version = self.registry.version(scope)

        def body() -> bytes:
            members = self.registry.members(scope)
            if scope.cell_id is None:
                return peers_body(members.encoded(), version, settled=settled)
            names = [] if members else self.registry.cell_names(scope.mesh)
            return peers_body(members.encoded(), version, settled=settled, known=bool(members), available=names)

        return PeersAnswer(self.registry.etag(scope, settled=settled), version, body)

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
        if now - self._ticked > STALL:
            # Stopped or starved: the silence was ours. Cells get the time of a fresh start to be heard.
            self._expire_from = now + self.settings.settle
        self._ticked = now
        if now >= self._expire_from:
            self.counters.expired += self.registry.expire(now)
        if not self.settled and now - self._started >= self.settings.settle:
            self.settled = True
            self.waiters.wake_all()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Tick for as long as the context lasts; at its end nobody waits any more."""
        self._started = self._ticked = self._expire_from = self._clock()
        self.waiters.open()
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
