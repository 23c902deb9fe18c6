"""The cluster under test: a kind cluster of our own, or the one that CELLMESH_E2E_KUBECONFIG names."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path
from typing import IO, Any

import pytest

from apiserver.api import Api, Refused
from apiserver.binaries import folders
from e2e.programs import PATIENCE, ROOT, Failed, program, run
from levels import missing
from processes import Answer, request
from support import eventually

NAME = "cellmesh-e2e"
#: Seconds in which the slowest thing should happen: a pod on a busy machine of two cores.
SOON = 120.0
#: Of the API server: the kubelet runs what lies in this directory.
MANIFEST = "/etc/kubernetes/manifests/kube-apiserver.yaml"
ASIDE = "/etc/kubernetes/kube-apiserver.yaml"
#: What the namespaces bear that these tests make.
OURS = ("cellmesh-e2e", "yes")


class Cluster:
    """Commands and requests to one cluster.

    ``kubectl`` is for what users do, ``api`` for looking often: it goes through `kubectl proxy`, which brings
    whatever way of authentication the kubeconfig has.
    """

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig
        self.environ = {"KUBECONFIG": str(kubeconfig)}
        self._kubectl = program("kubectl")
        self._proxy = subprocess.Popen(
            [self._kubectl, "proxy", "--port=0"],
            env=os.environ | self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._proxy.stdout is not None
        said = self._proxy.stdout.readline()
        port = re.search(r":(\d+)\s*$", said)
        assert port, f"kubectl proxy did not say its port, but {said!r}"
        self.port = int(port[1])
        self.api = Api(self.port, None, "", user_agent="cellmesh-e2e")

    def close(self) -> None:
        """End the proxy."""
        self._proxy.terminate()
        self._proxy.communicate()
        self.api.close_all()

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout: float = PATIENCE) -> str:
        """Run kubectl; return what it printed.

        Raises:
            Failed: it did not succeed.

        """
        return run([self._kubectl, *arguments], stdin=stdin, timeout=timeout, environ=self.environ)

    @contextmanager
    def running_kubectl(self, *arguments: str) -> Iterator[IO[str]]:
        """Run kubectl for as long as the context lasts; its output is to be read from what this gives."""
        with subprocess.Popen(
            [self._kubectl, *arguments],
            env=os.environ | self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            assert process.stdout is not None
            try:
                yield process.stdout
            finally:
                process.terminate()

    def helm(self, *arguments: str, major: int = 4, timeout: float = 2 * PATIENCE) -> str:
        """Run Helm of a major version; return what it printed.

        Raises:
            Failed: it did not succeed.

        """
        return run([helm(major), *arguments], timeout=timeout, environ=self.environ)

    def ask_pod(
        self,
        namespace: str,
        pod: str,
        port: int,
        method: str,
        path: str,
        body: Any = None,
        *,
        timeout: float = PATIENCE,
    ) -> Answer:
        """Make an HTTP request to a pod, through the API server."""
        to = f"/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy{path}"
        return request(self.port, method, to, body, timeout=timeout)

    def ask_service(self, namespace: str, service: str, path: str, *, timeout: float = PATIENCE) -> Answer:
        """Make a GET request to one of a Service's pods, through the API server."""
        to = f"/api/v1/namespaces/{namespace}/services/{service}/proxy{path}"
        return request(self.port, "GET", to, timeout=timeout)

    @cached_property
    def kind(self) -> str:
        """Name of the kind cluster that this is; empty: it is none."""
        node = self.api.list("nodes")[0]
        found = re.match(r"kind://[a-z]+/([^/]+)/", node["spec"].get("providerID", ""))
        return found[1] if found else ""

    @property
    def control_plane(self) -> str:
        """Name of the control plane's node."""
        nodes = self.api.list("nodes", labelSelector="node-role.kubernetes.io/control-plane")
        name: str = nodes[0]["metadata"]["name"]
        return name

    @property
    def workers(self) -> list[str]:
        """Names of the nodes that pods run on."""
        nodes = self.api.list("nodes", labelSelector="!node-role.kubernetes.io/control-plane")
        return [node["metadata"]["name"] for node in nodes]

    def on_node(self, node: str, *command: str) -> str:
        """Run a command on a node, which is a container.

        Raises:
            Failed: it did not succeed.

        """
        return run(["docker", "exec", node, *command], environ={})

    @contextmanager
    def api_server_stopped(self) -> Iterator[None]:
        """Take the manifest of the API server away, wait for its end, and for its return when the context ends."""
        node = self.control_plane
        self.on_node(node, "mv", MANIFEST, ASIDE)
        try:
            eventually(lambda: not self.answers(), within=SOON, message="the API server to stop")
            yield
        finally:
            self.on_node(node, "mv", ASIDE, MANIFEST)
            eventually(self.answers, within=SOON, message="the API server to be back")

    def answers(self) -> bool:
        """Tell whether the API server is ready."""
        try:
            return request(self.port, "GET", "/readyz", timeout=5).status == 200
        except OSError:
            return False


