"""The charts on a real API server, by the real Helm 3 and Helm 4: installed, upgraded, uninstalled; what they grant."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from apiserver.binaries import REMEDY, Missing, find
from apiserver.control_plane import ControlPlane
from levels import missing
from support import eventually

ROOT = Path(__file__).parents[2]
CHARTS = ROOT / "charts"
NAMESPACE = "cellmesh-system"


@dataclass(frozen=True)
class Cluster:
    """An API server, and Helm to install charts on it."""

    plane: ControlPlane
    kubeconfig: Path

    def helm(self, major: int, *arguments: str, check: bool = True) -> str:
        """Run Helm 3 or 4 in the release's namespace; return what it printed."""
        try:
            program = find(f"helm{major}")
        except Missing as fault:
            missing(str(fault), REMEDY)
        done = subprocess.run(
            [program, *arguments, "--namespace", NAMESPACE],
            env={**os.environ, "KUBECONFIG": str(self.kubeconfig)},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert not check or done.returncode == 0, f"helm{major} {' '.join(arguments)}: {done.stderr}"
        return done.stdout if not done.returncode else done.stderr

    def install_crds(self, major: int) -> None:
        """Install the chart of the Cell's definition, and wait until Cells can be asked for."""
        self.helm(major, "upgrade", "--install", "cellmesh-crds", str(CHARTS / "cellmesh-crds"), "--create-namespace")
        eventually(self.plane.cells_are_served, within=30, message="the definition of Cells to be served")

    def install(self, major: int, *options: str) -> str:
        """Install or upgrade the chart cellmesh; return what Helm says."""
        chart = str(CHARTS / "cellmesh")
        return self.helm(major, "upgrade", "--install", "cellmesh", chart, "--create-namespace", *options)

    def may(self, account: str, verb: str, resource: str, namespace: str = "anywhere", **which: str) -> bool:
        """Ask the API server whether a ServiceAccount of the release may do something."""
        group, _, plural = resource.rpartition("/") if resource.count("/") == 1 else ("", "", resource)
        plural, _, subresource = plural.partition(".")
        attributes = {"verb": verb, "group": group, "resource": plural, "subresource": subresource} | which
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": f"system:serviceaccount:{NAMESPACE}:{account}",
                "resourceAttributes": {**attributes, "namespace": namespace},
            },
        }
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        return bool(self.plane.api.request("POST", path, body)["status"]["allowed"])


@pytest.fixture
def cluster(new_plane: Callable[..., ControlPlane]) -> Cluster:
    """Return an API server that knows nothing of Cells yet."""
    plane = new_plane(crd=False, audit=False)
    return Cluster(plane, plane.kubeconfig())


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Return an API server with both charts on it, for tests that only look."""
    try:
        find("kube-apiserver")
    except Missing as fault:
        missing(str(fault), REMEDY)
    with ControlPlane(tmp_path_factory.mktemp("with-charts"), audit=False) as plane:
        here = Cluster(plane, plane.kubeconfig())
        here.install_crds(4)
        here.install(4)
        # Which controllers would make; the test's pod runs under it.
        plane.service_account(NAMESPACE, "default")
        yield here


def cell(name: str = "pure") -> dict[str, Any]:
    """Return a Cell."""
    return {
        "apiVersion": "cellmesh.dev/v1alpha1",
        "kind": "Cell",
        "metadata": {"name": name},
        "spec": {"port": 8002, "type": "pure"},
    }


@pytest.mark.parametrize("major", [3, 4])
def test_notes_say_what_to_run_next(cluster: Cluster, major: int) -> None:
    """The notes name the commands to wait, send and test with, and the missing definition only while it is missing."""
    without = cluster.install(major).partition("NOTES:")[2]
    assert "helm install cellmesh-crds" in without
    cluster.install_crds(major)
    notes = cluster.install(major).partition("NOTES:")[2]
    assert "helm install cellmesh-crds" not in notes
    for wanted in (
        f"kubectl -n {NAMESPACE} apply -f examples/alpha-pure.yaml",
        "wait --for=condition=Ready cell --all",
        "Helm 3's does not",
        "cellmesh send alpha pure",
        f"helm -n {NAMESPACE} test cellmesh",
    ):
        assert wanted in notes


@pytest.mark.parametrize("scenario", ["default", "everything", "minimal", "namespaces"])
@pytest.mark.parametrize("major", [3, 4])
def test_the_api_server_takes_every_scenario(installed: Cluster, major: int, scenario: str) -> None:
    """Every object of a scenario passes the API server's strict validation."""
    for name in ("team-a", "team-b"):
        installed.plane.kubectl("apply", "-f", "-", stdin=json.dumps(_namespace(name)))
    values = str(CHARTS / f"cellmesh/ci/{scenario}-values.yaml")
    # The kind ServiceMonitor is the Prometheus operator's.
    options = ("--values", values, "--set", "metrics.serviceMonitor.enabled=false")
    rendered = installed.helm(major, "template", "other", str(CHARTS / "cellmesh"), *options)
    installed.plane.kubectl(
        "apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=rendered, namespace=NAMESPACE
    )


