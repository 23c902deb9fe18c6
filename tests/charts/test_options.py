"""What single values change, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import yaml

from charts.conftest import CHART, Helm, Render

NAMESPACES = ("--values", str(CHART / "ci/namespaces-values.yaml"))


def test_a_list_of_namespaces_gives_roles_and_no_cluster_role(render: Render) -> None:
    """With watchNamespaces nothing is granted in the whole cluster: a Role and a binding in each of them."""
    made = render(*NAMESPACES)
    assert not made.all("ClusterRole")
    assert not made.all("ClusterRoleBinding")
    granted = {(each["metadata"]["name"], each["metadata"].get("namespace")) for each in made.all("Role")}
    assert granted == {
        ("cellmesh-system-cellmesh-reconciler", "team-a"),
        ("cellmesh-system-cellmesh-reconciler", "team-b"),
        ("cellmesh-system-cellmesh-discovery", "team-a"),
        ("cellmesh-system-cellmesh-discovery", "team-b"),
        ("cellmesh-discovery-leases", None),
    }
    bound = {(each["metadata"]["name"], each["metadata"].get("namespace")) for each in made.all("RoleBinding")}
    assert bound == granted


def test_both_programs_are_told_the_namespaces(render: Render) -> None:
    """Reconciler and discovery watch those namespaces only."""
    made = render(*NAMESPACES)
    for program in ("reconciler", "discovery"):
        environment = made.one("Deployment", f"cellmesh-{program}")["spec"]["template"]["spec"]["containers"][0]["env"]
        assert {"name": f"CELLMESH_{program.upper()}_NAMESPACES", "value": "team-a,team-b"} in environment


def test_rules_are_the_same_in_cluster_and_namespace(render: Render) -> None:
    """What is granted in one namespace is what is granted everywhere, but for what belongs to no namespace."""
    everywhere, listed = render(), render(*NAMESPACES)
    for program, besides in (("reconciler", {"storageclasses"}), ("discovery", set())):
        name = f"cellmesh-system-cellmesh-{program}"
        rules = everywhere.one("ClusterRole", name)["rules"]
        assert [rule for rule in rules if not besides & set(rule["resources"])] == listed.one("Role", name, "team-a")[
            "rules"
        ]


def test_no_rule_is_wider_than_it_must_be(render: Render) -> None:
    """No wildcard, no Secrets, nothing that could grant more; discovery only reads, but for its Leases."""
    made = render()
    for role in made.all("ClusterRole") + made.all("Role"):
        for rule in role["rules"]:
            assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
            assert not {"secrets", "roles", "rolebindings", "clusterroles"} & set(rule["resources"])
            assert not {"escalate", "bind", "impersonate", "deletecollection"} & set(rule["verbs"])
    for rule in made.one("ClusterRole", "cellmesh-system-cellmesh-discovery")["rules"]:
        assert set(rule["verbs"]) <= {"get", "list", "watch"}


def test_no_roles_where_they_come_from_elsewhere(render: Render) -> None:
    """rbac.create=false makes no role and no binding."""
    made = render("--set", "rbac.create=false")
    assert [name for name in made.names() if "Role" in name] == []


def test_the_demo_goes_where_cells_are_served(render: Render) -> None:
    """Demo and test Cells live in the release's namespace, or in the first that is served if that is not."""
    assert {each["metadata"]["namespace"] for each in render("--set", "demo.enabled=true").all("Cell")} == {
        "cellmesh-system"
    }
    assert {each["metadata"]["namespace"] for each in render(*NAMESPACES).all("Cell")} == {"team-a"}
    own = render("--set", "watchNamespaces={team-a,cellmesh-system}").all("Cell")
    assert {each["metadata"]["namespace"] for each in own} == {"cellmesh-system"}


def test_without_demo_the_only_cells_are_the_tests(render: Render) -> None:
    """By default there are only the two Cells that `helm test` makes and deletes."""
    cells = render().all("Cell")
    assert sorted(each["metadata"]["name"] for each in cells) == ["cellmesh-test-receiver", "cellmesh-test-sender"]
    for each in cells:
        annotations = each["metadata"]["annotations"]
        assert annotations["helm.sh/hook"] == "test"
        assert {"hook-succeeded", "hook-failed"} <= set(annotations["helm.sh/hook-delete-policy"].split(","))


def test_one_replica_has_no_disruption_budget(render: Render) -> None:
    """A budget for a single replica would only keep nodes from being drained."""
    assert render().all("PodDisruptionBudget")
    assert not render("--set", "discovery.replicas=1").all("PodDisruptionBudget")
    assert not render("--set", "discovery.podDisruptionBudget.enabled=false").all("PodDisruptionBudget")


def test_a_digest_wins_over_a_tag(render: Render) -> None:
    """An image is named by its digest where one is given."""
    digest = "sha256:" + "0" * 64
    made = render("--set", f"reconciler.image.digest={digest}", "--set", "reconciler.image.tag=other")
    images = {spec["containers"][0]["image"] for name, spec in made.pods() if name != "cellmesh-test"}
    assert images == {f"cellmesh-operator@{digest}"}


