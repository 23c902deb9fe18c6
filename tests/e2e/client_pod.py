"""A pod from which messages are sent: the network is the cells' own, and no stop of the API server stops it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from e2e.clusters import SOON, Cluster
from e2e.images import Images
from e2e.programs import PATIENCE, ROOT
from e2e.releases import make_namespace

SCRIPTS = Path(__file__).with_name("in_pod")
#: Modules of the package `chaos` that scripts may import.
CHAOS = ("__init__", "consumer", "ledger", "parties", "reader", "settler", "streams", "workload")
NAMESPACE = "cellmesh-e2e-client"
NAME = "client"


class ClientPod:
    """The pod. It runs the scripts of `in_pod`, in the environment of the cell's image."""

    def __init__(self, cluster: Cluster, images: Images) -> None:
        self._cluster = cluster
        self._image = images.cell

    def start(self) -> None:
        """Make it, in a namespace that enforces ``restricted``, or take the one that is there."""
        make_namespace(self._cluster, NAMESPACE)
        self._kubectl("delete", "pod", NAME, "--ignore-not-found", "--grace-period=1")
        config = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": NAME},
            "data": {_key(name): path.read_text() for name, path in _scripts().items()},
        }
        self._kubectl(
            "apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": [config, self._pod()]})
        )
        self._kubectl("wait", "--for=condition=Ready", f"pod/{NAME}", f"--timeout={SOON:g}s")

    def delete(self) -> None:
        """Take it away."""
        self._cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=false")

    def make(self, directory: str) -> None:
        """Make a directory; below /runs it may."""
        self._kubectl("exec", NAME, "--", "mkdir", "-p", directory)

    def run(self, script: str, *arguments: str) -> str:
        """Run a script to its end; return what it printed."""
        return self._kubectl("exec", NAME, "--", "python3", f"/scripts/{script}", *arguments)

    def launch(self, name: str, script: str, *arguments: str) -> None:
        """Start a script that goes on whatever becomes of this connection."""
        command = f'setsid python3 "$@" >/runs/{name} 2>&1 </dev/null & echo $! >/runs/{name}.pid'
        self._kubectl("exec", NAME, "--", "sh", "-c", command, "sh", f"/scripts/{script}", *arguments)

    def kill(self, pid_file: str, signal: str) -> None:
        """Send a signal to the process whose number is in a file."""
        self._kubectl("exec", NAME, "--", "sh", "-c", f"kill -{signal} $(cat {pid_file})")

    def read(self, name: str) -> str:
        """Return what a script has printed so far."""
        return self._kubectl("exec", NAME, "--", "cat", f"/runs/{name}")

    def finish(self, name: str, within: float = PATIENCE) -> str:
        """Send a script SIGTERM, wait for its end, at most so many seconds; return what it printed."""
        command = (
            f"p=$(cat /runs/{name}.pid); kill $p; while kill -0 $p 2>/dev/null; do sleep 0.1; done; cat /runs/{name}"
        )
        return self._kubectl("exec", NAME, "--", "sh", "-c", command, timeout=within)

    def _kubectl(self, *arguments: str, **more: Any) -> str:
        return self._cluster.kubectl("-n", NAMESPACE, *arguments, **more)

    def _pod(self) -> dict[str, Any]:
        confined = {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": NAME, "namespace": NAMESPACE},
            "spec": {
                "automountServiceAccountToken": False,
                "enableServiceLinks": False,
                "securityContext": {
                    "runAsNonRoot": True,
                    "runAsUser": 65532,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                # Beside the control plane, where it stays when a worker is drained.
                "affinity": {
                    "nodeAffinity": {
                        "preferredDuringSchedulingIgnoredDuringExecution": [
                            {
                                "weight": 100,
                                "preference": {
                                    "matchExpressions": [
                                        {"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"}
                                    ]
                                },
                            }
                        ]
                    }
                },
                "tolerations": [{"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"}],
                "containers": [
                    {
                        "name": "client",
                        "image": self._image,
                        "command": ["python3", "/scripts/idle.py"],
                        "securityContext": confined,
                        "volumeMounts": [
                            {"name": "scripts", "mountPath": "/scripts"},
                            {"name": "runs", "mountPath": "/runs"},
                        ],
                    }
                ],
                "volumes": [
                    {
                        "name": "scripts",
                        "configMap": {
                            "name": NAME,
                            "items": [{"key": _key(name), "path": name} for name in _scripts()],
                        },
                    },
                    {"name": "runs", "emptyDir": {}},
                ],
            },
        }


def _scripts() -> dict[str, Path]:
    """Return the scripts by their path in the pod."""
    scripts = {path.name: path for path in SCRIPTS.glob("*.py")}
    return scripts | {f"chaos/{name}.py": ROOT / "chaos" / f"{name}.py" for name in CHAOS}


def _key(path: str) -> str:
    """Return a path as a key of a ConfigMap, which has no slashes."""
    return path.replace("/", "..")
