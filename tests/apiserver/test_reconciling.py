"""The reconciler on a real API server: children, status, drift, other people's objects, deletion."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from apiserver import discoveries
from apiserver.control_plane import ControlPlane
from apiserver.reconcilers import (
    CHILDREN,
    CLUSTER_RULES,
    RULES,
    Reconciler,
    child,
    conditions,
    edit_cell,
    make_cell,
    refuse_all,
    running,
    token,
    user,
    wait_for,
)
from apiserver.stand_ins import Kubelet, bind_claim, make_storage_class
from support import eventually

Controllers = Callable[..., None]
#: Seconds within which a change has to show, on a busy machine.
SOON = 20.0
#: What the audit log calls the module's reconciler.
HOME = "reconciler-home"
INSTALL = Path(__file__).resolve().parents[2] / "deploy/install.yaml"


@pytest.fixture(scope="module")
def reconciler(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reconciler]:
    """Run one reconciler of the whole cluster for all tests of this module."""
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": HOME}}
    plane.api.create("namespaces", None, space)
    config = plane.kubeconfig(token(plane, HOME))
    with running(Reconciler(tmp_path_factory.mktemp("reconciler"), config)) as started:
        yield started
    plane.api.empty(HOME)


@pytest.fixture
def served(plane: ControlPlane, reconciler: Reconciler, namespace: str) -> str:
    """Return a namespace that the reconciler serves."""
    return namespace


def test_a_cell_gets_children_that_it_owns(plane: ControlPlane, served: str) -> None:
    """Expect ServiceAccount, Service and StatefulSet, controlled by the Cell and applied by our manager alone."""
    cell = make_cell(plane.api, served)
    for plural in CHILDREN:
        found = child(plane.api, plural, served)
        (owner,) = found["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"], owner["controller"]) == ("Cell", cell["metadata"]["uid"], True)
        managers = {(one["manager"], one["operation"]) for one in found["metadata"]["managedFields"]}
        assert managers == {("cellmesh-reconciler", "Apply")}
        assert "finalizers" not in found["metadata"]


def test_the_status_says_which_generation_was_acted_on(plane: ControlPlane, served: str) -> None:
    """Expect -1 from the schema, then 1, then 2 after an edit; and nothing of ours in the Cell's metadata."""
    cell = make_cell(plane.api, served)
    assert cell["status"]["observedGeneration"] == -1
    for generation in (1, 2):
        eventually(
            lambda wanted=generation: (
                plane.api.must_get("cells", served, "alpha")["status"]["observedGeneration"] == wanted
            ),
            within=SOON,
        )
        edit_cell(plane.api, served, port=9000 + generation)
    metadata = plane.api.must_get("cells", served, "alpha")["metadata"]
    assert not {"annotations", "finalizers"} & set(metadata)


def test_a_cell_is_ready_when_its_pods_are(plane: ControlPlane, served: str, controllers: Controllers) -> None:
    """Expect `kubectl wait` to end, and the numbers that `kubectl scale` and autoscalers read."""
    controllers("statefulset-controller")
    with Kubelet(plane, served):
        make_cell(plane.api, served, replicas=2)
        plane.kubectl("wait", "--for=condition=Ready", "cell/alpha", "--timeout=50s", namespace=served)
        eventually(lambda: plane.api.must_get("cells", served, "alpha")["status"]["readyReplicas"] == 2, within=SOON)
        status = plane.api.must_get("cells", served, "alpha")["status"]
        assert (status["replicas"], status["selector"]) == (2, "cellmesh.dev/cell=alpha")
        child(plane.api, "poddisruptionbudgets", served)


def test_a_cell_is_scaled_to_zero_and_back(plane: ControlPlane, served: str, controllers: Controllers) -> None:
    """Expect `kubectl scale` to do it, and zero to be Ready."""
    controllers("statefulset-controller")
    with Kubelet(plane, served):
        make_cell(plane.api, served)
        wait_for(plane.api, served, "Ready", "True", "InstancesReady", within=50)
        plane.kubectl("scale", "cell", "alpha", "--replicas=0", namespace=served)
        wait_for(plane.api, served, "Ready", "True", "ScaledToZero", within=50)
        eventually(lambda: plane.api.list("pods", served) == [], within=SOON)
        wait_for(plane.api, served, "Available", "False")
        plane.kubectl("scale", "cell", "alpha", "--replicas=1", namespace=served)
        wait_for(plane.api, served, "Ready", "True", "InstancesReady", within=50)


