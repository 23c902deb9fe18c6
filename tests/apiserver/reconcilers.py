"""The reconciler as a real process on a real API server, with no more rights than it needs."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from apiserver.api import Api, Refused
from apiserver.control_plane import ControlPlane
from processes import PATIENCE, Process
from support import eventually, free_port

#: What the reconciler may do in a namespace whose Cells it serves: to the single verb.
RULES: list[dict[str, Any]] = [
    {"apiGroups": ["cellmesh.dev"], "resources": ["cells"], "verbs": ["list", "watch"]},
    {"apiGroups": ["cellmesh.dev"], "resources": ["cells/status"], "verbs": ["patch"]},
    {
        "apiGroups": ["apps"],
        "resources": ["statefulsets"],
        "verbs": ["get", "list", "watch", "create", "patch", "delete"],
    },
    {
        "apiGroups": ["policy"],
        "resources": ["poddisruptionbudgets"],
        "verbs": ["get", "list", "watch", "create", "patch", "delete"],
    },
    {
        "apiGroups": [""],
        "resources": ["services", "serviceaccounts"],
        "verbs": ["get", "list", "watch", "create", "patch"],
    },
    {"apiGroups": [""], "resources": ["persistentvolumeclaims"], "verbs": ["list", "watch", "patch"]},
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]},
    {"apiGroups": [""], "resources": ["events"], "verbs": ["list", "create", "patch"]},
]
#: Besides, where it serves the whole cluster.
CLUSTER_RULES: list[dict[str, Any]] = [
    {"apiGroups": ["storage.k8s.io"], "resources": ["storageclasses"], "verbs": ["list"]},
]
ACCOUNT = "reconciler"
CHILDREN = ("serviceaccounts", "services", "statefulsets")
_RBAC = "rbac.authorization.k8s.io"


class Reconciler(Process):
    """One reconciler.

    Args:
        directory: for its log.
        kubeconfig: how it reaches the API server.
        name: of its log.
        settings: settings by the name of their field.

    """

    def __init__(self, directory: Path, kubeconfig: Path, name: str = "reconciler", **settings: str) -> None:
        port = free_port()
        given = {
            "discovery_url": "http://cellmesh-discovery.system:8001",
            "cell_image": "cellmesh-cell:1",
            "host": "127.0.0.1",
            "port": str(port),
            **settings,
        }
        environ = {f"CELLMESH_RECONCILER_{name.upper()}": value for name, value in given.items()}
        environ["KUBECONFIG"] = str(kubeconfig)
        command = [sys.executable, "-W", "error", "-m", "cellmesh_operator.reconciler"]
        super().__init__(name, command, port, directory, environ)

    def listening(self) -> None:
        """Wait until it answers at all."""
        eventually(lambda: self.get("/healthz").status == 200, within=PATIENCE, message=f"{self.name} to listen")

    def metric(self, name: str, label: str = "") -> float:
        """Return the sum of a metric over its labels, or over those lines that have one label."""
        lines = self.get("/metrics").body.decode().splitlines()
        values = [line.rpartition(" ") for line in lines if not line.startswith("#") and label in line]
        return sum(float(value) for key, _, value in values if key.partition("{")[0] == f"cellmesh_reconciler_{name}")

    def idle(self) -> None:
        """Wait until it has looked at everything that it was told of."""
        looks = -1.0

        def quiet() -> bool:
            nonlocal looks
            before, looks = looks, self.metric("reconcile_seconds_count")
            return looks == before and self.metric("queue_depth") == 0

        eventually(quiet, within=PATIENCE, message=f"{self.name} to have nothing to do")

    def text(self) -> str:
        """Return what it has logged."""
        return self.log.read_text()


def user(namespace: str) -> str:
    """Return the name by which the audit log knows a reconciler whose account is in a namespace."""
    return f"system:serviceaccount:{namespace}:{ACCOUNT}"


def token(plane: ControlPlane, namespace: str, served: Sequence[str] = ()) -> str:
    """Return a token with the rights of the reconciler: everywhere, or in some namespaces by Roles only."""
    account = plane.service_account(namespace, ACCOUNT, () if served else [*RULES, *CLUSTER_RULES])
    for one in served:
        _role(plane.api, one, namespace)
    return account


def _role(api: Api, namespace: str, account: str) -> None:
    head = {"apiVersion": f"{_RBAC}/v1", "metadata": {"name": ACCOUNT}}
    api.create("roles", namespace, {**head, "kind": "Role", "rules": RULES})
    subject = {"kind": "ServiceAccount", "namespace": account, "name": ACCOUNT}
    reference = {"apiGroup": _RBAC, "kind": "Role", "name": ACCOUNT}
    api.create("rolebindings", namespace, {**head, "kind": "RoleBinding", "subjects": [subject], "roleRef": reference})


@contextlib.contextmanager
def running(reconciler: Reconciler, *, ready: bool = True) -> Iterator[Reconciler]:
    """Run a reconciler; at the end it must still run, have shown no stack trace, and end at SIGTERM with code 0."""
    try:
        reconciler.start(wait=ready)
        if not ready:
            reconciler.listening()
        yield reconciler
        assert reconciler.returncode is None, reconciler.text()[-2000:]
        assert reconciler.stop() == 0
        assert "Traceback" not in reconciler.text()
    finally:
        reconciler.kill()


def make_cell(api: Api, namespace: str, name: str = "alpha", **spec: Any) -> dict[str, Any]:
    """Make a Cell; without a word about storage an ephemeral one."""
    given = {"storage": {"ephemeral": {}}, **spec}
    body = {"apiVersion": "cellmesh.dev/v1alpha1", "kind": "Cell", "metadata": {"name": name}, "spec": given}
    return api.create("cells", namespace, body)


def edit_cell(api: Api, namespace: str, name: str = "alpha", **spec: Any) -> None:
    """Change fields of a Cell's spec."""
    api.patch("cells", namespace, name, {"spec": spec})


def conditions(api: Api, namespace: str, name: str = "alpha") -> dict[str, tuple[str, str]]:
    """Return status and reason of a Cell's conditions, those of its newest generation only."""
    cell = api.must_get("cells", namespace, name)
    return {
        item["type"]: (item["status"], item["reason"])
        for item in cell.get("status", {}).get("conditions", [])
        if item["observedGeneration"] == cell["metadata"]["generation"]
    }


def wait_for(
    api: Api, namespace: str, condition: str, status: str, reason: str = "", name: str = "alpha", within: float = 30.0
) -> None:
    """Wait for a condition of a Cell."""

    def reached() -> bool:
        found = conditions(api, namespace, name)
        assert condition in found, found
        assert found[condition][0] == status, found
        assert reason in {"", found[condition][1]}, found
        return True

    eventually(reached, within=within, message=f"{condition}={status} {reason} of {name}")


def child(api: Api, plural: str, namespace: str, name: str = "alpha") -> dict[str, Any]:
    """Wait for a child and return it."""
    found: dict[str, Any] = eventually(lambda: api.get(plural, namespace, name), within=20, message=f"{plural} {name}")
    return found


def refuse_all(api: Api, namespace: str, name: str) -> None:
    """Let a quota refuse what it names, for example ``services``; wait until it does."""
    body = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "none"},
        "spec": {"hard": {f"count/{name}" if "." in name else name: "0"}},
        "status": {"hard": {name: "0"}, "used": {name: "0"}},
    }
    api.create("resourcequotas", namespace, body)
    api.patch("resourcequotas", namespace, "none", {"status": body["status"]}, subresource="status")


__all__ = ["Refused"]
