"""Follows the objects of one kind: a complete list, then a watch from there, again and again.

A watch alone is not to be trusted for ever: connections die silently, and what was deleted while there was none
is told by nobody. So everything is listed again after each loss, and at least once a minute what the watch has
told is compared with a complete list. What differs is repaired and counted; a watch that needs repairs each time
is broken.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Generic, NoReturn, Protocol, TypeVar

from cellmesh_operator.discovery.mirror import Mirror, Snapshot, snapshot_of
from cellmesh_operator.errors import ApiError, ConnectionLost
from cellmesh_operator.naming import Resource

T = TypeVar("T")
K = TypeVar("K")
#: Repairs running after which a watch is taken for broken.
STRIKES = 3
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pace:
    """How often and how long, in seconds."""

    #: Between two comparisons, at most; the list itself takes its time, and they must not fall together.
    compare: float = 50.0
    #: What is on its way to the watch while the list is read has this long to arrive.
    grace: float = 2.0
    #: Before the first new attempt after a loss, and at most.
    backoff: float = 0.2
    max_backoff: float = 5.0


class Lister(Protocol):
    """What a reflector needs of the client."""

    async def collect(
        self, keep: Callable[[dict[str, Any]], K], resource: Resource, namespace: str | None, *, labels: str = ""
    ) -> tuple[list[K], str]:
        """Return what is kept of each object, and the version of the list."""

    def watch(
        self, resource: Resource, namespace: str | None, *, since: str, labels: str = ""
    ) -> AsyncGenerator[tuple[str, dict[str, Any]]]:
        """Yield each change after a version."""


class Reflector(Generic[T]):
    """Keeps a mirror true.

    Args:
        resource: the kind.
        namespace: the namespace; None for all.
        mirror: what is kept true.
        labels: selector.
        clock: monotonic seconds.
        pace: how often and how long.

    Attributes:
        synced: a complete list has come.
        open: a watch is running, as far as is known.
        confirmed: when what the mirror holds was last known to be so.
        problem: why the last attempt failed; empty while all is well.
        restarts: watches begun anew after a loss.
        repairs: objects that a comparison had to put right.

    """

    def __init__(
        self,
        resource: Resource,
        namespace: str | None,
        mirror: Mirror[T],
        *,
        labels: str = "",
        clock: Callable[[], float],
        pace: Pace | None = None,
    ) -> None:
        self.resource = resource
        self.namespace = namespace
        self.synced = False
        self.open = False
        self.confirmed = clock()
        self.problem = ""
        self.restarts = 0
        self.repairs = 0
        self._mirror = mirror
        self._labels = labels
        self._clock = clock
        self._pace = pace or Pace()
        self._strikes = 0

    @property
    def broken(self) -> bool:
        """Whether the watch needed repairs each of the last times it was compared."""
        return self._strikes >= STRIKES

    @property
    def name(self) -> str:
        """The kind, and the namespace if there is one; for people."""
        return f"{self.resource.plural} in {self.namespace}" if self.namespace else self.resource.plural

    async def run(self, api: Lister) -> NoReturn:
        """Follow for ever."""
        pause = self._pace.backoff
        while True:
            began = self._clock()
            try:
                await self._list_and_follow(api)
                continue
            except ApiError as error:
                self._lose(error)
                asked = 0.0 if error.gone else error.retry_after or 0.0
            except ConnectionLost as error:
                self._lose(error)
                asked = 0.0
            self.restarts += 1
            if self._clock() - began > 2 * self._pace.max_backoff:
                pause = self._pace.backoff  # it has gone well for a while
            await asyncio.sleep(max(asked, pause * random.uniform(0.5, 1.0)))  # noqa: S311 - jitter
            pause = min(2 * pause, self._pace.max_backoff)

    async def _list_and_follow(self, api: Lister) -> None:
        """Return when a comparison found the watch to be wrong; what it found is repaired then."""
        snapshot = await self._list(api)
        news = self._mirror.replace(snapshot)
        if self.problem:
            _log.warning("%s: the API server answers again; %d changes meanwhile", self.name, news)
        self.synced, self.open, self.problem = True, True, ""
        watching = asyncio.create_task(self._watch(api, str(snapshot.version)))
        try:
            while True:
                pause = self._pace.compare * random.uniform(0.8, 1.0)  # noqa: S311 - jitter
                done, _ = await asyncio.wait({watching}, timeout=pause)
                if done:
                    watching.result()
                if await self._compare(api, watching):
                    return
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _list(self, api: Lister) -> Snapshot[T]:
        self._mirror.forget_deleted()
        newest = self._mirror.newest
        entries, version = await api.collect(self._mirror.entry, self.resource, self.namespace, labels=self._labels)
        snapshot = snapshot_of(version, entries)
        if snapshot.version < newest:
            _log.warning("%s: the API server's versions begin anew; was it restored from a backup?", self.name)
            self._mirror.forget_versions()
        self.confirmed = self._clock()
        return snapshot

    async def _compare(self, api: Lister, watching: asyncio.Task[NoReturn]) -> bool:
        """Compare with a complete list; return whether something had to be repaired."""
        snapshot = await self._list(api)
        if self._mirror.differing(snapshot):
            await asyncio.wait({watching}, timeout=self._pace.grace)
        if watching.done():
            return False  # lost meanwhile, which is another matter
        repairs = self._mirror.replace(snapshot)
        if not repairs:
            self._strikes = 0
            return False
        self._strikes += 1
        self.repairs += repairs
        _log.warning("%s: the watch had missed %d changes; repaired, and begun anew", self.name, repairs)
        return True

    async def _watch(self, api: Lister, since: str) -> NoReturn:
        while True:
            began = self._clock()
            changes = api.watch(self.resource, self.namespace, since=since, labels=self._labels)
            async with aclosing(changes):
                async for kind, item in changes:
                    self.confirmed = self._clock()
                    since = str(item["metadata"]["resourceVersion"])
                    if kind in {"ADDED", "MODIFIED"}:
                        self._mirror.put(item)
                    elif kind == "DELETED":
                        self._mirror.drop(item)
            # Ended in good order. At once means that the server is about to stop: not in a circle then.
            if self._clock() - began < self._pace.backoff:
                await asyncio.sleep(self._pace.backoff)

    def _lose(self, error: ApiError | ConnectionLost) -> None:
        if isinstance(error, ApiError) and error.gone:
            _log.info("%s: the watch is too far behind; listing anew", self.name)
            return
        self.open = False
        problem = self._explain(error)
        if problem != self.problem:
            _log.warning("%s: %s; going on with what is known", self.name, problem)
        self.problem = problem

    def _explain(self, error: ApiError | ConnectionLost) -> str:
        if isinstance(error, ApiError) and error.not_found:
            return f"the API server knows no {self.resource.plural}; install the custom resource definition"
        if isinstance(error, ApiError) and error.forbidden:
            return f"may not list and watch; grant it to discovery's service account ({error.message})"
        return str(error)