FOREIGN: dict[str, dict[str, Any]] = {
    "serviceaccounts": {"apiVersion": "v1", "kind": "ServiceAccount"},
    "services": {"apiVersion": "v1", "kind": "Service", "spec": {"ports": [{"port": 1}]}},
    "statefulsets": {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "spec": {
            "serviceName": "x",
            "replicas": 0,
            "selector": {"matchLabels": {"a": "b"}},
            "template": {
                "metadata": {"labels": {"a": "b"}},
                "spec": {"containers": [{"name": "c", "image": "i"}]},
            },
        },
    },
    "poddisruptionbudgets": {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"a": "b"}}},
    },
}


@pytest.mark.parametrize("plural", FOREIGN)
@pytest.mark.parametrize("labelled", [False, True])
def test_an_object_of_somebody_else_stays_as_it_is(
    plane: ControlPlane, served: str, plural: str, labelled: bool
) -> None:
    """Expect it untouched, the Cell stalled with an Event, and all to be well soon after it is gone."""
    body = copy.deepcopy(FOREIGN[plural])
    body["metadata"] = {"name": "alpha", "labels": {"cellmesh.dev/cell": "alpha"} if labelled else {}}
    before = plane.api.create(plural, served, body)
    make_cell(plane.api, served, replicas=2)
    wait_for(plane.api, served, "Stalled", "True", "NameConflict")
    assert plane.api.must_get(plural, served, "alpha") == before
    eventually(
        lambda: "NameConflict" in {one["reason"] for one in plane.api.list("events", served)},
        within=SOON,
        message="the Event",
    )
    plane.api.delete(plural, served, "alpha")
    wait_for(plane.api, served, "UpToDate", "True", within=45)
    assert plane.api.must_get(plural, served, "alpha")["metadata"]["uid"] != before["metadata"]["uid"]


@pytest.mark.parametrize(
    ("plural", "patch", "path"),
    [
        ("statefulsets", {"spec": {"replicas": 5}}, ("spec", "replicas")),
        ("statefulsets", {"metadata": {"labels": {"cellmesh.dev/cell": None}}}, ("metadata", "labels")),
        ("statefulsets", {"metadata": {"ownerReferences": None}}, ("metadata", "ownerReferences")),
        ("services", {"spec": {"selector": {"cellmesh.dev/cell": "other"}}}, ("spec", "selector")),
        ("serviceaccounts", {"automountServiceAccountToken": True}, ("automountServiceAccountToken",)),
        ("poddisruptionbudgets", {"spec": {"maxUnavailable": 7}}, ("spec", "maxUnavailable")),
    ],
)
def test_what_others_change_in_our_fields_is_set_right(
    plane: ControlPlane, served: str, plural: str, patch: dict[str, Any], path: tuple[str, ...]
) -> None:
    """Expect the field as it was, within seconds; an object that no longer names its owner is somebody else's."""
    make_cell(plane.api, served, replicas=2)
    before = child(plane.api, plural, served)

    def value(item: Any) -> Any:
        for name in path:
            item = item.get(name)
        return item

    plane.api.patch(plural, served, "alpha", patch)
    if path == ("metadata", "ownerReferences"):
        wait_for(plane.api, served, "Stalled", "True", "NameConflict")
        return
    eventually(
        lambda: value(plane.api.must_get(plural, served, "alpha")) == value(before),
        within=SOON,
        message="the field to be set right",
    )


