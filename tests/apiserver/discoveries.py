"""Replicas of discovery as real processes on a real API server, with no more rights than the chart grants."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from apiserver.api import Api
from apiserver.control_plane import ControlPlane
from apiserver.stand_ins import run_pod
from processes import PATIENCE, Process
from support import eventually, free_port

#: What discovery may do where it looks for Cells and their pods, and in its own namespace.
FOLLOW = [
    {"apiGroups": ["cellmesh.dev"], "resources": ["cells"], "verbs": ["list", "watch"]},
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]},
]
SHARE = [
    {
        "apiGroups": ["coordination.k8s.io"],
        "resources": ["leases"],
        "verbs": ["get", "list", "watch", "create", "patch", "delete"],
    }
]
#: Silence after which a registration is gone, seconds: short, so that tests are.
EXPIRY = 3.0
_RBAC = "rbac.authorization.k8s.io"


class Replica(Process):
    """One replica of discovery.

    Args:
        name: of the replica.
        directory: for its log.
        kubeconfig: how it reaches the API server.
        namespace: its own.
        settings: further settings by the name of their field.

    """

    def __init__(self, name: str, directory: Path, kubeconfig: Path, namespace: str, **settings: str) -> None:
        self.namespace = namespace
        port = free_port()
        given = {
            "kubernetes": "true",
            "namespace": namespace,
            "port": str(port),
            "expiry": str(EXPIRY),
            "settle": "1",
            **settings,
        }
        environ = {f"CELLMESH_DISCOVERY_{name.upper()}": value for name, value in given.items()}
        environ["KUBECONFIG"] = str(kubeconfig)
        super().__init__(name, [sys.executable, "-m", "cellmesh_operator.discovery"], port, directory, environ)

    def listening(self) -> None:
        """Wait until it answers at all."""
        eventually(lambda: self.get("/livez").status == 200, within=PATIENCE, message=f"{self.name} to listen")

    def answer(self, mesh: str, cell_id: str = "") -> Any:
        """Return the answer of GET /peers."""
        answer = self.get(f"/meshes/{mesh}/peers" + (f"?cell_id={cell_id}" if cell_id else ""))
        assert answer.status == 200, answer
        return answer

    def peers(self, mesh: str) -> dict[str, dict[str, Any]]:
        """Return the peers of a mesh by the name of their instance, or of their cell."""
        return {peer.get("instance") or peer["cell_id"]: peer for peer in self.answer(mesh).json["peers"]}

    def metric(self, name: str) -> float:
        """Return the sum of a metric over its labels."""
        lines = self.get("/metrics").body.decode().splitlines()
        values = [line.rpartition(" ") for line in lines if not line.startswith("#")]
        return sum(float(value) for key, _, value in values if key.partition("{")[0] == f"cellmesh_discovery_{name}")


def token(plane: ControlPlane, namespace: str, meshes: Sequence[str] = ()) -> str:
    """Return a token with the rights of discovery: everywhere, or in some namespaces by Roles only."""
    account = plane.service_account(namespace, "discovery", () if meshes else FOLLOW)
    _role(plane.api, namespace, "leases", namespace, SHARE)
    for mesh in meshes:
        _role(plane.api, mesh, "discovery", namespace, FOLLOW)
    return account


def _role(api: Api, namespace: str, name: str, account: str, rules: list[dict[str, Any]]) -> None:
    head = {"apiVersion": f"{_RBAC}/v1", "metadata": {"name": name}}
    api.create("roles", namespace, {**head, "kind": "Role", "rules": rules})
    subject = {"kind": "ServiceAccount", "namespace": account, "name": "discovery"}
    reference = {"apiGroup": _RBAC, "kind": "Role", "name": name}
    body = {**head, "kind": "RoleBinding", "subjects": [subject], "roleRef": reference}
    api.create("rolebindings", namespace, body)


@contextlib.contextmanager
def running(*replicas: Replica, ready: bool = True) -> Iterator[None]:
    """Run replicas; in the end each has to stop in good order, without a trace of an error."""
    try:
        for replica in replicas:
            replica.start(wait=False)
        for replica in replicas:
            if ready:
                replica.wait_ready()
            else:
                replica.listening()
        yield
        for replica in replicas:
            assert replica.returncode is None, replica.log.read_text()[-2000:]
            assert replica.stop() == 0
            assert not {"Traceback", "Unclosed"} & set(replica.log.read_text().replace(" ", "\n").splitlines())
    finally:
        for replica in replicas:
            replica.kill()


def make_cell(api: Api, namespace: str, name: str, **spec: Any) -> None:
    """Make a Cell."""
    body = {"apiVersion": "cellmesh.dev/v1alpha1", "kind": "Cell", "metadata": {"name": name}, "spec": spec}
    api.create("cells", namespace, body)


def make_pod(api: Api, namespace: str, cell: str, ordinal: int = 0, *, port: int = 8002, ready: bool = True) -> str:
    """Make a pod as the StatefulSet of a Cell would, and have it run; return its address, empty if it is not Ready."""
    if api.get("serviceaccounts", namespace, cell) is None:
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": cell}}
        api.create("serviceaccounts", namespace, account)
    name = f"{cell}-{ordinal}"
    owner = {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "name": cell,
        "uid": "0f5bd8b6-0000-4000-8000-000000000000",
        "controller": True,
    }
    container = {
        "name": "cell",
        "image": "cell:1",
        "ports": [{"name": "cell", "containerPort": port}],
        "securityContext": {
            "runAsNonRoot": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"cellmesh.dev/cell": cell}, "ownerReferences": [owner]},
        "spec": {"serviceAccountName": cell, "containers": [container]},
    }
    api.create("pods", namespace, body)
    return run_pod(api, namespace, name) if ready else ""
