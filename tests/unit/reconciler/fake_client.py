"""An API server in memory behind the calls of ``Client``: versions, uids, ownership of fields, conflicts, failures."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from cellmesh_operator.errors import ApiError, ConnectionLost
from cellmesh_operator.kube.client import Head, Listing
from cellmesh_operator.naming import CELLS, Resource
from reconciled import _merged, stored

Object = dict[str, Any]
#: A write: verb, plural and name.
Write = tuple[str, str, str]


class FakeClient:
    """What the reconciler needs of a client.

    Attributes:
        writes: every request that changes something, refused ones and those without effect included.
        reads: every other request: verb and plural.
        refuse: errors by verb and plural, ``("apply", "services")``; each is raised until it is taken away.
        away: nothing is reached.
        mutate: what a mutating webhook does to an object before it is stored.
        hold: while set to an event, writes wait for it.

    """

    def __init__(self) -> None:
        self.writes: list[Write] = []
        self.reads: list[tuple[str, str]] = []
        self.refuse: dict[tuple[str, str], ApiError] = {}
        self.away = False
        self.mutate: Callable[[Resource, Object], Object] | None = None
        self.hold: asyncio.Event | None = None
        self.version = 100
        self._objects: dict[tuple[str, str, str], Object] = {}
        self._applied: dict[str, Object] = {}
        self._uids = 0

    # -- what tests do ---------------------------------------------------------------------------------------------

    def put(self, resource: Resource, item: Mapping[str, Any]) -> Object:
        """Create or replace an object as somebody else would; return it as stored."""
        body = copy.deepcopy(dict(item))
        metadata = body["metadata"]
        metadata.setdefault("namespace", "mesh")
        key = (resource.plural, metadata["namespace"], metadata["name"])
        known = self._objects.get(key)
        if known is None:
            self._uids += 1
            metadata.setdefault("uid", f"uid-{self._uids}")
            metadata.setdefault("creationTimestamp", "2026-01-01T00:00:00Z")
        else:
            metadata["uid"] = known["metadata"]["uid"]
        body.setdefault("apiVersion", resource.api_version)
        body.setdefault("kind", resource.kind)
        return copy.deepcopy(self._store(key, body))

    def remove(self, resource: Resource, name: str, namespace: str = "mesh") -> Object:
        """Delete an object as somebody else would; return it with the version of its deletion."""
        self.version += 1
        gone = self._objects.pop((resource.plural, namespace, name))
        gone["metadata"]["resourceVersion"] = str(self.version)
        return gone

    def there(self, resource: Resource, name: str, namespace: str = "mesh") -> Object | None:
        """Return an object without a request."""
        return copy.deepcopy(self._objects.get((resource.plural, namespace, name)))

    def written(self, plural: str) -> int:
        """Return the number of writes of a kind; ``cells/status`` is one of its own."""
        return sum(1 for _, one, _ in self.writes if one == plural)

    # -- what the client does --------------------------------------------------------------------------------------

    async def get(self, resource: Resource, namespace: str | None, name: str) -> Object | None:
        """Get."""
        await self._read("get", resource)
        return self.there(resource, name, namespace or "")

    async def list(
        self, resource: Resource, namespace: str | None = None, *, labels: str = "", fields: str = ""
    ) -> Listing:
        """List; of the fields only the involved object's uid and the reason select."""
        await self._read("list", resource)
        wanted = dict(part.split("=") for part in fields.split(",") if part)
        items = [
            item
            for item in self._matching(resource, namespace, labels)
            if wanted.get("reason") in {None, item.get("reason")}
            and wanted.get("involvedObject.uid") in {None, item.get("involvedObject", {}).get("uid")}
        ]
        return Listing(copy.deepcopy(items), str(self.version))

    async def heads(
        self, resource: Resource, namespace: str | None = None, *, labels: str = ""
    ) -> tuple[list[Head], int]:
        """List with nothing but the identities read."""
        await self._read("heads", resource)
        found = []
        for item in self._matching(resource, namespace, labels):
            metadata = item["metadata"]
            key = (metadata["namespace"], metadata["name"])
            text = msgspec.Raw(json.dumps(item).encode())
            found.append(Head(key, metadata["uid"], int(metadata["resourceVersion"]), text))
        return found, self.version

    async def apply(
        self, resource: Resource, body: Mapping[str, Any], *, uid: str | None = None, force: bool = True
    ) -> Object:
        """Apply: our fields win by force, those we no longer name go, those of others stay."""
        key = await self._write("apply", resource, body, uid)
        live = self._objects.get(key)
        if live is not None and not force and _differs(body, live):
            raise ApiError(409, "Conflict", "Apply failed with conflicts")
        merged = _merged(copy.deepcopy(live or {}), body, by_name=True)
        if live is None:
            self._uids += 1
            merged["metadata"] |= {"uid": f"uid-{self._uids}", "creationTimestamp": "2026-01-01T00:00:00Z"}
        else:
            _drop(merged, self._applied.get(live["metadata"]["uid"], {}), body)
        self._applied[merged["metadata"]["uid"]] = copy.deepcopy(dict(body))
        merged = stored(merged)
        if self.mutate is not None:
            merged = self.mutate(resource, merged)
        return copy.deepcopy(self._store(key, merged))

    async def apply_status(self, resource: Resource, body: Mapping[str, Any], *, uid: str | None = None) -> Object:
        """Apply the status alone."""
        metadata = body["metadata"]
        if self.there(resource, metadata["name"], metadata["namespace"]) is None:
            raise ApiError(404, "NotFound", "there is none")
        key = await self._write("apply", resource, body, uid, subresource="/status")
        live = self._objects[key]
        return copy.deepcopy(self._store(key, {**copy.deepcopy(live), "status": copy.deepcopy(dict(body["status"]))}))

    async def patch(self, resource: Resource, namespace: str | None, name: str, body: Mapping[str, Any]) -> Object:
        """Merge."""
        metadata = {"namespace": namespace, "name": name}
        uid = body.get("metadata", {}).get("uid")
        key = await self._write("patch", resource, {"metadata": metadata}, uid)
        if key not in self._objects:
            raise ApiError(404, "NotFound", "there is none")
        return copy.deepcopy(self._store(key, _merged(copy.deepcopy(self._objects[key]), body)))

    async def create(self, resource: Resource, body: Mapping[str, Any]) -> Object:
        """Create."""
        key = await self._write("create", resource, body, None)
        if key in self._objects:
            raise ApiError(409, "AlreadyExists", "there is one")
        return self.put(resource, body)

    async def delete(
        self, resource: Resource, namespace: str | None, name: str, *, uid: str | None = None, orphan: bool = False
    ) -> bool:
        """Delete at once."""
        key = await self._write("delete", resource, {"metadata": {"namespace": namespace, "name": name}}, None)
        live = self._objects.get(key)
        if live is None:
            return False
        if uid not in {None, live["metadata"]["uid"]}:
            raise ApiError(409, "Conflict", "it is another")
        self.remove(resource, name, namespace or "")
        return True

    # -- inside ----------------------------------------------------------------------------------------------------

    async def _read(self, verb: str, resource: Resource) -> None:
        self.reads.append((verb, resource.plural))
        await asyncio.sleep(0)
        self._fail(verb, resource.plural)

    async def _write(
        self, verb: str, resource: Resource, body: Mapping[str, Any], uid: str | None, subresource: str = ""
    ) -> tuple[str, str, str]:
        metadata = body["metadata"]
        plural = resource.plural + subresource
        self.writes.append((verb, plural, metadata["name"]))
        if self.hold is not None:
            await self.hold.wait()
        await asyncio.sleep(0)
        self._fail(verb, plural)
        key = (resource.plural, metadata.get("namespace") or "", metadata["name"])
        live = self._objects.get(key)
        if uid is not None and (live is None or live["metadata"]["uid"] != uid):
            raise ApiError(409, "Conflict", "uid mismatch")
        return key

    def _fail(self, verb: str, plural: str) -> None:
        if self.away:
            raise ConnectionLost(f"{verb} {plural}: refused")
        if (verb, plural) in self.refuse:
            raise self.refuse[verb, plural]

    def _matching(self, resource: Resource, namespace: str | None, labels: str) -> list[Object]:
        return [
            item
            for (plural, where, _), item in self._objects.items()
            if plural == resource.plural
            and namespace in {None, where}
            and (not labels or labels in item["metadata"].get("labels", {}))
        ]

    def _store(self, key: tuple[str, str, str], item: Object) -> Object:
        known = self._objects.get(key)
        metadata = item["metadata"]
        before = known["metadata"] if known else {}
        metadata["resourceVersion"] = before.get("resourceVersion", "0")
        metadata["generation"] = before.get("generation", 0)
        if known == item:
            return known
        if known is None or known.get("spec") != item.get("spec"):
            metadata["generation"] += 1
        self.version += 1
        metadata["resourceVersion"] = str(self.version)
        self._objects[key] = item
        return item


def _differs(ours: Any, live: Any) -> bool:
    """Tell whether an object has another value where we have one."""
    if isinstance(ours, Mapping) and isinstance(live, Mapping):
        return any(name in live and _differs(value, live[name]) for name, value in ours.items())
    return bool(ours != live)


def _drop(merged: Any, before: Any, now: Any) -> None:
    """Take away the fields that we applied before and no longer do."""
    if not (isinstance(before, Mapping) and isinstance(now, Mapping) and isinstance(merged, dict)):
        return
    for name, value in before.items():
        if name not in now:
            merged.pop(name, None)
        else:
            _drop(merged.get(name), value, now[name])


__all__ = ["CELLS", "FakeClient"]
