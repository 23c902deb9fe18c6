"""Registrations shared by the replicas of discovery, each of which may be asked by any cell.

What a cell tells this replica is taken at once and written into the registration's Lease afterwards; what other
replicas write is seen by a watch. Until a change is written it wins over what the watch says; then the Leases are
the truth, and a registration whose Lease is gone is gone.

Not every beat is written. The holder of a Lease, the replica that wrote it last, writes each beat that comes
``expiry / 2`` or more after its last write; another replica writes at once and so becomes the holder. So the holder
lets a registration go after ``expiry`` of silence, and the others, who may have missed beats of that last half,
after half as long again. Whoever notices deletes the Lease, but only the very version it saw: if anybody wrote it
meanwhile, or the API server is away, the registration stays.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Protocol

from cellmesh_operator.discovery.counters import Counters
from cellmesh_operator.discovery.leases import (
    LeaseFacts,
    lease_name,
    new_lease,
    read_lease,
    registered_anew,
    renewal,
)
from cellmesh_operator.discovery.members import Entry, Key
from cellmesh_operator.discovery.mirror import Mirror
from cellmesh_operator.discovery.registry import Registry
from cellmesh_operator.errors import ApiError, ConnectionLost
from cellmesh_operator.naming import LEASES, Resource

#: Writes under way at the same time.
WRITERS = 4
#: Attempts at one write against others who write the same Lease, before it is put off.
ATTEMPTS = 3
#: Seconds before a write is tried again, and at most.
BACKOFF = 0.2
MAX_BACKOFF = 5.0
#: Seconds and number of questions at the same time about Leases of unknown heartbeats.
LOOKUP_TIMEOUT = 2.0
LOOKUPS = 8
_log = logging.getLogger(__name__)


class Leaser(Protocol):
    """What sharing needs of the client."""

    async def get(self, resource: Resource, namespace: str | None, name: str) -> dict[str, Any] | None:
        """Return an object, or None."""

    async def create(self, resource: Resource, body: Mapping[str, Any]) -> dict[str, Any]:
        """Create an object."""

    async def patch(
        self, resource: Resource, namespace: str | None, name: str, body: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Merge fields into an object."""

    async def delete(
        self, resource: Resource, namespace: str | None, name: str, *, uid: str | None, version: str | None
    ) -> bool:
        """Delete this very version of an object; return whether there was one."""


class _Kind(Enum):
    REGISTER = auto()  # the registration as it is here
    RENEW = auto()  # a sign of life
    REMOVE = auto()  # it was taken back, or its name was
    EXPIRE = auto()  # it has been silent for too long


@dataclass(frozen=True, slots=True)
class _Task:
    """What is to be written of one registration."""

    kind: _Kind
    acquired: str = ""
    """Of REMOVE: the registration that is to end; empty for whichever is there."""
    attempts: int = 0

    @property
    def alive(self) -> bool:
        """Whether it tells that the cell lives."""
        return self.kind in {_Kind.REGISTER, _Kind.RENEW}


