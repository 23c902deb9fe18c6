"""The charts as a user installs them, and the operator that they make."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from e2e.clusters import SOON, Cluster
from e2e.images import Images
from e2e.programs import ROOT
from processes import Answer
from support import eventually

CHARTS = ROOT / "charts"
RECONCILER = "cellmesh-reconciler"
DISCOVERY = "cellmesh-discovery"


def make_namespace(cluster: Cluster, name: str) -> None:
    """Make a namespace that enforces the Pod Security Standard ``restricted``, if it is not there."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted", "cellmesh-e2e": "yes"}
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(body))


def split(image: str) -> tuple[str, str]:
    """Return repository and tag of an image."""
    repository, _, tag = image.rpartition(":")
    return repository, tag


class Release:
    """A release of the chart ``cellmesh``.

    Args:
        cluster: where.
        namespace: whose release it is.
        images: what runs.
        major: version of Helm.

    """

    name = "cellmesh"

    def __init__(self, cluster: Cluster, namespace: str, images: Images, *, major: int = 4) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.images = images
        self._major = major

    def helm(self, *arguments: str, **more: Any) -> str:
        """Run Helm in the release's namespace."""
        return self.cluster.helm(*arguments, "--namespace", self.namespace, major=self._major, **more)

    def install_resource(self) -> None:
        """Install the chart of the Cell resource, or upgrade it."""
        self.helm("upgrade", "--install", "cellmesh-crds", str(CHARTS / "cellmesh-crds"))

    def install(self, values: dict[str, Any] | None = None, *, chart: Path = CHARTS / "cellmesh") -> str:
        """Install the chart, or upgrade what is installed to just these values; wait until all of it is ready."""
        given = {
            "cell": {"image": self.image(self.images.cell)},
            "reconciler": {"image": self.image(self.images.operator)},
        }
        for key, value in (values or {}).items():
            given[key] = {**given.get(key, {}), **value} if isinstance(value, dict) else value
        settings = [f"--set-json={key}={json.dumps(value)}" for key, value in given.items()]
        return self.helm("upgrade", "--install", self.name, str(chart), "--wait", "--timeout=3m", *settings)

    @staticmethod
    def image(name: str) -> dict[str, Any]:
        """Return an image as the chart takes it."""
        repository, tag = split(name)
        return {"repository": repository, "tag": tag}

    def uninstall(self) -> None:
        """Uninstall the chart, and wait until its pods are gone."""
        self.helm("uninstall", self.name, "--wait", "--timeout=2m")

    def pods(self, component: str) -> list[dict[str, Any]]:
        """Return the pods of reconciler or discovery that are not about to go."""
        selector = f"app.kubernetes.io/instance={self.name},app.kubernetes.io/component={component}"
        pods = self.cluster.api.list("pods", self.namespace, labelSelector=selector)
        return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]

    def scale(self, component: str, replicas: int) -> None:
        """Scale reconciler or discovery, and wait until it is so: also, that none is left of those that go."""
        deployment = f"deployment/cellmesh-{component}"
        self.cluster.kubectl("-n", self.namespace, "scale", deployment, f"--replicas={replicas}")
        selector = f"app.kubernetes.io/instance={self.name},app.kubernetes.io/component={component}"

        def scaled() -> bool:
            pods = self.cluster.api.list("pods", self.namespace, labelSelector=selector)
            return len(pods) == replicas and all(map(is_ready, pods))

        eventually(scaled, within=SOON, message=f"{replicas} pods of {component}")

    def mesh_url(self, mesh: str) -> str:
        """Return where pods find a mesh in discovery."""
        return f"http://{DISCOVERY}.{self.namespace}.svc:8001/meshes/{mesh}"

    def ask_discovery(self, mesh: str, path: str = "/peers", *, pod: str = "", timeout: float = 20) -> Answer:
        """Make a GET request to discovery about a mesh; to one replica if a pod is named."""
        if pod:
            return self.cluster.ask_pod(self.namespace, pod, 8001, "GET", f"/meshes/{mesh}{path}", timeout=timeout)
        return self.cluster.ask_service(self.namespace, f"{DISCOVERY}:http", f"/meshes/{mesh}{path}", timeout=timeout)

    def peers(self, mesh: str) -> dict[str, dict[str, Any]]:
        """Return what discovery knows of a mesh, by instance."""
        answer = self.ask_discovery(mesh)
        assert answer.status == 200, answer
        return {peer["instance"]: peer for peer in answer.json["peers"]}


def is_ready(pod: dict[str, Any]) -> bool:
    """Tell whether a pod is Ready and not about to go."""
    conditions = pod.get("status", {}).get("conditions", [])
    ready = any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
    return ready and "deletionTimestamp" not in pod["metadata"]