@pytest.mark.parametrize(("major", "options"), [(3, []), (4, ["--force-conflicts"])])
def test_helm_takes_over_what_install_yaml_has_made(cluster: Cluster, major: int, options: list[str]) -> None:
    """With --take-ownership, and in Helm 4 --force-conflicts, the same Deployments go on, and so does a Cell."""
    cluster.plane.kubectl("apply", "-f", str(ROOT / "deploy/install.yaml"))
    eventually(cluster.plane.cells_are_served, within=30, message="the definition of Cells to be served")
    cluster.plane.api.create("cells", "default", cell())
    old = _deployments(cluster)
    for name in ("cellmesh-crds", "cellmesh"):
        refused = cluster.helm(major, "install", name, str(CHARTS / name), check=False)
        assert "cannot be imported into the current release" in refused
        cluster.helm(major, "install", name, str(CHARTS / name), "--take-ownership", *options)
    new = _deployments(cluster)
    assert {name: found["metadata"]["uid"] for name, found in new.items()} == {
        name: found["metadata"]["uid"] for name, found in old.items()
    }
    assert cluster.plane.api.get("cells", "default", "pure")
    # kubectl stays an owner of its fields, so that Helm 4 asks to be sure each time one of them changes.
    cluster.install(major, "--set", "discovery.replicas=3", *options)
    assert _deployments(cluster)["cellmesh-discovery"]["spec"]["replicas"] == 3


@pytest.mark.parametrize(("before", "after"), [(3, 3), (4, 4), (3, 4)])
def test_an_upgrade_changes_what_is_there(cluster: Cluster, before: int, after: int) -> None:
    """Another image and more replicas change the same Deployments; none is deleted and made anew."""
    cluster.install_crds(before)
    cluster.install(before)
    cluster.plane.api.create("cells", "default", cell())
    old = _deployments(cluster)
    cluster.install_crds(after)
    cluster.install(after, "--set", "discovery.replicas=3", "--set", "reconciler.image.tag=next")
    new = _deployments(cluster)
    assert {name: each["metadata"]["uid"] for name, each in new.items()} == {
        name: each["metadata"]["uid"] for name, each in old.items()
    }
    assert new["cellmesh-discovery"]["spec"]["replicas"] == 3
    images = {each["spec"]["template"]["spec"]["containers"][0]["image"] for each in new.values()}
    assert images == {"cellmesh-operator:next"}
    assert cluster.plane.api.must_get("cells", "default", "pure")["spec"]["port"] == 8002


@pytest.mark.parametrize("major", [3, 4])
def test_uninstalling_keeps_cells_and_installing_takes_them_over(cluster: Cluster, major: int) -> None:
    """Without either chart the definition and the Cells are still there; both charts can be installed again."""
    cluster.install_crds(major)
    cluster.install(major)
    uid = cluster.plane.api.create("cells", "default", cell())["metadata"]["uid"]
    cluster.helm(major, "uninstall", "cellmesh")
    cluster.helm(major, "uninstall", "cellmesh-crds")
    assert cluster.plane.api.must_get("cells", "default", "pure")["metadata"]["uid"] == uid
    assert _deployments(cluster) == {}
    cluster.install_crds(major)
    cluster.install(major)
    assert cluster.plane.api.must_get("cells", "default", "pure")["metadata"]["uid"] == uid