def kept() -> Path:
    """Return where the kubeconfig of our own cluster is kept from one run to the next."""
    return folders()[-1].parent / "e2e" / "kubeconfig"


def alive(kubeconfig: Path) -> bool:
    """Tell whether a cluster answers."""
    if not kubeconfig.exists():
        return False
    command = [program("kubectl"), "get", "nodes", "--request-timeout=10s", "-o", "json"]
    try:
        return bool(json.loads(run(command, environ={"KUBECONFIG": str(kubeconfig)}))["items"])
    except Failed:
        return False


def script(path: str, *arguments: str) -> str:
    """Run one of the repository's scripts, its progress shown as it comes; return what it printed.

    Raises:
        Failed: it did not succeed; the text is the last line that it said, which is reason and remedy.

    """
    command = [str(ROOT / path), *arguments]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        last = ""
        for line in process.stderr:
            last = line.strip() or last
            print(line, end="", flush=True)
        printed = process.stdout.read()
    if process.returncode:
        raise Failed([path], last)
    return printed


@cache
def helm(major: int) -> str:
    """Return the path of a Helm of this major version; without one, what needs it cannot run."""
    found = program(f"helm{major}", "helm")
    said = run([found, "version", "--template", "{{.Version}}"], environ={}).strip()
    if not said.startswith(f"v{major}."):
        missing(f"there is no Helm {major}: {found} is {said}", "run `make tools`")
    return found


def given(kubeconfig: Path) -> Cluster:
    """Take a cluster that somebody has named, unless it does not answer or is in use.

    These tests install the charts for the whole cluster, stop what they have installed, and delete it at the end.
    """
    if not alive(kubeconfig):
        pytest.fail(f"CELLMESH_E2E_KUBECONFIG: no cluster answers by {kubeconfig}", pytrace=False)
    cluster = Cluster(kubeconfig)
    if reason := in_use(cluster.api):
        cluster.close()
        pytest.fail(f"CELLMESH_E2E_KUBECONFIG: {reason}; these tests would destroy it: give another", pytrace=False)
    return cluster


def in_use(api: Api, system: str = "cellmesh-system") -> str:
    """Return what there is of an installation of CellMesh that is not these tests' own; empty: nothing."""
    label, value = OURS
    labels = {found["metadata"]["name"]: found["metadata"].get("labels", {}) for found in api.list("namespaces")}
    foreign = {name for name, those in labels.items() if those.get(label) != value}
    if system in foreign:
        return f"the cluster has a namespace {system} without our label {label}={value}"
    reconcilers = "app.kubernetes.io/part-of=cellmesh,app.kubernetes.io/component=reconciler"
    for plural, selector in (("deployments", {"labelSelector": reconcilers}), ("cells", {})):
        try:
            listed = api.list(plural, **selector)
        except Refused as refused:
            if refused.status != 404:
                raise
            continue  # no definition of Cells, so none
        for found in listed:
            about = found["metadata"]
            if about["namespace"] in foreign:
                what = f"{plural.removesuffix('s')} {about['name']}"
                return f"{what} is in namespace {about['namespace']}, which is not ours"
    return ""


def create(show: Callable[[], Any], meanwhile: Callable[[], Any]) -> Path:
    """Make our own cluster, or take the one that an earlier run has kept; return its kubeconfig.

    Args:
        show: a context manager within which output reaches the terminal: this may take minutes.
        meanwhile: begins something else that takes its time, once it is known that a cluster can be made.

    """
    with show():
        try:
            script("tests/kind/cluster.sh", "check")
        except Failed as failed:
            reason, _, remedy = failed.said.partition("; ")
            missing(f"no kind cluster can be made here: {reason}", remedy)
        meanwhile()
        kubeconfig = kept()
        kubeconfig.parent.mkdir(parents=True, exist_ok=True)
        if not (os.environ.get("CELLMESH_E2E_KEEP") and alive(kubeconfig)):
            script("tests/kind/cluster.sh", "create", str(kubeconfig), NAME)
    return kubeconfig


def delete() -> None:
    """Delete our own cluster."""
    script("tests/kind/cluster.sh", "delete", NAME)
    kept().unlink(missing_ok=True)
