"""The API server, as far as we use it: JSON objects in, JSON objects out.

Behind it is ``kubernetes.aio`` (where the server is, who we are, TLS), without its typed models: those cost ten
times the time of plain JSON and refuse what a newer server adds. Every call has a deadline. Nothing is tried again
here, except once after a 401 with the login read anew: whoever calls knows what is worth a retry.
"""

from __future__ import annotations

import builtins
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from urllib.parse import quote

import msgspec
from kubernetes.aio.client import Configuration

from cellmesh_operator.errors import ApiError
from cellmesh_operator.kube import access
from cellmesh_operator.kube.transport import SILENCE, TIMEOUT, Transport, lost
from cellmesh_operator.naming import FIELD_MANAGER, Resource

#: An object as the API server writes it.
Object = dict[str, Any]
T = TypeVar("T")

#: Objects a page of a list.
PAGE: Final = 500
#: Seconds after which the server ends a watch in good order; it is then simply resumed. Short, since nothing else
#: is sure to come: of a kind that nobody has written since the server's start there are no bookmarks.
WATCH_SECONDS: Final = 30

_APPLY: Final = "application/apply-patch+yaml"
_MERGE: Final = "application/merge-patch+json"


@dataclass(frozen=True, slots=True)
class Listing:
    """All objects of a kind at one moment; a watch goes on from ``resource_version``."""

    items: list[Object]
    resource_version: str


class _Metadata(msgspec.Struct):
    name: str
    uid: str
    resourceVersion: str  # noqa: N815 - as on the wire
    namespace: str = ""


class _Item(msgspec.Struct):
    metadata: _Metadata


class _ListMetadata(msgspec.Struct, rename={"more": "continue"}):
    resourceVersion: str = ""  # noqa: N815 - as on the wire
    more: str = ""


class _Page(msgspec.Struct):
    metadata: _ListMetadata
    items: list[msgspec.Raw] | None = None


_PAGES: Final = msgspec.json.Decoder(_Page)
_ITEMS: Final = msgspec.json.Decoder(_Item)


@dataclass(frozen=True, slots=True)
class Head:
    """An object of which only the identity was read; ``text`` is all of it, as JSON."""

    key: tuple[str, str]
    """Namespace and name."""
    uid: str
    version: int
    text: msgspec.Raw