@pytest.mark.parametrize(
    ("options", "release", "name"),
    [
        ((), "cellmesh", "cellmesh-discovery"),
        ((), "prod", "prod-cellmesh-discovery"),
        (("--set", "nameOverride=mesh"), "prod", "prod-mesh-discovery"),
        (("--set", "fullnameOverride=mesh"), "prod", "mesh-discovery"),
        ((), "r" * 53, "r" * 38 + "-discovery"),
    ],
)
def test_names_begin_with_the_release(render: Render, options: tuple[str, ...], release: str, name: str) -> None:
    """Names are made of release and chart, or of the overrides, and are cut where they would get too long."""
    made = render(*options, release=release)
    assert made.one("Service", name)
    assert all(len(each["metadata"]["name"]) <= 52 for each in made.all("Cell"))


def test_two_releases_share_nothing_of_the_cluster(render: Render) -> None:
    """Cluster roles of the same release name in two namespaces are not the same object."""
    one, other = (
        {each["metadata"]["name"] for each in render(namespace=namespace).all("ClusterRole")} for namespace in "ab"
    )
    assert not one & other


def test_common_labels_are_on_every_object(render: Render) -> None:
    """The labels of commonLabels are on every object and every pod, but in no selector."""
    made = render("--set", "commonLabels.team=platform")
    for each in made.objects:
        assert each["metadata"]["labels"]["team"] == "platform"
        assert "team" not in str(each.get("spec", {}).get("selector", ""))


def test_secrets_to_pull_with_reach_every_pod(render: Render) -> None:
    """Every pod of the release uses imagePullSecrets, the test included."""
    for _, spec in render("--set", "imagePullSecrets[0].name=registry").pods():
        assert spec["imagePullSecrets"] == [{"name": "registry"}]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"discovry": {}}, "discovry"),
    ({"discovery": {"replica": 3}}, "replica"),
    ({"discovery": {"replicas": "two"}}, "/discovery/replicas"),
    ({"discovery": {"service": {"port": 70000}}}, "/discovery/service/port"),
    ({"discovery": {"service": {"type": "ExternalName"}}}, "/discovery/service/type"),
    ({"discovery": {"logLevel": "loud"}}, "/discovery/logLevel"),
    ({"discovery": {"allowedHosts": ["a,b"]}}, "/discovery/allowedHosts/0"),
    ({"reconciler": {"rollout": {"maxConcurrent": 0}}}, "/reconciler/rollout/maxConcurrent"),
    ({"reconciler": {"resyncSeconds": 600}}, "/reconciler/resyncSeconds"),
    ({"reconciler": {"image": {"digest": "sha256:short"}}}, "/reconciler/image/digest"),
    ({"reconciler": {"extraEnv": {"A": "b"}}}, "/reconciler/extraEnv"),
    ({"cell": {"image": {"tag": 1.2}}}, "/cell/image/tag"),
    ({"cell": {"imagePullPolicy": "Sometimes"}}, "/cell/imagePullPolicy"),
    ({"watchNamespaces": "team-a"}, "/watchNamespaces"),
    ({"watchNamespaces": ["Team"]}, "/watchNamespaces/0"),
    ({"watchNamespaces": ["a", "a"]}, "/watchNamespaces"),
    ({"rbac": {"create": "yes"}}, "/rbac/create"),
    ({"imagePullSecrets": ["registry"]}, "/imagePullSecrets/0"),
    ({"fullnameOverride": "Upper"}, "/fullnameOverride"),
    ({"metrics": {"serviceMonitor": {"interval": "often"}}}, "/metrics/serviceMonitor/interval"),
]


@pytest.mark.parametrize(("wrong", "named"), REFUSED, ids=lambda each: str(each)[:60])
def test_wrong_values_are_refused_by_name(
    refused: Callable[..., str], tmp_path: Any, wrong: dict[str, Any], named: str
) -> None:
    """A value that is misspelt or of the wrong type ends the command with a message that names it."""
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(wrong))
    assert named.replace("/", ".").lstrip(".") in refused("--values", str(file)).replace("/", ".")


@pytest.mark.parametrize("program", ["reconciler", "discovery"])
def test_an_account_that_is_not_made_has_to_be_named(refused: Callable[..., str], render: Render, program: str) -> None:
    """The namespace's default account is not taken by silence: every pod there would get the roles."""
    option = f"{program}.serviceAccount.create=false"
    assert f"{program}.serviceAccount.name: name the account" in refused("--set", option)
    made = render("--set", option, "--set", f"{program}.serviceAccount.name=given")
    spec = made.one("Deployment", f"cellmesh-{program}")["spec"]["template"]["spec"]
    assert spec["serviceAccountName"] == "given"
    assert "given" not in {each["metadata"]["name"] for each in made.all("ServiceAccount")}


def test_kubernetes_before_1_30_is_refused(helm: Helm) -> None:
    """An older cluster is refused before anything is made; a vendor's 1.30 is taken."""
    old = helm("template", "cellmesh", str(CHART), "--kube-version", "1.29.9")
    assert old.returncode != 0
    assert "kubeVersion: >=1.30.0-0" in old.stderr
    assert helm("template", "cellmesh", str(CHART), "--kube-version", "1.30.1-vendor.7").returncode == 0
