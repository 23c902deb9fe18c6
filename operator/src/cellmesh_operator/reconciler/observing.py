"""Gathering what is observed of a Cell: from the store, and by requests for what the store cannot know."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from cellmesh_operator.decisions import reasons
from cellmesh_operator.decisions.actions import Observed
from cellmesh_operator.errors import ApiError
from cellmesh_operator.kube.client import Client
from cellmesh_operator.naming import (
    CELL_LABEL,
    CHILDREN,
    CLAIMS,
    EVENTS,
    POD_DISRUPTION_BUDGETS,
    PODS,
    SERVICE_ACCOUNTS,
    SERVICES,
    STATEFUL_SETS,
    STORAGE_CLASSES,
    Resource,
)
from cellmesh_operator.reconciler.store import Key, Object, Store

#: Seconds that a StatefulSet may lack pods before its Events are read; usually it is quicker than that.
LACKING_FIRST: Final = 2.0
#: Seconds between two readings of the Events of one StatefulSet: twice as much each time, up to this.
LACKING_LAST: Final = 30.0
#: Seconds that StorageClasses are remembered.
CLASSES_FOR: Final = 30.0


@dataclass(slots=True)
class _Lacking:
    """A StatefulSet that has fewer pods than it wants."""

    uid: str
    pods: int
    check_at: float
    wait: float = LACKING_FIRST
    failures: tuple[Object, ...] = ()


class Observer:
    """Loads what is observed of a Cell.

    Args:
        client: for what the store cannot know.
        store: what is known.
        clock: monotonic seconds.

    """

    def __init__(self, client: Client, store: Store, clock: Callable[[], float]) -> None:
        self._client = client
        self._store = store
        self._clock = clock
        self._lacking: dict[Key, _Lacking] = {}
        self._classes: Mapping[str, Object] | None = None
        self._classes_until = float("-inf")
        self._classes_read = asyncio.Lock()

    async def observe(self, key: Key, cell: Object) -> Observed:
        """Return what is observed of a Cell.

        Raises:
            ApiError: a request was refused.
            ConnectionLost: the API server was not reached.

        """
        wanted = cell["spec"].get("replicas", 1)
        children = {kind: await self._child(kind, key, wanted) for kind in CHILDREN}
        stateful_set = children[STATEFUL_SETS]
        return Observed(
            cell=cell,
            service_account=children[SERVICE_ACCOUNTS],
            service=children[SERVICES],
            stateful_set=stateful_set,
            pod_disruption_budget=children[POD_DISRUPTION_BUDGETS],
            pods=self._store.of_cell(PODS, key),
            departed=self._store.departed(key),
            claims=self._store.of_cell(CLAIMS, key),
            failures=await self._failures(key, cell, stateful_set),
            storage_classes=await self._storage_classes(cell),
        )

    async def refresh(self, kind: Resource, key: Key) -> None:
        """Read an object anew that was not as the store had it."""
        found = await self._client.get(kind, *key)
        if found is not None and belongs(found):
            self._store.put(kind, found)
        known = self._store.entry(kind, key)
        if known is not None and (found is None or found["metadata"]["uid"] != known.uid):
            self._store.drop(kind, key, uid=known.uid, version=known.version)

    def again_in(self, key: Key) -> float | None:
        """Return the seconds after which a Cell that lacks pods is to be looked at again; None if it does not."""
        lacking = self._lacking.get(key)
        return None if lacking is None else max(lacking.check_at - self._clock(), 0.1)

    def forget(self, key: Key) -> None:
        """Forget a Cell that is gone."""
        self._lacking.pop(key, None)

    async def _child(self, kind: Resource, key: Key, wanted: int) -> Object | None:
        known = self._store.get(kind, key)
        if known is not None or (kind == POD_DISRUPTION_BUDGETS and wanted < 2):
            return known
        # The watches see only what bears our label, so somebody else's object of this name is seen here alone.
        return await self._client.get(kind, *key)

    async def _failures(self, key: Key, cell: Object, stateful_set: Object | None) -> tuple[Object, ...]:
        """Return the Events about pods that could not be made; they are nowhere else to be seen."""
        pods = self._store.count_of_cell(PODS, key)
        if stateful_set is None or pods >= stateful_set["spec"].get("replicas", 1):
            self._lacking.pop(key, None)
            return ()
        now, uid = self._clock(), stateful_set["metadata"]["uid"]
        lacking = self._lacking.get(key)
        if lacking is None and _reported(cell) in reasons.FROM_EVENTS:
            # A former life has read the Events already; without them this one would take that back.
            lacking = self._lacking[key] = _Lacking(uid, pods, now)
        elif lacking is None or lacking.uid != uid or pods > lacking.pods:
            lacking = self._lacking[key] = _Lacking(uid, pods, now + LACKING_FIRST)
        lacking.pods = pods
        if now >= lacking.check_at:
            fields = f"involvedObject.uid={uid},reason=FailedCreate"
            lacking.failures = tuple((await self._client.list(EVENTS, key[0], fields=fields)).items)
            lacking.wait = min(lacking.wait * 2, LACKING_LAST)
            lacking.check_at = now + lacking.wait
        return lacking.failures

    async def _storage_classes(self, cell: Object) -> Mapping[str, Object] | None:
        """Return the StorageClasses by name; None for a Cell without volumes, or where they may not be read."""
        if (cell["spec"].get("storage") or {}).get("ephemeral") is not None:
            return None
        # Whoever looks while the list is under way waits for it: "not read yet" must not pass for "may not be read".
        async with self._classes_read:
            if self._clock() >= self._classes_until:
                self._classes = await self._list_classes()
                self._classes_until = self._clock() + CLASSES_FOR
        return self._classes

    async def _list_classes(self) -> Mapping[str, Object] | None:
        try:
            listing = await self._client.list(STORAGE_CLASSES)
        except ApiError as error:
            if not error.forbidden:
                raise
            # A reconciler with Roles only: kinds without a namespace are beyond these.
            return None
        return {item["metadata"]["name"]: item for item in listing.items}


def belongs(item: Mapping[str, Any]) -> bool:
    """Tell whether an object bears the label by which the watches see it."""
    return CELL_LABEL in (item["metadata"].get("labels") or {})


def _reported(cell: Object) -> str:
    """Return the reason that was last reported of a Cell's being ready or not."""
    states = (cell.get("status") or {}).get("conditions") or ()
    return next((str(state["reason"]) for state in states if state["type"] == reasons.READY), "")
