"""A small API server in memory: lists, watches with a history, conflicts, and all that can go wrong with them."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from cellmesh_operator.errors import ApiError, ConnectionLost
from cellmesh_operator.naming import CELL_LABEL, CELLS, LEASES, PODS, Resource

Object = dict[str, Any]


def cell(name: str, namespace: str = "m", **spec: Any) -> Object:
    """Return a Cell."""
    return {"metadata": {"name": name, "namespace": namespace, "uid": f"uid-{name}"}, "spec": spec}


def pod(name: str, namespace: str = "m", *, ready: bool = True, ip: str | None = "10.0.0.1", **more: Any) -> Object:
    """Return a pod of the Cell whose name is the pod's without its ordinal."""
    owner = more.pop("cell", name.rpartition("-")[0])
    conditions = [{"type": "Ready", "status": str(ready)}]
    return {
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": f"uid-{name}",
            "labels": {CELL_LABEL: owner},
            "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": owner, "uid": "s", "controller": True}
            ],
            **more,
        },
        "spec": {"containers": [{"name": "cell", "ports": [{"name": "cell", "containerPort": 8002}]}]},
        "status": {"conditions": conditions} | ({"podIP": ip} if ip else {}),
    }


class FakeApi:
    """What discovery needs of ``cellmesh_operator.kube.client.Client``, with one counter of versions for everything.

    Attributes:
        away: nothing is reached.
        silent: watches hold back what happens.
        calls: each call's verb and kind, in order.
        stop_before: called before a write with its verb; may wait, or write something else first.

    """

    def __init__(self) -> None:
        self.version = 100
        self.away = False
        self.silent = False
        self.refuse: dict[str, ApiError] = {}
        self.calls: list[tuple[str, str]] = []
        self.stop_before: Callable[[str], Any] | None = None
        self.oldest = 0
        self._objects: dict[tuple[str, str, str], Object] = {}
        self._history: list[tuple[int, str, str, Object]] = []
        self._streams: set[asyncio.Event] = set()
        self._generation = 0

    # -- what tests do ---------------------------------------------------------------------------------------------

    def put(self, resource: Resource, item: Object) -> Object:
        """Create or replace an object."""
        key = _key(resource, item)
        kind = "MODIFIED" if key in self._objects else "ADDED"
        self.version += 1
        stored = copy.deepcopy(item)
        stored["metadata"] = (
            {"uid": f"uid-{self.version}"} | self._objects.get(key, {}).get("metadata", {}) | stored["metadata"]
        )
        stored["metadata"]["resourceVersion"] = str(self.version)
        self._objects[key] = stored
        self._record(kind, resource, stored)
        return copy.deepcopy(stored)

    def remove(self, resource: Resource, namespace: str, name: str) -> None:
        """Delete an object."""
        gone = copy.deepcopy(self._objects.pop((resource.plural, namespace, name)))
        self.version += 1
        gone["metadata"]["resourceVersion"] = str(self.version)
        self._record("DELETED", resource, gone)

    def bookmark(self, resource: Resource) -> None:
        """Tell watches how far they have come."""
        self._record("BOOKMARK", resource, {"metadata": {"resourceVersion": str(self.version)}})

    def cut(self) -> None:
        """End every connection with an error."""
        self._generation += 1
        self._wake()

    def compact(self) -> None:
        """Forget the history: watches from before are too old."""
        self.oldest = self.version

    def leases(self) -> dict[str, Object]:
        """Return the Leases by name."""
        return {key[2]: item for key, item in self._objects.items() if key[0] == LEASES.plural}

    def restore(self, version: int) -> None:
        """Begin the versions anew, as a restored backup does, and end every connection."""
        self.version = version
        self._history.clear()
        for item in self._objects.values():
            item["metadata"]["resourceVersion"] = str(version)
        self.cut()

    def count(self, verb: str, resource: Resource) -> int:
        """Return how many such calls there were."""
        return self.calls.count((verb, resource.plural))

    # -- what the client does --------------------------------------------------------------------------------------

    async def collect(
        self, keep: Callable[[Object], Any], resource: Resource, namespace: str | None = None, *, labels: str = ""
    ) -> tuple[list[Any], str]:
        """List."""
        await self._call("list", resource)
        return [keep(copy.deepcopy(item)) for item in self._matching(resource, namespace)], str(self.version)

    async def watch(
        self, resource: Resource, namespace: str | None = None, *, since: str, labels: str = ""
    ) -> AsyncGenerator[tuple[str, Object]]:
        """Watch."""
        await self._call("watch", resource)
        if int(since) < self.oldest:
            raise ApiError(410, "Expired", "too old resource version")
        generation, position = self._generation, int(since)
        stream = asyncio.Event()
        self._streams.add(stream)
        try:
            while True:
                if self._generation != generation or self.away:
                    raise ConnectionLost(f"GET {resource.plural}: reset")
                for version, kind, plural, item in list(self._history):
                    if self.silent or plural != resource.plural or version <= position:
                        continue
                    if namespace not in {None, item["metadata"].get("namespace", namespace)}:
                        continue
                    position = version
                    yield kind, copy.deepcopy(item)
                await stream.wait()
                stream.clear()
        finally:
            self._streams.discard(stream)

    async def get(self, resource: Resource, namespace: str | None, name: str) -> Object | None:
        """Get."""
        await self._call("get", resource)
        return copy.deepcopy(self._objects.get((resource.plural, namespace or "", name)))

    async def create(self, resource: Resource, body: Mapping[str, Any]) -> Object:
        """Create."""
        await self._call("create", resource)
        if _key(resource, body) in self._objects:
            raise ApiError(409, "AlreadyExists", "there is one")
        return self.put(resource, dict(body))

    async def patch(self, resource: Resource, namespace: str | None, name: str, body: Mapping[str, Any]) -> Object:
        """Merge."""
        await self._call("patch", resource)
        item = self._objects.get((resource.plural, namespace or "", name))
        if item is None:
            raise ApiError(404, "NotFound", "there is none")
        wanted = body["metadata"].get("resourceVersion")
        if wanted not in {None, item["metadata"]["resourceVersion"]}:
            raise ApiError(409, "Conflict", "it was written meanwhile")
        return self.put(resource, _merged(item, body))

    async def delete(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        *,
        uid: str | None = None,
        version: str | None = None,
    ) -> bool:
        """Delete."""
        await self._call("delete", resource)
        item = self._objects.get((resource.plural, namespace or "", name))
        if item is None:
            return False
        metadata = item["metadata"]
        if uid not in {None, metadata["uid"]} or version not in {None, metadata["resourceVersion"]}:
            raise ApiError(409, "Conflict", "it is another")
        self.remove(resource, namespace or "", name)
        return True

    # -- inside ----------------------------------------------------------------------------------------------------

    async def _call(self, verb: str, resource: Resource) -> None:
        self.calls.append((verb, resource.plural))
        if self.stop_before is not None:
            waiting = self.stop_before(verb)
            if waiting is not None:
                await waiting
        await asyncio.sleep(0)
        if self.away:
            raise ConnectionLost(f"{verb} {resource.plural}: refused")
        for what in (verb, f"{verb} {resource.plural}"):
            if what in self.refuse:
                raise self.refuse[what]

    def _matching(self, resource: Resource, namespace: str | None) -> list[Object]:
        return [
            item
            for (plural, where, _), item in self._objects.items()
            if plural == resource.plural and namespace in {None, where}
        ]

    def _record(self, kind: str, resource: Resource, item: Object) -> None:
        self._history.append((int(item["metadata"]["resourceVersion"]), kind, resource.plural, copy.deepcopy(item)))
        self._wake()

    def _wake(self) -> None:
        for stream in self._streams:
            stream.set()


def _key(resource: Resource, item: Mapping[str, Any]) -> tuple[str, str, str]:
    return resource.plural, item["metadata"].get("namespace", ""), item["metadata"]["name"]


def _merged(item: Object, body: Mapping[str, Any]) -> Object:
    merged = dict(item)
    for name, value in body.items():
        merged[name] = _merged(merged.get(name) or {}, value) if isinstance(value, Mapping) else value
    return merged


__all__ = ["CELLS", "LEASES", "PODS", "FakeApi", "cell", "pod"]