def test_a_container_that_was_smuggled_in_is_taken_out_and_a_restart_is_left(plane: ControlPlane, served: str) -> None:
    """Expect the pod template to hold what is ours alone, but for the annotation of `kubectl rollout restart`."""
    make_cell(plane.api, served)
    child(plane.api, "statefulsets", served)
    plane.kubectl("rollout", "restart", "statefulset/alpha", namespace=served)
    added = {"spec": {"template": {"spec": {"containers": [{"name": "miner", "image": "evil"}]}}}}
    plane.api.patch("statefulsets", served, "alpha", added, content_type="application/strategic-merge-patch+json")

    def alone() -> bool:
        pod = plane.api.must_get("statefulsets", served, "alpha")["spec"]["template"]["spec"]
        return [one["name"] for one in pod["containers"]] == ["cell"]

    eventually(alone, within=SOON, message="the container to be gone")
    template = plane.api.must_get("statefulsets", served, "alpha")["spec"]["template"]
    assert "kubectl.kubernetes.io/restartedAt" in template["metadata"]["annotations"]


@pytest.mark.parametrize("plural", CHILDREN)
def test_a_child_that_is_deleted_is_made_again(plane: ControlPlane, served: str, plural: str) -> None:
    """Expect another one within seconds."""
    make_cell(plane.api, served)
    before = child(plane.api, plural, served)
    plane.api.delete(plural, served, "alpha")

    def renewed() -> bool:
        found = plane.api.get(plural, served, "alpha")
        return found is not None and found["metadata"]["uid"] != before["metadata"]["uid"]

    eventually(renewed, within=SOON, message="the child to be made again")


def test_a_cell_takes_its_children_with_it(plane: ControlPlane, served: str, controllers: Controllers) -> None:
    """Expect the garbage collector to find all of them, with no finalizer in the way."""
    controllers("garbage-collector-controller")
    make_cell(plane.api, served, replicas=2)
    for plural in (*CHILDREN, "poddisruptionbudgets"):
        child(plane.api, plural, served)
    plane.api.delete("cells", served, "alpha")
    assert plane.api.get("cells", served, "alpha") is None
    for plural in (*CHILDREN, "poddisruptionbudgets"):
        eventually(
            lambda kind=plural: plane.api.get(kind, served, "alpha") is None, within=60, message=f"{plural} to be gone"
        )


def test_a_cell_that_is_made_anew_at_once_gets_children_of_its_own(
    plane: ControlPlane, served: str, controllers: Controllers
) -> None:
    """Expect the former Cell's children to be waited for, and never to be taken over."""
    controllers("garbage-collector-controller")
    make_cell(plane.api, served)
    child(plane.api, "statefulsets", served)
    plane.api.delete("cells", served, "alpha")
    cell = make_cell(plane.api, served)

    def own() -> bool:
        owners = [plane.api.must_get(one, served, "alpha")["metadata"]["ownerReferences"][0] for one in CHILDREN]
        return {owner["uid"] for owner in owners} == {cell["metadata"]["uid"]}

    eventually(own, within=60, message="children of the new Cell")
    wait_for(plane.api, served, "UpToDate", "True")


def test_what_cannot_be_made_says_why_and_others_go_on(
    plane: ControlPlane, served: str, make_namespace: Callable[..., str], controllers: Controllers
) -> None:
    """Expect quota and admission in the conditions of the Cells they concern, and another Cell Ready meanwhile."""
    controllers("statefulset-controller")
    refused, podless = make_namespace(), make_namespace()
    refuse_all(plane.api, refused, "services")
    refuse_all(plane.api, podless, "pods")
    with Kubelet(plane, served):
        make_cell(plane.api, refused)
        make_cell(plane.api, podless)
        make_cell(plane.api, served)
        wait_for(plane.api, served, "Ready", "True", within=50)
        wait_for(plane.api, refused, "Stalled", "True", "ApplyRefused")
        wait_for(plane.api, podless, "Ready", "False", "QuotaExceeded")
    reasons = {one["reason"] for one in plane.api.list("events", refused)}
    assert "ApplyRefused" in reasons


