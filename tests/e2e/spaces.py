"""A namespace of a test's own, enforcing ``restricted``, with what tests do in it."""

from __future__ import annotations

import json
from typing import Any

import yaml

from e2e.clusters import SOON, Cluster
from e2e.releases import Release, is_ready, make_namespace
from processes import Answer
from support import eventually

EPHEMERAL: dict[str, Any] = {"ephemeral": {}}
#: What a Cell has that says nothing.
VOLUME: dict[str, Any] = {"size": "1Gi"}


def cell(name: str, **spec: Any) -> dict[str, Any]:
    """Return a Cell as a manifest; without ``storage`` it is ephemeral, which starts faster."""
    return {
        "apiVersion": "cellmesh.dev/v1alpha1",
        "kind": "Cell",
        "metadata": {"name": name},
        "spec": {"storage": EPHEMERAL} | spec,
    }


def spread(name: str) -> dict[str, Any]:
    """Return what keeps instances with volumes, which are a node's own, from being all on one node, to be drained.

    A cell by itself only wishes for that.
    """
    return {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule",
        "nodeTaintsPolicy": "Honor",
        "labelSelector": {"matchLabels": {"cellmesh.dev/cell": name}},
    }


class Space:
    """A namespace, and one mesh with it."""

    def __init__(self, cluster: Cluster, release: Release, name: str) -> None:
        self.cluster = cluster
        self.release = release
        self.name = name
        self.ledgers: list[str] = []
        make_namespace(cluster, name)

    def kubectl(self, *arguments: str, **more: Any) -> str:
        """Run kubectl in the namespace."""
        return self.cluster.kubectl("-n", self.name, *arguments, **more)

    def apply(self, *objects: dict[str, Any]) -> None:
        """Apply objects as a user does."""
        self.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(objects))

    def start(self, *cells: dict[str, Any]) -> None:
        """Apply Cells and wait until they are Ready."""
        self.apply(*cells)
        self.wait_ready(*(one["metadata"]["name"] for one in cells))

    def wait_ready(self, *names: str, within: float = SOON) -> None:
        """Wait, as a user does, until Cells are Ready in their newest generation; without names: all of them."""
        which = [f"cell/{name}" for name in names] or ["cell", "--all"]
        self.kubectl("wait", "--for=condition=Ready", *which, f"--timeout={within:g}s", timeout=within + 10)

    def patch(self, name: str, spec: dict[str, Any]) -> None:
        """Change fields of a Cell's spec, with the request that `kubectl edit` makes."""
        self.kubectl("patch", "cell", name, "--type=merge", "--patch", json.dumps({"spec": spec}))

    def cell(self, name: str) -> dict[str, Any]:
        """Return a Cell as it is now."""
        return self.cluster.api.must_get("cells", self.name, name)

    def condition(self, name: str, kind: str) -> dict[str, Any]:
        """Return a condition of a Cell; an empty one if it has none of that type, or only of an older generation."""
        found = self.cell(name)
        for condition in found.get("status", {}).get("conditions", []):
            if condition["type"] == kind and condition["observedGeneration"] == found["metadata"]["generation"]:
                return dict(condition)
        return {}

    def wait_condition(
        self, name: str, kind: str, status: str, reason: str = "", *, within: float = SOON
    ) -> dict[str, Any]:
        """Wait until a condition of a Cell has a status, and a reason; return it."""
        seen: dict[str, Any] = {}

        def there() -> bool:
            seen.clear()
            seen.update(self.condition(name, kind))
            assert seen.get("status") == status, seen
            assert reason in {"", seen["reason"]}, seen
            return True

        eventually(there, within=within, message=f"{name}: {kind}={status} {reason}")
        return seen

    def pods(self, name: str) -> list[dict[str, Any]]:
        """Return the pods of a Cell, also those about to go, by ordinal."""
        pods = self.cluster.api.list("pods", self.name, labelSelector=f"cellmesh.dev/cell={name}")
        return sorted(pods, key=lambda pod: int(pod["metadata"]["name"].rpartition("-")[2]))

    def pod(self, name: str) -> dict[str, Any]:
        """Return a pod."""
        return self.cluster.api.must_get("pods", self.name, name)

    def wait_pod(self, name: str, *, other_than: str = "", within: float = SOON) -> dict[str, Any]:
        """Wait until a pod is Ready that has another uid; return it."""

        def ready() -> dict[str, Any]:
            pod = self.pod(name)
            assert is_ready(pod), pod.get("status")
            assert pod["metadata"]["uid"] != other_than
            return pod

        return eventually(ready, within=within, message=f"pod {name} to be Ready")

    def wait_gone(self, plural: str, name: str, *, within: float = SOON) -> None:
        """Wait until an object is gone."""
        eventually(
            lambda: self.cluster.api.get(plural, self.name, name) is None,
            within=within,
            message=f"{plural} {name} to be gone",
        )

    def peers(self) -> dict[str, dict[str, Any]]:
        """Return what discovery knows of this mesh, by instance."""
        return self.release.peers(self.name)

    def ask(self, instance: str, method: str, path: str, body: Any = None, *, timeout: float = SOON) -> Answer:
        """Make a request to an instance at the port that it has, through the API server."""
        return self.cluster.ask_pod(
            self.name, instance, port_of(self.pod(instance)), method, path, body, timeout=timeout
        )

    def send(self, instance: str, to_cell: str, **fields: Any) -> Answer:
        """Have an instance send a message."""
        return self.ask(instance, "POST", "/send", {"to_cell": to_cell} | fields)

    def messages(self, instance: str) -> list[dict[str, Any]]:
        """Return all messages in the inbox of an instance."""
        found: list[dict[str, Any]] = []
        after = 0
        port = port_of(self.pod(instance))
        while True:
            answer = self.cluster.ask_pod(self.name, instance, port, "GET", f"/messages?limit=1000&after={after}")
            assert answer.status == 200, answer
            page = answer.json["messages"]
            if not page:
                return found
            found += page
            after = page[-1]["seq"]

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the events of a Cell."""
        selector = f"involvedObject.kind=Cell,involvedObject.name={name}"
        return self.cluster.api.list("events", self.name, fieldSelector=selector)


def port_of(pod: dict[str, Any]) -> int:
    """Return the port of a cell's pod."""
    ports = [port for box in pod["spec"]["containers"] for port in box.get("ports", []) if port.get("name") == "cell"]
    port: int = ports[0]["containerPort"]
    return port
