"""What kubelets, schedulers and volume drivers would do, done by hand: for an API server that has none."""

from __future__ import annotations

import datetime as dt
import http.client
import itertools
import threading
from typing import Any, Self

from apiserver.api import Api, Refused
from apiserver.control_plane import ControlPlane

#: Addresses are given to pods in turn; nobody listens there.
_addresses = itertools.count(1)


def now() -> str:
    """Return the time as Kubernetes writes it."""
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def condition(kind: str, *, status: bool, reason: str = "", message: str = "") -> dict[str, Any]:
    """Return a condition of a pod or node."""
    return {
        "type": kind,
        "status": str(status),
        "lastTransitionTime": now(),
        "reason": reason,
        "message": message,
    }


def make_node(api: Api, name: str, *, ready: bool = True) -> None:
    """Make a node, or set its readiness."""
    if api.get("nodes", None, name) is None:
        api.create("nodes", None, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
    state = {"conditions": [condition("Ready", status=ready, reason="KubeletReady")]}
    api.patch("nodes", None, name, {"status": state}, subresource="status")


def address() -> str:
    """Return an address that no other pod of this run has had."""
    number = next(_addresses)
    return f"10.244.{number // 250 % 250}.{number % 250 + 1}"


def run_pod(
    api: Api, namespace: str, name: str, *, node: str = "node-a", ip: str = "", ready: bool = True, restarts: int = 0
) -> str:
    """Bind a pod to a node unless it is, and report its container running; return the pod's address.

    Args:
        api: whose requests these are.
        namespace: of the pod.
        name: of the pod.
        node: where it runs; need not exist as an object.
        ip: its address; default: the one it has, else a new one.
        ready: whether its readiness probe succeeds.
        restarts: how often its container has been restarted.

    """
    pod = api.must_get("pods", namespace, name)
    if not pod["spec"].get("nodeName"):
        target = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": {"name": node}}
        api.request("POST", f"/api/v1/namespaces/{namespace}/pods/{name}/binding", target)
    ip = ip or pod.get("status", {}).get("podIP") or address()
    statuses = [
        {
            "name": container["name"],
            "image": container["image"],
            "imageID": "",
            "ready": ready,
            "started": True,
            "restartCount": restarts,
            "state": {"running": {"startedAt": now()}},
        }
        for container in pod["spec"]["containers"]
    ]
    _report(api, namespace, name, "Running", ready=ready, podIP=ip, podIPs=[{"ip": ip}], containerStatuses=statuses)
    return ip


def block_pod(api: Api, namespace: str, name: str, reason: str, message: str = "") -> None:
    """Report a pod whose container waits for a reason, for example ImagePullBackOff or CrashLoopBackOff."""
    pod = api.must_get("pods", namespace, name)
    statuses = [
        {
            "name": container["name"],
            "image": container["image"],
            "imageID": "",
            "ready": False,
            "restartCount": 0,
            "state": {"waiting": {"reason": reason, "message": message}},
        }
        for container in pod["spec"]["containers"]
    ]
    _report(api, namespace, name, "Pending", ready=False, containerStatuses=statuses)


def leave_unscheduled(api: Api, namespace: str, name: str, message: str) -> None:
    """Report that the scheduler finds no node for a pod."""
    found = condition("PodScheduled", status=False, reason="Unschedulable", message=message)
    api.patch("pods", namespace, name, {"status": {"phase": "Pending", "conditions": [found]}}, subresource="status")


def end_containers(api: Api, namespace: str, name: str, message: str) -> None:
    """Report that the containers of a pod have ended, as a kubelet does before it removes a pod that is deleted.

    Args:
        api: whose requests these are.
        namespace: of the pod.
        name: of the pod.
        message: what the first container has written to its termination log.

    """
    pod = api.must_get("pods", namespace, name)
    ended = {"exitCode": 0, "reason": "Completed", "startedAt": now(), "finishedAt": now()}
    statuses = [
        {
            "name": container["name"],
            "image": container["image"],
            "imageID": "",
            "ready": False,
            "restartCount": 0,
            "state": {"terminated": {**ended, "message": message if number == 0 else ""}},
        }
        for number, container in enumerate(pod["spec"]["containers"])
    ]
    _report(api, namespace, name, "Running", ready=False, containerStatuses=statuses)


def end_pod(api: Api, namespace: str, name: str) -> None:
    """Remove a pod at once, as a kubelet does once its containers have ended."""
    api.delete("pods", namespace, name, gracePeriodSeconds="0")


def bind_claim(api: Api, namespace: str, name: str, *, capacity: str = "") -> None:
    """Bind a claim to a volume that exists on paper only.

    Args:
        api: whose requests these are.
        namespace: of the claim.
        name: of the claim.
        capacity: what the volume holds; default: what is asked for. Later: what it has grown to.

    """
    claim = api.must_get("persistentvolumeclaims", namespace, name)
    volume = f"volume-{claim['metadata']['uid']}"
    if not claim["spec"].get("volumeName"):
        api.patch("persistentvolumeclaims", namespace, name, {"spec": {"volumeName": volume}})
    size = capacity or claim["spec"]["resources"]["requests"]["storage"]
    state = {"phase": "Bound", "accessModes": claim["spec"]["accessModes"], "capacity": {"storage": size}}
    api.patch("persistentvolumeclaims", namespace, name, {"status": state}, subresource="status")


def make_storage_class(api: Api, name: str, *, expandable: bool, default: bool = False) -> None:
    """Make a class of storage that nobody provisions."""
    note = {"storageclass.kubernetes.io/is-default-class": str(default).lower()}
    body = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": name, "annotations": note},
        "provisioner": "tests.cellmesh.dev/none",
        "allowVolumeExpansion": expandable,
        "volumeBindingMode": "Immediate",
    }
    api.delete("storageclasses", None, name)
    api.create("storageclasses", None, body)


