"""Complete lists: what is there at the start, and what the watches have missed since.

A watch tells nothing of what was deleted while it was cut off, and one that has died without a sound tells nothing
at all. So each kind is listed completely at least every ``interval`` seconds, and soon after kopf has listed it anew,
and compared with the store by resource version. What differs, and stays different although the watch has had
time to bring it, is put right and counted; a kind that needs that three times running has a broken watch.

A cluster that was restored from a backup counts its versions from an earlier one on: what is known would be newer
than all that is to come. A list shows it, and from then on is believed whatever the versions.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec

from cellmesh_operator.errors import ApiError, ConnectionLost
from cellmesh_operator.kube.client import Client, Head
from cellmesh_operator.naming import CELL_LABEL, CELLS, Resource
from cellmesh_operator.reconciler.metrics import Metrics
from cellmesh_operator.reconciler.store import KINDS, Key, Store

#: Seconds from kopf's own list until ours, in which it passes on what it has listed.
AFTER_LIST: Final = 1.0
#: Seconds without progress after which a watch is not waited for.
GRACE: Final = 2.0
#: Seconds that a watch which makes progress is waited for at most.
PATIENCE: Final = 10.0
#: Comparisons in a row that had to repair something, after which a watch counts as broken.
BROKEN_AFTER: Final = 3
#: Seconds until a list that failed is tried again.
RETRY: Final = 3.0

_log = logging.getLogger("cellmesh_operator.reconciler.looking")


class Relisting:
    """Keeps the store complete.

    Args:
        client: lists.
        store: is compared and put right.
        metrics: counts repairs.
        scopes: namespaces; None stands for all.
        interval: seconds between comparisons of a kind.
        progress: returns the resource version that a watch of a kind has brought last.
        repaired: called with the Cell of each object that was put right.
        clock: monotonic seconds.
        sleep: waits.

    """

    def __init__(
        self,
        client: Client,
        store: Store,
        metrics: Metrics,
        *,
        scopes: Sequence[str | None],
        interval: float,
        progress: Callable[[Resource], int],
        repaired: Callable[[Key], None],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._client = client
        self._store = store
        self._metrics = metrics
        self._scopes = scopes
        self._interval = interval
        self._progress = progress
        self._repaired = repaired
        self._clock = clock
        self._sleep = sleep
        self._due: dict[Resource, float] = {}
        self._news = {kind: asyncio.Event() for kind in KINDS}
        self._in_a_row: dict[Resource, int] = dict.fromkeys(KINDS, 0)

    @property
    def broken(self) -> list[str]:
        """The kinds whose watch has needed repairs too often running."""
        return [kind.plural for kind, count in self._in_a_row.items() if count >= BROKEN_AFTER]

    def request(self, kind: Resource) -> None:
        """Compare a kind soon: its watch has begun anew."""
        self._due[kind] = min(self._due.get(kind, self._clock() + self._interval), self._clock() + AFTER_LIST)
        self._news[kind].set()

    async def fill(self) -> list[Key]:
        """Read everything; return the Cells to look at, which are all that there are.

        Raises:
            ApiError: a list is refused; of Cells with ``not_found``: their definition is not installed.
            ConnectionLost: the API server was not reached.

        """
        for kind in KINDS:
            await self._compare(kind, patient=False)
        # The first comparison of each kind at another time, so that they do not come all at once for ever.
        now = self._clock()
        for place, kind in enumerate(KINDS, start=1):
            self._due[kind] = now + self._interval * place / len(KINDS)
        return list(self._store.keys(CELLS))

    async def run(self) -> None:
        """Compare each kind when it is due, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for kind in KINDS:
                group.create_task(self._follow(kind))

    async def _follow(self, kind: Resource) -> None:
        while True:
            wait = self._due[kind] - self._clock()
            if wait > 0:
                await self._wait(kind, wait)
                continue
            self._due[kind] = self._clock() + self._interval
            try:
                self._note(kind, await self._compare(kind, patient=True))
            except (ApiError, ConnectionLost) as error:
                _log.debug("cannot list %s: %s", kind.plural, error)
                self._due[kind] = self._clock() + RETRY

    def _note(self, kind: Resource, count: int) -> None:
        self._in_a_row[kind] = self._in_a_row[kind] + 1 if count else 0
        if count:
            self._metrics.repaired(kind.plural, count)
            _log.warning("%d %s had changed without their watch saying so; put right", count, kind.plural)

    async def _wait(self, kind: Resource, seconds: float) -> None:
        self._news[kind].clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._news[kind].wait()

    async def _compare(self, kind: Resource, *, patient: bool) -> int:
        """List a kind in all scopes and put the store right; return how much that was."""
        count = 0
        for scope in self._scopes:
            newest = self._store.newest(kind, scope)
            heads, version = await self._client.heads(kind, scope, labels="" if kind == CELLS else CELL_LABEL)
            if version < newest or self._gone_back(kind, heads, version):
                _log.warning("%s: the API server's versions begin anew; was it restored from a backup?", kind.plural)
                self._store.rewind(kind, scope)
            missed = self._missed(kind, heads)
            gone = self._gone(kind, scope, heads, version)
            if patient and (missed or gone):
                await self._wait_for_watch(kind, lambda m=missed, g=gone: self._open(kind, m, g))  # type: ignore[misc]
            count += self._put_right(kind, missed, gone, version)
        self._store.forget_deletions(kind)
        return count

    def _gone_back(self, kind: Resource, heads: Sequence[Head], version: int) -> bool:
        """Tell whether a list has an object in an older state than one that it would have to have."""
        known = ((head, self._store.entry(kind, head.key)) for head in heads)
        return any(entry is not None and head.version < entry.version <= version for head, entry in known)

    def _missed(self, kind: Resource, heads: Sequence[Head]) -> list[Head]:
        return [head for head in heads if self._store.misses(kind, head.key, head.uid, head.version)]

    def _gone(self, kind: Resource, scope: str | None, heads: Sequence[Head], version: int) -> list[tuple[Key, str]]:
        there = {head.key for head in heads}
        return [
            (key, entry.uid)
            for key, entry in self._store.items(kind)
            if key not in there and entry.version <= version and scope in {None, key[0]}
        ]

    def _open(self, kind: Resource, missed: Sequence[Head], gone: Sequence[tuple[Key, str]]) -> bool:
        """Tell whether anything of it still differs."""
        return bool(self._missed(kind, missed)) or any(self._is_there(kind, key, uid) for key, uid in gone)

    def _is_there(self, kind: Resource, key: Key, uid: str) -> bool:
        entry = self._store.entry(kind, key)
        return entry is not None and entry.uid == uid

    async def _wait_for_watch(self, kind: Resource, differs: Callable[[], bool]) -> None:
        """Wait until the watch has brought what differs, or has made no progress for a while."""
        began = moved = self._clock()
        last = self._progress(kind)
        while differs() and self._clock() - moved < GRACE and self._clock() - began < PATIENCE:
            await self._sleep(GRACE / 8)
            if self._progress(kind) != last:
                last, moved = self._progress(kind), self._clock()

    def _put_right(self, kind: Resource, missed: Sequence[Head], gone: Sequence[tuple[Key, str]], version: int) -> int:
        cells: list[Key | None] = []
        for head in self._missed(kind, missed):
            item = msgspec.json.decode(head.text)
            cells.append(self._store.put(kind, {"apiVersion": kind.api_version, "kind": kind.kind, **item}))
        for key, uid in gone:
            if self._is_there(kind, key, uid):
                cells.append(self._store.drop(kind, key, uid=uid, version=version))
        for cell in cells:
            if cell is not None:
                self._repaired(cell)
        return len(cells)