def test_what_was_refused_is_tried_again_when_the_cell_changes(plane: ControlPlane, served: str) -> None:
    """Expect an edit not to wait for a backoff that has become long."""
    refuse_all(plane.api, served, "services")
    make_cell(plane.api, served)
    wait_for(plane.api, served, "Stalled", "True", "ApplyRefused")
    threading.Event().wait(8)  # the backoff grows past what the test then allows
    plane.api.delete("resourcequotas", served, "none")
    edit_cell(plane.api, served, branch="b")
    wait_for(plane.api, served, "UpToDate", "True", within=5)


def test_storage_grows_where_its_class_can(
    plane: ControlPlane, served: str, controllers: Controllers, make_namespace: Callable[..., str], tmp_path: Path
) -> None:
    """Expect the claim to be asked, the StatefulSet to be made anew around the same pod, StorageReady in the end.

    Discovery tells of the pod all along, also while nothing controls it.
    """
    make_storage_class(plane.api, "growing", expandable=True)
    controllers("statefulset-controller", "garbage-collector-controller")
    own = make_namespace()
    config = plane.kubeconfig(discoveries.token(plane, own, [served]))
    discovery = discoveries.Replica("discovery", tmp_path, config, own, namespaces=served)
    with Kubelet(plane, served), discoveries.running(discovery):
        make_cell(plane.api, served, storage={"size": "1Gi", "className": "growing"})
        wait_for(plane.api, served, "Ready", "True", within=50)
        eventually(lambda: discovery.peers(served)["alpha-0"], within=SOON, message="the peer")
        version = discovery.answer(served, "alpha").json["version"]
        pod = plane.api.must_get("pods", served, "alpha-0")
        edit_cell(plane.api, served, storage={"size": "2Gi", "className": "growing"})
        claim = "inbox-alpha-0"

        def asked() -> bool:
            spec = plane.api.must_get("persistentvolumeclaims", served, claim)["spec"]
            return bool(spec["resources"]["requests"]["storage"] == "2Gi")

        eventually(asked, within=SOON, message="the claim to be asked to grow")
        wait_for(plane.api, served, "StorageReady", "False", "Resizing")
        bind_claim(plane.api, served, claim, capacity="2Gi")

        def template_size() -> bool:
            found = plane.api.get("statefulsets", served, "alpha")
            assert found is not None
            (template,) = found["spec"]["volumeClaimTemplates"]
            return bool(template["spec"]["resources"]["requests"]["storage"] == "2Gi")

        eventually(template_size, within=60, message="the StatefulSet of the new size")
        wait_for(plane.api, served, "StorageReady", "True", "Bound")
        wait_for(plane.api, served, "Ready", "True", within=50)
        assert plane.api.must_get("pods", served, "alpha-0")["metadata"]["uid"] == pod["metadata"]["uid"]
        # Changes come in order: with a pod that is made now, discovery has seen all that has become of the first.
        make_cell(plane.api, served, "beta")
        eventually(lambda: discovery.peers(served)["beta-0"], within=SOON, message="the later peer")
        assert discovery.answer(served, "alpha").json["version"] == version


def test_storage_that_cannot_grow_stays_and_says_so(plane: ControlPlane, served: str, controllers: Controllers) -> None:
    """Expect the old size, StorageReady False, and the cell as Ready as before."""
    make_storage_class(plane.api, "fixed", expandable=False)
    controllers("statefulset-controller")
    with Kubelet(plane, served):
        make_cell(plane.api, served, storage={"size": "1Gi", "className": "fixed"})
        wait_for(plane.api, served, "Ready", "True", within=50)
        edit_cell(plane.api, served, storage={"size": "2Gi", "className": "fixed"})
        wait_for(plane.api, served, "StorageReady", "False", "ExpansionNotSupported")
        spec = plane.api.must_get("persistentvolumeclaims", served, "inbox-alpha-0")["spec"]
        assert spec["resources"]["requests"]["storage"] == "1Gi"
        wait_for(plane.api, served, "Ready", "True")