def _report(api: Api, namespace: str, name: str, phase: str, *, ready: bool, **fields: Any) -> None:
    reason = "" if ready else "ContainersNotReady"
    conditions = [
        condition("PodScheduled", status=True),
        condition("Initialized", status=True),
        condition("ContainersReady", status=ready, reason=reason),
        condition("Ready", status=ready, reason=reason),
    ]
    state = {"phase": phase, "conditions": conditions, "startTime": now(), **fields}
    api.patch("pods", namespace, name, {"status": state}, subresource="status")


class Kubelet:
    """Runs every pod that appears, and removes every one that is deleted: ``with Kubelet(plane):``.

    Args:
        plane: where.
        namespace: of the pods; None: everywhere.
        labels: selector of the pods.
        claims: bind the claims of the pods as well.
        words: termination messages of the first containers of pods, by the names of these.

    """

    def __init__(
        self,
        plane: ControlPlane,
        namespace: str | None = None,
        *,
        labels: str = "",
        claims: bool = True,
        words: dict[str, str] | None = None,
    ) -> None:
        self._api = plane.api_as(plane.tokens["controllers"])
        self._namespace = namespace
        self._query = {"labelSelector": labels} if labels else {}
        self._claims = claims
        self._words = words or {}
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kubelet", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join()
        self._api.close()

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                # Short watches: between two of them the end is noticed, and what was missed is listed again.
                with self._api.watch("pods", self._namespace, timeout=1, **self._query) as events:
                    for event in events:
                        if event["type"] in {"ADDED", "MODIFIED"}:
                            self._treat(event["object"])
            except (OSError, http.client.HTTPException, ValueError, Refused):
                self._closed.wait(0.1)  # the API server is away, as tests do to it

    def _treat(self, pod: dict[str, Any]) -> None:
        namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
        try:
            if pod["metadata"].get("deletionTimestamp"):
                if name in self._words:
                    end_containers(self._api, namespace, name, self._words[name])
                end_pod(self._api, namespace, name)
            elif not any(one["type"] == "Ready" for one in pod.get("status", {}).get("conditions", [])):
                for volume in pod["spec"].get("volumes", []):
                    if self._claims and (claim := volume.get("persistentVolumeClaim")):
                        bind_claim(self._api, namespace, claim["claimName"])
                run_pod(self._api, namespace, name)
        except (Refused, AssertionError):
            return  # gone or changed meanwhile; the next event tells