class Client:
    """Calls to one API server. Every call raises ``ApiError`` if it is refused, ``ConnectionLost`` if it fails.

    Made by ``Client.connect``; safe for any number of calls at the same time in one event loop.
    """

    def __init__(
        self,
        configuration: Configuration,
        *,
        timeout: float = TIMEOUT,
        silence: float = SILENCE,
        manager: str = FIELD_MANAGER,
    ) -> None:
        self._manager = manager
        self._http = Transport(configuration, timeout=timeout, silence=silence, agent=manager)

    @classmethod
    @asynccontextmanager
    async def connect(
        cls,
        configuration: Configuration | None = None,
        *,
        timeout: float = TIMEOUT,
        silence: float = SILENCE,
        manager: str = FIELD_MANAGER,
    ) -> AsyncIterator[Client]:
        """Open a client and close it in the end; nothing is sent yet.

        Args:
            configuration: where the API server is; by default what ``access.load`` finds.
            timeout: seconds that one call may take.
            silence: seconds without a byte after which a watch is dead.
            manager: as whom to write fields, and what to say we are (``User-Agent``).

        Raises:
            AccessError: nothing says where the API server is.

        """
        client = cls(configuration or await access.load(), timeout=timeout, silence=silence, manager=manager)
        try:
            yield client
        finally:
            await client._http.close()

    async def get(self, resource: Resource, namespace: str | None, name: str) -> Object | None:
        """Return an object, or None if there is none of this name."""
        try:
            return await self._object("GET", path(resource, namespace, name))
        except ApiError as error:
            if error.not_found:
                return None
            raise

    async def list(
        self, resource: Resource, namespace: str | None = None, *, labels: str = "", fields: str = ""
    ) -> Listing:
        """Return all objects of a kind in a namespace, or in all (None), that match the selectors."""
        return Listing(*await self.collect(_whole, resource, namespace, labels=labels, fields=fields))

    async def collect(
        self,
        keep: Callable[[Object], T],
        resource: Resource,
        namespace: str | None = None,
        *,
        labels: str = "",
        fields: str = "",
    ) -> tuple[builtins.list[T], str]:
        """Return what ``keep`` makes of each object, and the list's resource version; else like ``list``.

        Only one page of whole objects is in memory at a time.
        """
        # In lists of the API server only the list itself says what its items are.
        kind = {"apiVersion": resource.api_version, "kind": resource.kind}
        return await self._list(
            lambda text: keep({**kind, **msgspec.json.decode(text)}), resource, namespace, labels, fields
        )

    async def heads(
        self, resource: Resource, namespace: str | None = None, *, labels: str = ""
    ) -> tuple[builtins.list[Head], int]:
        """Return the identity of all objects, and the list's resource version; a fraction of the work of ``list``."""
        found, version = await self._list(_head, resource, namespace, labels, "")
        return found, number(version)

    async def watch(
        self, resource: Resource, namespace: str | None = None, *, since: str, labels: str = "", fields: str = ""
    ) -> AsyncGenerator[tuple[str, Object]]:
        """Yield ``(type, object)`` of each change after a resource version, bookmarks included.

        Types are ``ADDED``, ``MODIFIED``, ``DELETED`` and ``BOOKMARK``. The iterator ends when the server ends
        the watch in good order, after ``WATCH_SECONDS`` or when it stops: watch again from the last resource
        version that came. Close it with ``contextlib.aclosing`` when you leave it early.

        Raises:
            ApiError: refused; ``gone`` says that ``since`` is too old, so list again.
            ConnectionLost: the server was not reached, or nothing came for ``SILENCE`` seconds.

        """
        query = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": since,
            "timeoutSeconds": str(WATCH_SECONDS),
            "labelSelector": labels,
            "fieldSelector": fields,
        }
        url = path(resource, namespace)
        async with aclosing(self._http.lines(url, query)) as lines:
            async for line in lines:
                try:
                    event = msgspec.json.decode(line)
                except msgspec.DecodeError as error:
                    raise lost("GET", url, error) from error
                if event["type"] == "ERROR":
                    raise ApiError.from_status(event["object"], status=500)
                yield event["type"], event["object"]

    async def apply(
        self, resource: Resource, body: Mapping[str, Any], *, uid: str | None = None, force: bool = True
    ) -> Object:
        """Apply an object's fields server-side as the client's manager; return the object as it is then.

        Args:
            resource: the kind.
            body: the fields that are ours, with ``apiVersion``, ``kind`` and ``metadata.name``.
            uid: apply only to this very object; another one of that name, or none, is a conflict.
            force: take over fields that another manager owns; else that is a conflict.

        """
        return await self._apply(resource, body, "", uid, force=force)

    async def apply_status(self, resource: Resource, body: Mapping[str, Any], *, uid: str | None = None) -> Object:
        """Apply an object's ``status`` server-side; return the object as it is then."""
        return await self._apply(resource, body, "status", uid, force=True)

    async def create(self, resource: Resource, body: Mapping[str, Any]) -> Object:
        """Create an object; one of that name that is there already is a conflict."""
        namespace = body["metadata"].get("namespace")
        return await self._object("POST", path(resource, namespace), {"fieldManager": self._manager}, body)

    async def patch(
        self, resource: Resource, namespace: str | None, name: str, body: Mapping[str, Any], *, subresource: str = ""
    ) -> Object:
        """Merge fields into an object (JSON merge patch); null takes a field away."""
        url = path(resource, namespace, name, subresource)
        return await self._object("PATCH", url, {"fieldManager": self._manager}, body, _MERGE)

    async def delete(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        *,
        uid: str | None = None,
        version: str | None = None,
        orphan: bool = False,
    ) -> bool:
        """Delete an object; return whether there was one.

        Args:
            resource: the kind.
            namespace: the namespace; None for kinds without.
            name: the name.
            uid: delete only this very object; another one of that name is a conflict.
            version: delete it only if it has not been written since this resource version; else a conflict.
            orphan: leave what it owns where it is, instead of having it collected.

        """
        options: Object = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Orphan" if orphan else "Background",
        }
        preconditions = {"uid": uid, "resourceVersion": version}
        if uid or version:
            options["preconditions"] = {field: value for field, value in preconditions.items() if value}
        try:
            await self._http.read("DELETE", path(resource, namespace, name), None, options)
        except ApiError as error:
            if error.not_found:
                return False
            raise
        return True

    async def _list(
        self, keep: Callable[[msgspec.Raw], T], resource: Resource, namespace: str | None, labels: str, fields: str
    ) -> tuple[builtins.list[T], str]:
        query: dict[str, str] = {"limit": str(PAGE), "labelSelector": labels, "fieldSelector": fields}
        url = path(resource, namespace)
        items: builtins.list[T] = []
        while True:
            try:
                page = _PAGES.decode(await self._http.read("GET", url, query))
            except msgspec.MsgspecError as error:
                raise lost("GET", url, error) from error
            except ApiError as error:
                if not (error.gone and "continue" in query):
                    raise
                # The pages' moment is too old to go on with (a very long list, a slow server): all at once then.
                items.clear()
                del query["continue"], query["limit"]
                continue
            items += map(keep, page.items or ())
            if not page.metadata.more:
                return items, page.metadata.resourceVersion
            query["continue"] = page.metadata.more

    async def _apply(
        self, resource: Resource, body: Mapping[str, Any], subresource: str, uid: str | None, *, force: bool
    ) -> Object:
        metadata = body["metadata"]
        if uid:
            body = {**body, "metadata": {**metadata, "uid": uid}}
        query = {"fieldManager": self._manager, "force": "true" if force else "false"}
        url = path(resource, metadata.get("namespace"), metadata["name"], subresource)
        try:
            return await self._object("PATCH", url, query, body, _APPLY)
        except ApiError as error:
            # What is a conflict by any other way of writing is invalid here: "metadata.uid: field is immutable".
            if uid and error.invalid and "metadata.uid" in error.message:
                raise ApiError(409, "Conflict", error.message) from None
            raise

    async def _object(
        self,
        method: str,
        url: str,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
    ) -> Object:
        try:
            answer: Object = msgspec.json.decode(await self._http.read(method, url, query, body, content_type))
        except msgspec.DecodeError as error:
            raise lost(method, url, error) from error
        return answer


def _whole(item: Object) -> Object:
    return item


def _head(text: msgspec.Raw) -> Head:
    metadata = _ITEMS.decode(text).metadata
    return Head((metadata.namespace, metadata.name), metadata.uid, number(metadata.resourceVersion), text)


def number(version: str) -> int:
    """Return a resource version as a number: greater is newer among objects of one kind; 0 if it is none.

    The API server has always written them so; KEP-5504 (Kubernetes 1.35) makes it a promise.
    """
    return int(version) if version.isdecimal() else 0


def path(resource: Resource, namespace: str | None, name: str = "", subresource: str = "") -> str:
    """Return the path of a kind's collection, of an object or of its subresource, beginning with ``/``."""
    parts = ["apis", resource.group] if resource.group else ["api"]
    parts.append(resource.version)
    if namespace:
        parts += ["namespaces", quote(namespace, safe="")]
    parts.append(resource.plural)
    if name:
        parts.append(quote(name, safe=""))
    if subresource:
        parts.append(subresource)
    return "/" + "/".join(parts)
