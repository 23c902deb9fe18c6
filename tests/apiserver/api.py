"""A plain client for an API server: JSON in, JSON out, one request at a time. What tests look with."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlencode

#: Plural to group and version, and whether it lives in a namespace.
RESOURCES: dict[str, tuple[str, bool]] = {
    "cells": ("cellmesh.dev/v1alpha1", True),
    "statefulsets": ("apps/v1", True),
    "deployments": ("apps/v1", True),
    "controllerrevisions": ("apps/v1", True),
    "services": ("v1", True),
    "serviceaccounts": ("v1", True),
    "pods": ("v1", True),
    "persistentvolumeclaims": ("v1", True),
    "events": ("v1", True),
    "configmaps": ("v1", True),
    "secrets": ("v1", True),
    "resourcequotas": ("v1", True),
    "limitranges": ("v1", True),
    "poddisruptionbudgets": ("policy/v1", True),
    "leases": ("coordination.k8s.io/v1", True),
    "roles": ("rbac.authorization.k8s.io/v1", True),
    "rolebindings": ("rbac.authorization.k8s.io/v1", True),
    "clusterroles": ("rbac.authorization.k8s.io/v1", False),
    "clusterrolebindings": ("rbac.authorization.k8s.io/v1", False),
    "storageclasses": ("storage.k8s.io/v1", False),
    "persistentvolumes": ("v1", False),
    "namespaces": ("v1", False),
    "nodes": ("v1", False),
    "customresourcedefinitions": ("apiextensions.k8s.io/v1", False),
    "mutatingwebhookconfigurations": ("admissionregistration.k8s.io/v1", False),
    "mutatingadmissionpolicies": ("admissionregistration.k8s.io/v1beta1", False),
}
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY = "application/apply-patch+yaml"
#: Seconds a request may take.
TIMEOUT = 30.0


class Refused(Exception):  # noqa: N818 - an answer, not a fault of the client
    """The API server's answer is not a success.

    Args:
        status: HTTP status.
        body: its Status object, or the raw text.

    """

    def __init__(self, status: int, body: Any) -> None:
        self.status = status
        self.body = body
        details = body if isinstance(body, dict) else {"message": str(body)}
        self.reason: str = details.get("reason", "")
        self.message: str = details.get("message", "")
        super().__init__(f"{status} {self.reason}: {self.message}")


def path_of(plural: str, namespace: str | None = None, name: str = "", subresource: str = "") -> str:
    """Return the path of a resource; without a namespace: of all namespaces."""
    version, namespaced = RESOURCES[plural]
    parts = ["/api" if "/" not in version else "/apis", version]
    if namespaced and namespace:
        parts += ["namespaces", namespace]
    return "/".join([*parts, plural, *filter(None, (quote(name), subresource))])


class Api:
    """Requests to one API server as one user; may be used by several threads.

    Args:
        port: on 127.0.0.1.
        ca: file of the authority that signed the server's certificate; None: plain HTTP, as `kubectl proxy` takes it.
        token: bearer token; empty: none.
        user_agent: seen in the audit log.

    """

    def __init__(self, port: int, ca: str | None, token: str, user_agent: str = "cellmesh-tests") -> None:
        self.port = port
        self._tls = ssl.create_default_context(cafile=ca) if ca else None
        if self._tls is not None:
            # kube-apiserver's own certificates are a shade too plain for the strictness of Python 3.13.
            self._tls.verify_flags &= ~ssl.VERIFY_X509_STRICT
        self._headers = {"Accept": "application/json", "User-Agent": user_agent}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._own = threading.local()
        self._open: set[http.client.HTTPConnection] = set()

    def request(
        self, method: str, path: str, body: Any = None, *, content_type: str = "application/json", **query: Any
    ) -> Any:
        """Make a request and return the answer as data (text where it is no JSON).

        Raises:
            Refused: the status is 400 or above.
            OSError, http.client.HTTPException: no answer.

        """
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        headers = self._headers | ({"Content-Type": content_type} if data is not None else {})
        if query:
            path += ("&" if "?" in path else "?") + urlencode(query)
        try:
            status, raw = self._once(method, path, data, headers)
        except (http.client.HTTPException, OSError):
            self.close()
            if method != "GET":
                raise
            status, raw = self._once(method, path, data, headers)  # kept open too long: the server has hung up
        text = raw.decode(errors="replace")
        try:
            answer = json.loads(text)
        except ValueError:
            answer = text
        if status >= 400:
            raise Refused(status, answer)
        return answer

    def _once(self, method: str, path: str, data: bytes | None, headers: dict[str, str]) -> tuple[int, bytes]:
        connection = self._connection()
        connection.request(method, path, data, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()

    def _new_connection(self, timeout: float) -> http.client.HTTPConnection:
        if self._tls is None:
            return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=timeout, context=self._tls)

    def _connection(self) -> http.client.HTTPConnection:
        connection: http.client.HTTPConnection | None = getattr(self._own, "connection", None)
        if connection is None:
            connection = self._new_connection(TIMEOUT)
            self._own.connection = connection
            self._open.add(connection)
        return connection

    def close(self) -> None:
        """Close this thread's connection; the next request opens another."""
        connection = getattr(self._own, "connection", None)
        if connection is not None:
            connection.close()
            self._open.discard(connection)
            self._own.connection = None

    def close_all(self) -> None:
        """Close the connections of every thread, when none uses them any more."""
        while self._open:
            self._open.pop().close()
        self._own = threading.local()

    def get(self, plural: str, namespace: str | None, name: str, subresource: str = "") -> dict[str, Any] | None:
        """Return an object, None where there is none."""
        try:
            found: dict[str, Any] = self.request("GET", path_of(plural, namespace, name, subresource))
        except Refused as refused:
            if refused.status == 404:
                return None
            raise
        return found

    def must_get(self, plural: str, namespace: str | None, name: str) -> dict[str, Any]:
        """Return an object that has to be there."""
        found = self.get(plural, namespace, name)
        assert found is not None, f"{plural} {namespace}/{name} is not there"
        return found

    def list(self, plural: str, namespace: str | None = None, **query: str) -> list[dict[str, Any]]:
        """Return objects; ``labelSelector=`` and ``fieldSelector=`` as query."""
        items: list[dict[str, Any]] = self.request("GET", path_of(plural, namespace), **query)["items"]
        return items

    def create(self, plural: str, namespace: str | None, body: dict[str, Any], **query: str) -> dict[str, Any]:
        """Create an object; kind and apiVersion are taken from the body."""
        created: dict[str, Any] = self.request("POST", path_of(plural, namespace), body, **query)
        return created

    def replace(self, plural: str, namespace: str | None, body: dict[str, Any], subresource: str = "") -> Any:
        """Replace an object, or its status."""
        return self.request("PUT", path_of(plural, namespace, body["metadata"]["name"], subresource), body)

    def patch(
        self,
        plural: str,
        namespace: str | None,
        name: str,
        body: Any,
        *,
        subresource: str = "",
        content_type: str = MERGE,
        **query: str,
    ) -> Any:
        """Patch an object; by default a merge patch."""
        path = path_of(plural, namespace, name, subresource)
        return self.request("PATCH", path, body, content_type=content_type, **query)

    def apply(
        self, plural: str, namespace: str | None, body: dict[str, Any], *, manager: str = "tests", subresource: str = ""
    ) -> Any:
        """Apply an object on the server's side, by force."""
        path = path_of(plural, namespace, body["metadata"]["name"], subresource)
        return self.request("PATCH", path, body, content_type=APPLY, fieldManager=manager, force="true")

    def delete(self, plural: str, namespace: str | None, name: str, **query: str) -> None:
        """Delete an object if it is there."""
        try:
            self.request("DELETE", path_of(plural, namespace, name), **query)
        except Refused as refused:
            if refused.status != 404:
                raise

    @contextmanager
    def watch(
        self, plural: str, namespace: str | None = None, *, timeout: float = TIMEOUT, **query: str
    ) -> Iterator[Iterator[dict[str, Any]]]:
        """Watch objects on a connection of its own: an iterator of ``{"type", "object"}``.

        Args:
            plural: what.
            namespace: where; None: everywhere.
            timeout: seconds until the server ends the watch.
            query: ``resourceVersion``, ``labelSelector`` and the like.

        """
        connection = self._new_connection(timeout + 5)
        values = {"watch": "true", "timeoutSeconds": str(int(timeout)), **query}
        try:
            connection.request("GET", f"{path_of(plural, namespace)}?{urlencode(values)}", None, self._headers)
            answer = connection.getresponse()
            if answer.status >= 400:
                raise Refused(answer.status, answer.read().decode(errors="replace"))
            yield (json.loads(line) for line in iter(answer.readline, b""))
        finally:
            connection.close()

    def empty(self, namespace: str) -> None:
        """Take a namespace and all that is in it away at once, without a controller to do it."""
        foreground = {"propagationPolicy": "Background", "gracePeriodSeconds": 0}
        for plural in ("cells", "statefulsets", "poddisruptionbudgets", "services", "pods", "persistentvolumeclaims"):
            try:
                self.request("DELETE", path_of(plural, namespace), foreground)
                left = self.list(plural, namespace)
            except Refused as refused:
                if refused.status != 404:  # Cells without their definition
                    raise
                continue
            for item in left:
                if item["metadata"].get("finalizers"):
                    name = item["metadata"]["name"]
                    self.patch(plural, namespace, name, {"metadata": {"finalizers": None}})
        for plural in ("serviceaccounts", "configmaps", "secrets", "leases", "events", "roles", "rolebindings"):
            self.request("DELETE", path_of(plural, namespace), foreground)
        self.delete("namespaces", None, namespace)
        final = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}, "spec": {"finalizers": []}}
        try:
            self.replace("namespaces", None, final, "finalize")
        except Refused as refused:
            if refused.status != 404:
                raise