class Sharing:
    """Keeps registrations and Leases in step.

    Args:
        registry: the registrations.
        counters: where expiry is counted.
        namespace: where the Leases are.
        holder: name of this replica, different in each of its lives.
        expiry: seconds of silence after which a registration is gone.
        clock: monotonic seconds.
        seen: text of ``last_seen``.
        now: the time as Leases bear it.

    Attributes:
        mirror: the Leases there are.
        writes: how many of each kind have succeeded.
        failures: how many have failed, to be tried again.

    """

    def __init__(
        self,
        registry: Registry,
        counters: Counters,
        *,
        namespace: str,
        holder: str,
        expiry: float,
        clock: Callable[[], float],
        seen: Callable[[], str],
        now: Callable[[], str],
    ) -> None:
        self.mirror = Mirror(read_lease, self._lease_changed)
        self.writes: Counter[str] = Counter()
        self.failures = 0
        self._registry = registry
        self._counters = counters
        self._namespace = namespace
        self._holder = holder
        self._expiry = expiry
        self._clock = clock
        self._seen = seen
        self._now = now
        self._api: Leaser | None = None
        self._pending: dict[Key, _Task] = {}
        self._busy: dict[Key, _Task] = {}
        self._queue: asyncio.Queue[Key] = asyncio.Queue()
        self._beats: dict[Key, float] = {}
        self._lookups = asyncio.Semaphore(LOOKUPS)
        self._failing = False

    @property
    def unwritten(self) -> int:
        """How many registrations have changes that no other replica can know of yet."""
        return len(self._pending.keys() | self._busy.keys())

    # -- what cells tell this replica ------------------------------------------------------------------------------

    def registered(self, key: Key) -> None:
        """Share a registration that was just taken."""
        self._submit(key, _Task(_Kind.REGISTER))

    def beaten(self, key: Key) -> None:
        """Share a sign of life, if others have to know of it."""
        task = self._pending.get(key)
        if task is not None and task.alive:
            return
        lease = self._lease(key)
        mine = lease is not None and lease.holder == self._holder
        if not mine or self._clock() - self._beats.get(key, 0.0) >= self._expiry / 2:
            self._submit(key, _Task(_Kind.RENEW))

    def removed(self, key: Key) -> None:
        """Share that a registration was removed here."""
        lease = self._lease(key)
        if lease is not None or key in self._busy:
            self._submit(key, _Task(_Kind.REMOVE, lease.acquired if lease else ""))
        else:
            self._pending.pop(key, None)

    async def look_up(self, key: Key) -> bool:
        """Tell whether a registration unknown here is shared, and take it in if so.

        False also where the API server does not say: the cell then registers again, which is taken here.
        """
        mesh, cell_id, _ = key
        if self._api is None or self._registry.declared(mesh, cell_id):
            return False
        async with self._lookups:
            try:
                async with asyncio.timeout(LOOKUP_TIMEOUT):
                    await self._look(self._api, key)
            except (ApiError, ConnectionLost, TimeoutError):
                return False
        return self._registry.registration(key) is not None

    def expire(self, now: float) -> None:
        """Let the silent go. Not to be called while contact to the API server is in doubt."""
        for key in self._registry.silent(now):
            task = self._pending.get(key)
            if key in self._busy or (task is not None and not task.alive) or not self._silent(key, now):
                continue
            if self._lease(key) is None:
                self._pending.pop(key, None)
                self._counters.expired += self._registry.discard(key)
            else:
                self._submit(key, _Task(_Kind.EXPIRE))

    # -- what other replicas write ---------------------------------------------------------------------------------

    def _lease_changed(self, old: LeaseFacts | None, new: LeaseFacts | None) -> None:
        if new is None:
            if old is not None and not self._alive(old.key):
                self._beats.pop(old.key, None)
                self._registry.discard(old.key)
            return
        task = self._pending.get(new.key) or self._busy.get(new.key)
        if task is None:
            self._adopt(old, new)
        elif not task.alive and self._contradicts(task, new):
            self._pending.pop(new.key, None)
            self._adopt(None, new)

    def _contradicts(self, task: _Task, lease: LeaseFacts) -> bool:
        """Tell whether a registration lives on elsewhere that was to end here."""
        if task.kind is _Kind.EXPIRE:
            return lease.holder != self._holder
        return bool(task.acquired) and lease.acquired != task.acquired

    def _adopt(self, old: LeaseFacts | None, new: LeaseFacts) -> None:
        mesh, cell_id, _ = new.key
        there = self._registry.registration(new.key) is not None
        if self._registry.declared(mesh, cell_id):
            self._submit(new.key, _Task(_Kind.REMOVE, new.acquired))
        elif not there or new.says_more_than(old):
            self._registry.adopt(mesh, new.record, self._clock(), self._seen())

    # -- what is written -------------------------------------------------------------------------------------------

    async def run(self, api: Leaser) -> None:
        """Write what there is to write, for ever."""
        self._api = api
        async with asyncio.TaskGroup() as writers:
            for _ in range(WRITERS):
                writers.create_task(self._write_forever(api))

    async def _write_forever(self, api: Leaser) -> None:
        while True:
            key = await self._queue.get()
            if key in self._busy or key not in self._pending:
                continue
            self._busy[key] = task = self._pending.pop(key)
            pause = 0.0
            try:
                await self._do(api, key, task)
                self.writes[task.kind.name.lower()] += 1
                self._recover()
            except (ApiError, ConnectionLost) as error:
                self._fail(error)
                pause = min(MAX_BACKOFF, BACKOFF * 2**task.attempts) * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
                self._pending.setdefault(key, _Task(task.kind, task.acquired, min(task.attempts + 1, 10)))
            finally:
                del self._busy[key]
            if key in self._pending:
                asyncio.get_running_loop().call_later(pause, self._queue.put_nowait, key)

    async def _do(self, api: Leaser, key: Key, task: _Task) -> None:
        """Write one thing, a few times if others write the same Lease; in between see what they wrote."""
        for left in reversed(range(ATTEMPTS)):
            try:
                if task.alive:
                    await self._write(api, key, task)
                elif task.kind is _Kind.REMOVE:
                    await self._remove(api, key, task)
                else:
                    await self._let_expire(api, key)
                return
            except ApiError as error:
                if not left or not (error.conflict or error.not_found):
                    raise
            await self._look(api, key)

    async def _write(self, api: Leaser, key: Key, task: _Task) -> None:
        entry, lease = self._registry.registration(key), self._lease(key)
        if entry is None or entry.beat is None:
            return
        beat = entry.beat
        if lease is None:
            body = new_lease(key, entry.record, self._namespace, self._holder, self._expiry, self._now())
            item = await api.create(LEASES, body)
        else:
            patch = self._patch(task, entry, lease)
            item = await api.patch(LEASES, self._namespace, lease.name, patch)
        self._beats[key] = beat
        self.mirror.put(item)

    def _patch(self, task: _Task, entry: Entry, lease: LeaseFacts) -> dict[str, Any]:
        if task.kind is _Kind.REGISTER:
            return registered_anew(lease, entry.record, self._holder, self._now())
        if lease.record.digest != entry.record.digest:
            # Registered anew elsewhere, and the newest wins; the sign of life is for this name all the same.
            self._registry.adopt(lease.key[0], lease.record, entry.beat or 0.0, self._seen())
        return renewal(lease, self._holder, self._now())

    async def _remove(self, api: Leaser, key: Key, task: _Task) -> None:
        lease = self._lease(key)
        if lease is not None and not self._contradicts(task, lease):
            await self._delete(api, lease)

    async def _let_expire(self, api: Leaser, key: Key) -> None:
        lease = self._lease(key)
        if lease is None or key in self._pending or not self._silent(key, self._clock()):
            return
        ended_here = await self._delete(api, lease)
        if key not in self._pending:
            self._counters.expired += ended_here

    async def _delete(self, api: Leaser, lease: LeaseFacts) -> bool:
        """Delete the version that is known; return whether it was still there."""
        there = await api.delete(LEASES, self._namespace, lease.name, uid=lease.uid, version=lease.version)
        self.mirror.lose((self._namespace, lease.name))
        return there

    async def _look(self, api: Leaser, key: Key) -> None:
        """See what is there now."""
        name = lease_name(key)
        item = await api.get(LEASES, self._namespace, name)
        if item is None:
            self.mirror.lose((self._namespace, name))
        else:
            self.mirror.put(item)

    # -- small things ----------------------------------------------------------------------------------------------

    def _submit(self, key: Key, task: _Task) -> None:
        waiting = key in self._pending or key in self._busy
        self._pending[key] = task
        if not waiting:
            self._queue.put_nowait(key)

    def _lease(self, key: Key) -> LeaseFacts | None:
        return self.mirror.get((self._namespace, lease_name(key)))

    def _silent(self, key: Key, now: float) -> bool:
        entry, lease = self._registry.registration(key), self._lease(key)
        if entry is None or entry.beat is None:
            return False
        mine = lease is None or lease.holder == self._holder
        return now - entry.beat >= self._expiry * (1.0 if mine else 1.5)

    def _alive(self, key: Key) -> bool:
        """Whether something was heard of a registration here that is not written yet."""
        tasks = (self._pending.get(key), self._busy.get(key))
        return any(task is not None and task.alive for task in tasks)

    def _fail(self, error: ApiError | ConnectionLost) -> None:
        self.failures += 1
        if not self._failing:
            _log.warning("registrations cannot be shared: %s; keeping them, and trying again", error)
        self._failing = True

    def _recover(self) -> None:
        if self._failing and not any(task.attempts for task in self._pending.values()):
            _log.warning("registrations are shared again")
            self._failing = False