#: All that the chart grants, verb by verb; what is not here is refused.
ALL = ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"]
GRANTED = {
    "cellmesh-reconciler": {
        "cellmesh.dev/cells": {"list", "watch"},
        "cellmesh.dev/cells.status": {"patch"},
        "apps/statefulsets": {"get", "list", "watch", "create", "patch", "delete"},
        "services": {"get", "list", "watch", "create", "patch"},
        "serviceaccounts": {"get", "list", "watch", "create", "patch"},
        "policy/poddisruptionbudgets": {"get", "list", "watch", "create", "patch", "delete"},
        "persistentvolumeclaims": {"list", "watch", "patch"},
        "pods": {"list", "watch"},
        "events": {"list", "create", "patch"},
        "storage.k8s.io/storageclasses": {"list"},
    },
    "cellmesh-discovery": {"cellmesh.dev/cells": {"list", "watch"}, "pods": {"list", "watch"}},
}
NEVER = {
    "secrets", "configmaps", "nodes", "namespaces", "pods.exec", "serviceaccounts.token", "apps/deployments",
    "cellmesh.dev/cells.scale", "coordination.k8s.io/leases", "rbac.authorization.k8s.io/clusterroles",
    "apiextensions.k8s.io/customresourcedefinitions",
}  # fmt: skip


@pytest.mark.parametrize("account", GRANTED)
def test_roles_grant_this_and_nothing_else(installed: Cluster, account: str) -> None:
    """Reconciler and discovery may do what their code does, to the single verb, and nothing to anything else."""
    resources = {resource for granted in GRANTED.values() for resource in granted} | NEVER
    allowed = {
        resource: verbs
        for resource in resources
        if (verbs := {verb for verb in ALL if installed.may(account, verb, resource)})
    }
    assert allowed == GRANTED[account]


def test_discovery_shares_registrations_in_its_own_namespace_only(installed: Cluster) -> None:
    """Leases are discovery's in the release's namespace, and nobody's elsewhere."""
    allowed = {
        verb for verb in ALL if installed.may("cellmesh-discovery", verb, "coordination.k8s.io/leases", NAMESPACE)
    }
    assert allowed == {"get", "list", "watch", "create", "patch", "delete"}
    assert not installed.may("cellmesh-reconciler", "get", "coordination.k8s.io/leases", NAMESPACE)


@pytest.mark.parametrize("major", [3, 4])
def test_a_list_of_namespaces_bounds_what_is_granted(cluster: Cluster, major: int) -> None:
    """With watchNamespaces the same is granted in each of them, and nothing in any other."""
    for name in ("team-a", "team-b"):
        cluster.plane.api.create("namespaces", None, _namespace(name))
    cluster.install_crds(major)
    cluster.install(major, "--set", "watchNamespaces={team-a,team-b}")
    for account, granted in GRANTED.items():
        for resource, verbs in granted.items():
            for verb in verbs:
                cluster_wide = resource == "storage.k8s.io/storageclasses"
                assert cluster.may(account, verb, resource, "team-a") is not cluster_wide
                assert cluster.may(account, verb, resource, "team-b") is not cluster_wide
                assert not cluster.may(account, verb, resource, "team-c")


def test_users_with_edit_may_change_cells(installed: Cluster) -> None:
    """The cluster's own roles say who may work with Cells: the definition's chart adds them to view and edit."""
    roles = {
        role["metadata"]["name"]: role
        for role in installed.plane.api.list("clusterroles")
        if role["metadata"]["name"] in {"cellmesh-view", "cellmesh-edit"}
    }
    assert "rbac.authorization.k8s.io/aggregate-to-view" in roles["cellmesh-view"]["metadata"]["labels"]
    assert "rbac.authorization.k8s.io/aggregate-to-edit" in roles["cellmesh-edit"]["metadata"]["labels"]
    assert all(rule["apiGroups"] == ["cellmesh.dev"] for role in roles.values() for rule in role["rules"])


def _namespace(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def _deployments(cluster: Cluster) -> dict[str, dict[str, Any]]:
    return {each["metadata"]["name"]: each for each in cluster.plane.api.list("deployments", NAMESPACE)}