def test_what_an_instance_leaves_behind_when_it_is_scaled_away_is_told_until_it_is_back(
    plane: ControlPlane, served: str, controllers: Controllers
) -> None:
    """Expect the pod's last words in the status though it is gone at once, an Event, and neither once it runs again."""
    controllers("statefulset-controller")
    words = {"alpha-1": '{"remaining":12,"unsent":3}', "alpha-0": '{"remaining":5,"unsent":0}'}
    with Kubelet(plane, served, words=words):
        make_cell(plane.api, served, replicas=2, storage={"size": "1Gi"})
        wait_for(plane.api, served, "Ready", "True", "InstancesReady", within=50)

        plane.kubectl("scale", "cell", "alpha", "--replicas=1", namespace=served)
        wait_for(plane.api, served, "MessagesLeft", "True", "ScaledDownWithMessages", within=50)
        wait_for(plane.api, served, "Ready", "True", "InstancesReady")

        left = plane.api.must_get("cells", served, "alpha")["status"]["messagesLeft"]
        assert left == [{"instance": "alpha-1", "remaining": 12, "unsent": 3, "lost": False}]
        eventually(lambda: plane.api.get("pods", served, "alpha-1") is None, within=SOON)
        eventually(
            lambda: any(one["reason"] == "ScaledDownWithMessages" for one in plane.api.list("events", served)),
            within=SOON,
        )
        # A pod that its StatefulSet makes anew finds its messages again, and is not told of.
        plane.api.delete("pods", served, "alpha-0")
        wait_for(plane.api, served, "Ready", "True", "InstancesReady", within=50)
        assert len(plane.api.must_get("cells", served, "alpha")["status"]["messagesLeft"]) == 1

        plane.kubectl("scale", "cell", "alpha", "--replicas=2", namespace=served)
        wait_for(plane.api, served, "Ready", "True", "InstancesReady", within=50)
        eventually(lambda: "MessagesLeft" not in conditions(plane.api, served), within=SOON)
        assert not plane.api.must_get("cells", served, "alpha")["status"].get("messagesLeft")


def test_a_cell_that_was_reported_is_not_written_again(
    plane: ControlPlane, reconciler: Reconciler, served: str
) -> None:
    """Expect no write by itself once all is as it should be, and at most nine for a new Cell altogether."""
    mark = plane.audit_mark()
    make_cell(plane.api, served)
    wait_for(plane.api, served, "UpToDate", "True")
    reconciler.idle()
    made = [one for one in plane.requests_since(mark, user=user(HOME)) if one.namespace == served]
    assert 0 < len(made) <= 9, [one.text for one in made]
    mark = plane.audit_mark()
    plane.api.patch("services", served, "alpha", {"metadata": {"annotations": {"their": "note"}}})
    looks = reconciler.metric("reconcile_seconds_count")
    eventually(lambda: reconciler.metric("reconcile_seconds_count") > looks, within=SOON)
    reconciler.idle()
    assert [one.text for one in plane.requests_since(mark, user=user(HOME)) if one.namespace == served] == []


def test_nothing_was_refused_for_want_of_rights(reconciler: Reconciler) -> None:
    """Expect the rules of this level, which the chart grants, to have been enough for all of the above."""
    assert "cannot " not in reconciler.text()
    assert "forbidden: User" not in reconciler.text()


def test_the_chart_grants_what_these_tests_do() -> None:
    """Expect install.yaml to grant the reconciler the rules of this level, verb by verb."""
    documents = [one for one in yaml.safe_load_all(INSTALL.read_text("utf-8")) if one]
    (role,) = [
        one for one in documents if one["kind"] == "ClusterRole" and one["metadata"]["name"].endswith("reconciler")
    ]
    assert _verbs(role["rules"]) == _verbs([*RULES, *CLUSTER_RULES])


def _verbs(rules: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    return sorted(
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    )


def test_conditions_are_those_of_the_newest_generation(plane: ControlPlane, served: str) -> None:
    """Expect every condition to name the generation that it speaks of."""
    make_cell(plane.api, served)
    wait_for(plane.api, served, "UpToDate", "True")
    edit_cell(plane.api, served, branch="other")
    wait_for(plane.api, served, "UpToDate", "True")
    assert set(conditions(plane.api, served)) >= {"Ready", "Available", "StorageReady", "UpToDate"}
