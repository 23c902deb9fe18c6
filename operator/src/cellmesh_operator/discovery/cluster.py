"""Discovery's side of a Kubernetes cluster: what it follows there, and how current that is."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import traceback
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, Protocol

from cellmesh_operator.discovery.counters import Counters
from cellmesh_operator.discovery.leases import SELECTOR
from cellmesh_operator.discovery.members import Key
from cellmesh_operator.discovery.mirror import Mirror
from cellmesh_operator.discovery.objects import read_cell, read_pod
from cellmesh_operator.discovery.projection import Projection
from cellmesh_operator.discovery.reflector import Lister, Pace, Reflector
from cellmesh_operator.discovery.registry import Registry
from cellmesh_operator.discovery.settings import Settings
from cellmesh_operator.discovery.sharing import Leaser, Sharing
from cellmesh_operator.errors import ApiError, ConnectionLost
from cellmesh_operator.naming import CELL_LABEL, CELLS, DISCOVERY_MANAGER, LEASES, PODS

#: Seconds without a word from the API server after which it is asked whether it is there.
PROBE = 5.0
#: Seconds that the answer to that may take.
PROBE_TIMEOUT = 3.0
#: Seconds since the last word from the API server after which contact is in doubt.
DOUBT = 10.0
#: Seconds that one call to the API server may take, a page of a list included.
CALL_TIMEOUT = 10.0
_log = logging.getLogger(__name__)


class Api(Lister, Leaser, Protocol):
    """What discovery needs of the client."""


Connect = Callable[[], contextlib.AbstractAsyncContextManager[Api]]


@contextlib.asynccontextmanager
async def connect() -> AsyncGenerator[Api]:
    """Open the client.

    Raises:
        AccessError: nothing says where the API server is.

    """
    # Here, so that a discovery without Kubernetes neither has nor loads its client.
    from cellmesh_operator.kube.client import Client

    async with Client.connect(timeout=CALL_TIMEOUT, manager=DISCOVERY_MANAGER) as client:
        yield client


class Cluster:
    """Follows Cells, their pods and the Leases of registrations, and keeps the registry in step with them.

    Args:
        settings: the settings.
        registry: the peers.
        counters: where expiry is counted.
        holder: name of this replica, different in each of its lives.
        clock: monotonic seconds.
        seen: text of ``last_seen``.
        connect: opens the client.
        pace: how often and how long watches are begun anew and compared.

    """

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        counters: Counters,
        *,
        holder: str,
        clock: Callable[[], float],
        seen: Callable[[], str],
        connect: Connect = connect,
        pace: Pace | None = None,
    ) -> None:
        self.sharing = Sharing(
            registry,
            counters,
            namespace=settings.namespace,
            holder=holder,
            expiry=settings.expiry,
            clock=clock,
            seen=seen,
            now=_micro_time,
        )
        self.reflectors: list[Reflector[Any]] = []
        self._projection = Projection(registry, self._evicted)
        self._namespace = settings.namespace
        self._clock = clock
        self._connect = connect
        self._failed: list[str] = []
        # A mirror each: the API server's versions are compared only within one list or watch.
        for namespace in settings.namespaces or (None,):
            cells = Mirror(read_cell, self._projection.cell_changed)
            pods = Mirror(read_pod, self._projection.pod_changed)
            self.reflectors += [
                Reflector(CELLS, namespace, cells, clock=clock, pace=pace),
                Reflector(PODS, namespace, pods, labels=CELL_LABEL, clock=clock, pace=pace),
            ]
        leases = Reflector(LEASES, settings.namespace, self.sharing.mirror, labels=SELECTOR, clock=clock, pace=pace)
        self.reflectors.append(leases)

    @property
    def synced(self) -> bool:
        """Whether a complete list of everything has come."""
        return all(reflector.synced for reflector in self.reflectors)

    @property
    def missing(self) -> str:
        """Of what no complete list has come, and why; for people."""
        return "; ".join(
            f"{reflector.name}: {reflector.problem}" if reflector.problem else reflector.name
            for reflector in self.reflectors
            if not reflector.synced
        )

    @property
    def age(self) -> float:
        """Seconds since what is told of pods and Cells was last known to be so."""
        return max(0.0, self._clock() - min(reflector.confirmed for reflector in self.reflectors))

    @property
    def in_contact(self) -> bool:
        """Whether nobody can have told the API server anything that is not known here by now."""
        return all(reflector.synced and reflector.open for reflector in self.reflectors) and self.age < DOUBT

    @property
    def broken(self) -> str:
        """What only a new start can mend; empty if nothing is."""
        watches = [f"the watch of {reflector.name} misses changes" for reflector in self.reflectors if reflector.broken]
        return "; ".join(watches + self._failed)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Follow for as long as the context lasts.

        Raises:
            AccessError: nothing says where the API server is.

        """
        async with self._connect() as api:
            work: dict[str, Coroutine[Any, Any, None]] = {
                f"following {reflector.name}": reflector.run(api) for reflector in self.reflectors
            }
            work["sharing registrations"] = self.sharing.run(api)
            work["probing the API server"] = self._probe_forever(api)
            tasks = [asyncio.create_task(self._guard(name, one)) for name, one in work.items()]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _guard(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Note the end of what may not end: an error of ours, upon which liveness fails."""
        try:
            await work
        except Exception as error:  # the boundary: nobody else looks at these tasks
            frames = traceback.extract_tb(error.__traceback__)[-5:]
            where = " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(frames))
            _log.error("%s failed: %s at %s", name, type(error).__name__, where)
            self._failed.append(f"{name} has ended")

    async def _probe_forever(self, api: Api) -> None:
        """Ask the API server whether it is there when it has said nothing for a while.

        An idle watch is silent for up to a minute, whether the server is there or not.
        """
        while True:
            await asyncio.sleep(PROBE / 5)
            if self.age < PROBE:
                continue
            asked = self._clock()
            try:
                async with asyncio.timeout(PROBE_TIMEOUT):
                    await api.get(LEASES, self._namespace, DISCOVERY_MANAGER)
            except (ApiError, ConnectionLost, TimeoutError):
                continue
            for reflector in self.reflectors:
                if reflector.open:
                    reflector.confirmed = max(asked, reflector.confirmed)

    def _evicted(self, key: Key) -> None:
        _log.warning("registration %s in mesh %s gives way to the Cell of that name", key[1], key[0])
        self.sharing.removed(key)


def _micro_time() -> str:
    """Return the time as Leases bear it."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
