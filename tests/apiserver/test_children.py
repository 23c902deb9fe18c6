"""The children as an API server takes them: its defaults are no drift, and real drift is set right."""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import Any

import pytest

from apiserver.api import Refused
from apiserver.control_plane import ControlPlane
from apiserver.stand_ins import Kubelet, bind_claim, make_storage_class
from cellmesh_operator.decisions.actions import (
    Action,
    Apply,
    BuildSettings,
    Delete,
    Observed,
    Remove,
    ResizeClaim,
    Scale,
)
from cellmesh_operator.decisions.deciding import Decision, decide
from cellmesh_operator.naming import CELL_LABEL, FIELD_MANAGER, STATEFUL_SETS
from support import eventually

SETTINGS = BuildSettings(cell_image="cellmesh-cell:1", discovery_url="http://cellmesh-discovery.system:8001")
EVERYTHING: dict[str, Any] = {
    "replicas": 2,
    "image": "cell:1",
    "imagePullPolicy": "Always",
    "port": 9000,
    "type": "pure",
    "branch": "main",
    "services": ["code-analysis"],
    "storage": {
        "size": "1024Mi",
        "className": "fast",
        "accessModes": ["ReadWriteOncePod"],
        "retention": {"whenDeleted": "Delete", "whenScaled": "Delete"},
    },
    "mailbox": {"maxMessages": 10, "maxBytes": "64Mi", "history": 0, "dedupeWindow": 0, "maxDeliveries": 1},
    "handler": {"port": 9001, "path": "/on-message", "timeoutSeconds": 5, "maxConcurrency": 2, "types": ["query"]},
    "resources": {"limits": {"cpu": "1000m", "memory": "0.5Gi"}, "requests": {"cpu": 1, "memory": "100M"}},
    "env": [
        {"name": "A", "value": "b"},
        {"name": "EMPTY", "value": ""},
        {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1000m"}}},
        {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": False}}},
    ],
    "envFrom": [{"prefix": "P_", "configMapRef": {"name": "c", "optional": False}}, {"secretRef": {"name": "s"}}],
    "volumeMounts": [
        {"name": "scratch", "mountPath": "/scratch", "readOnly": False},
        {"name": "conf", "mountPath": "/conf", "subPath": "a", "readOnly": True},
    ],
    "serviceAccount": {"annotations": {"cloud/role": "r"}},
    "template": {
        "metadata": {"labels": {"team": "a"}, "annotations": {"note": "b"}},
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [
            {"key": "k", "value": "v", "effect": "NoExecute", "tolerationSeconds": 0},
            {"operator": "Exists"},
        ],
        "affinity": {
            "podAntiAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [
                    {
                        "weight": 1,
                        "podAffinityTerm": {
                            "topologyKey": "kubernetes.io/hostname",
                            "labelSelector": {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]},
                        },
                    }
                ]
            }
        },
        "topologySpreadConstraints": [
            {"maxSkew": 2, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {}}
        ],
        "imagePullSecrets": [{"name": "pull"}],
        "runtimeClassName": "sandbox",
        "dnsConfig": {"nameservers": ["10.0.0.10"], "searches": ["x"], "options": [{"name": "ndots", "value": "1"}]},
        "terminationGracePeriodSeconds": 60,
        "volumes": [
            {"name": "scratch", "emptyDir": {}},
            {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1024Mi"}},
            {"name": "conf", "configMap": {"name": "c", "items": [{"key": "a", "path": "a"}], "defaultMode": 0}},
            {"name": "secret", "secret": {"secretName": "s", "optional": True}},
            {
                "name": "both",
                "projected": {
                    "sources": [
                        {"serviceAccountToken": {"path": "t", "audience": "a"}},
                        {"downwardAPI": {"items": [{"path": "n", "fieldRef": {"fieldPath": "metadata.name"}}]}},
                    ]
                },
            },
            {
                "name": "claim",
                "ephemeral": {
                    "volumeClaimTemplate": {
                        "spec": {
                            "accessModes": ["ReadWriteOnce"],
                            "resources": {"requests": {"storage": "1024Mi"}},
                        }
                    }
                },
            },
        ],
        "initContainers": [
            {"name": "first", "image": "first:1", "command": ["true"], "resources": {"limits": {"cpu": "0.1"}}},
            {"name": "beside", "image": "beside:1", "restartPolicy": "Always"},
        ],
        "containers": [
            {
                "name": "side",
                "image": "side:1",
                "args": ["a"],
                "ports": [{"containerPort": 7000, "name": "side"}],
                "env": [{"name": "X", "value": "$(HOME)"}],
                "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}],
                "livenessProbe": {"httpGet": {"port": 7000}, "initialDelaySeconds": 0},
                "readinessProbe": {"tcpSocket": {"port": "side"}, "periodSeconds": 5},
                "lifecycle": {"preStop": {"exec": {"command": ["true"]}}},
                "securityContext": {"runAsUser": 1000, "readOnlyRootFilesystem": False},
            }
        ],
    },
}
SPECS = {
    "nothing": {},
    "zero": {"replicas": 0},
    "ephemeral": {"storage": {"ephemeral": {}}},
    "limited": {"storage": {"ephemeral": {"sizeLimit": "2048Mi"}}},
    "no spread": {"template": {"topologySpreadConstraints": []}},
    "everything": EVERYTHING,
}


class World:
    """A Cell named alpha on an API server, and what the reconciler does for it, by hand."""

    def __init__(self, plane: ControlPlane, namespace: str, spec: dict[str, Any]) -> None:
        self.api = plane.api
        self.namespace = namespace
        body = {"apiVersion": "cellmesh.dev/v1alpha1", "kind": "Cell", "metadata": {"name": "alpha"}, "spec": spec}
        self.api.create("cells", namespace, body, fieldValidation="Strict")

    def observed(self) -> Observed:
        """Return all that belongs to the Cell."""
        mine = {"labelSelector": f"{CELL_LABEL}=alpha"}
        classes = self.api.list("storageclasses")
        return Observed(
            cell=self.api.must_get("cells", self.namespace, "alpha"),
            service_account=self.api.get("serviceaccounts", self.namespace, "alpha"),
            service=self.api.get("services", self.namespace, "alpha"),
            stateful_set=self.api.get("statefulsets", self.namespace, "alpha"),
            pod_disruption_budget=self.api.get("poddisruptionbudgets", self.namespace, "alpha"),
            pods=tuple(self.api.list("pods", self.namespace, **mine)),
            claims=tuple(self.api.list("persistentvolumeclaims", self.namespace, **mine)),
            failures=tuple(self.api.list("events", self.namespace, fieldSelector="reason=FailedCreate")),
            storage_classes={item["metadata"]["name"]: item for item in classes},
        )

    def decide(self) -> Decision:
        """Return what the reconciler would do now."""
        now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return decide(self.observed(), SETTINGS, may_roll_out=True, now=now)

    def reconcile(self, *, passes: int = 4) -> list[Action]:
        """Decide and act until nothing is left to do; return what was done."""
        done: list[Action] = []
        for _ in range(passes):
            decision = self.decide()
            status = {"apiVersion": "cellmesh.dev/v1alpha1", "kind": "Cell", "metadata": {"name": "alpha"}}
            status["status"] = dict(decision.status)  # type: ignore[assignment]
            self.api.apply("cells", self.namespace, status, manager=FIELD_MANAGER, subresource="status")
            if not decision.actions:
                return done
            for action in decision.actions:
                self.act(action)
            done += decision.actions
        raise AssertionError(f"still to do: {self.decide().actions}")

    def act(self, action: Action) -> Any:
        """Make the request that an action stands for."""
        if isinstance(action, Apply):
            body = dict(action.body)
            if action.uid:
                body["metadata"] = {**body["metadata"], "uid": action.uid}
            return self.api.apply(action.resource.plural, self.namespace, body, manager=FIELD_MANAGER)
        if isinstance(action, (Remove, ResizeClaim, Scale)):
            patch = action.patch
            return self.api.patch(
                action.resource.plural, self.namespace, action.name, patch, fieldManager=FIELD_MANAGER
            )
        options = {"propagationPolicy": "Orphan" if action.orphan else "Background"}
        return self.api.delete(action.resource.plural, self.namespace, action.name, **options)

    def edit(self, spec: dict[str, Any]) -> None:
        """Change the Cell as its author would."""
        self.api.patch("cells", self.namespace, "alpha", {"spec": spec})

    @property
    def template(self) -> dict[str, Any]:
        """The spec of the pods, as it is on the API server."""
        found: dict[str, Any] = self.api.must_get("statefulsets", self.namespace, "alpha")["spec"]["template"]["spec"]
        return found


@pytest.mark.parametrize("name", SPECS)
def test_what_was_applied_needs_no_second_write(plane: ControlPlane, namespace: str, name: str) -> None:
    """Whatever the API server fills in, leaves out or writes otherwise, nothing is left to do."""
    world = World(plane, namespace, SPECS[name])
    done = world.reconcile()
    assert {type(action) for action in done} == {Apply}
    assert len({action.resource for action in done}) == len(done) == (4 if name == "everything" else 3)
    assert world.decide().changed == ()


def test_applying_the_same_again_changes_nothing(plane: ControlPlane, namespace: str) -> None:
    """Not even the resource version: what is applied is what the API server keeps."""
    world = World(plane, namespace, EVERYTHING)
    for action in world.reconcile():
        assert isinstance(action, Apply)
        before = world.api.must_get(action.resource.plural, namespace, "alpha")["metadata"]["resourceVersion"]
        assert world.act(action)["metadata"]["resourceVersion"] == before


@pytest.mark.parametrize("name", SPECS)
def test_pods_pass_the_restricted_standard(plane: ControlPlane, namespace: str, controllers: Any, name: str) -> None:
    """The StatefulSet's controller makes every pod in a namespace that enforces it."""
    spec = {**SPECS[name], "template": {**SPECS[name].get("template", {}), "runtimeClassName": None}}
    controllers("statefulset-controller")
    world = World(plane, namespace, spec)
    world.reconcile()
    wanted = spec.get("replicas", 1)
    eventually(lambda: len(world.observed().pods) == wanted, within=20, message="pods")
    assert not [event for event in world.observed().failures if "PodSecurity" in event["message"]]


SIDE = {"name": "evil", "image": "evil:1"}
DRIFTS: dict[str, dict[str, Any]] = {
    "a container": {"containers": [{"name": "evil", "image": "evil:1"}]},
    "an init container": {"initContainers": [{"name": "evil", "image": "evil:1"}]},
    "the host's network": {"hostNetwork": True},
    "the host's processes": {"hostPID": True},
    "a volume of the host": {"volumes": [{"name": "host", "hostPath": {"path": "/"}}]},
    "a variable": {"containers": [{"name": "cell", "env": [{"name": "LD_PRELOAD", "value": "x"}]}]},
    "privileges": {
        "containers": [{"name": "cell", "securityContext": {"privileged": True, "allowPrivilegeEscalation": True}}]
    },
    "capabilities": {"containers": [{"name": "cell", "securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}}]},
    "a command": {"containers": [{"name": "cell", "command": ["sh"]}]},
    "an image": {"containers": [{"name": "cell", "image": "evil:1"}]},
    "a mount": {"containers": [{"name": "cell", "volumeMounts": [{"name": "tmp", "mountPath": "/more"}]}]},
    "other names": {"hostAliases": [{"ip": "10.0.0.1", "hostnames": ["cellmesh-discovery"]}]},
    "another account": {"serviceAccountName": "default", "serviceAccount": "default"},
    "a group": {"securityContext": {"supplementalGroups": [0]}},
    "root": {"securityContext": {"runAsUser": 0, "runAsNonRoot": False}},
}


@pytest.mark.parametrize("name", DRIFTS)
def test_drift_is_set_right(plane: ControlPlane, namespace: str, name: str) -> None:
    """Whatever somebody adds or changes in the pods' spec is as before after one pass, and then all is quiet."""
    world = World(plane, namespace, {})
    world.reconcile()
    before = world.template
    strategic = "application/strategic-merge-patch+json"
    patch = {"spec": {"template": {"spec": DRIFTS[name]}}}
    world.api.patch("statefulsets", namespace, "alpha", patch, content_type=strategic, fieldManager="somebody")
    assert world.template != before
    assert world.decide().changed
    world.reconcile(passes=2)
    assert world.template == before


def test_a_volume_turned_into_the_hosts_is_set_right(plane: ControlPlane, namespace: str) -> None:
    """An apply alone is refused here: the volume would have two sources."""
    world = World(plane, namespace, {})
    world.reconcile()
    before = world.template
    patch = {"spec": {"template": {"spec": {"volumes": [{"name": "tmp", "hostPath": {"path": "/", "type": ""}}]}}}}
    world.api.patch("statefulsets", namespace, "alpha", patch, fieldManager="somebody")
    apply = [action for action in world.decide().actions if isinstance(action, Apply)]
    with pytest.raises(Refused):
        world.act(apply[0])
    world.reconcile(passes=2)
    assert world.template == before


def test_a_field_that_the_author_takes_back_goes(plane: ControlPlane, namespace: str) -> None:
    """Also after drift in its list was taken away by a patch, which must not keep fields of ours alive."""
    world = World(plane, namespace, EVERYTHING)
    world.reconcile()
    evil = {"containers": [SIDE, {"name": "cell", "image": "evil:1", "env": [{"name": "A", "value": "evil"}]}]}
    strategic = "application/strategic-merge-patch+json"
    patch = {"spec": {"template": {"spec": evil}}}
    world.api.patch("statefulsets", namespace, "alpha", patch, content_type=strategic, fieldManager="somebody")
    world.reconcile(passes=3)
    world.edit({"env": None, "envFrom": None, "volumeMounts": None, "template": None})
    world.reconcile(passes=3)
    (container,) = world.template["containers"]
    assert not [item for item in container["env"] if not item["name"].startswith("CELLMESH_")]
    assert "envFrom" not in container
    assert [volume["name"] for volume in world.template["volumes"]] == ["tmp"]
    assert {"nodeSelector", "affinity", "initContainers", "imagePullSecrets", "dnsConfig"} & set(
        world.template
    ) == set()


def test_a_restart_by_kubectl_stays(plane: ControlPlane, namespace: str) -> None:
    """The annotation that it puts on the template survives, also a later apply of ours."""
    world = World(plane, namespace, {})
    world.reconcile()
    plane.kubectl("--namespace", namespace, "rollout", "restart", "statefulset/alpha")
    assert world.decide().actions == ()
    world.edit({"port": 9000})
    world.reconcile()
    template = world.api.must_get("statefulsets", namespace, "alpha")["spec"]["template"]
    assert "kubectl.kubernetes.io/restartedAt" in template["metadata"]["annotations"]


def test_an_apply_meant_for_another_object_is_refused(plane: ControlPlane, namespace: str) -> None:
    """The uid that was observed goes with it: what has taken the object's place meanwhile is not overwritten."""
    world = World(plane, namespace, {})
    world.reconcile()
    world.edit({"port": 9000})
    action = next(action for action in world.decide().actions if isinstance(action, Apply))
    world.api.delete(action.resource.plural, namespace, "alpha")
    foreign = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "alpha"}, "spec": {"ports": [{"port": 1}]}}
    world.api.create("services", namespace, foreign)
    with pytest.raises(Refused, match="uid"):
        world.act(action)
    assert plane.api.must_get("services", namespace, "alpha")["spec"]["ports"][0]["port"] == 1


def test_instances_are_added_while_a_change_of_the_operator_waits(plane: ControlPlane, namespace: str) -> None:
    """First their number alone, in its turn the rest, and applies go on changing both afterwards."""
    world = World(plane, namespace, {"replicas": 2, "storage": {"ephemeral": {}}})
    world.reconcile()
    settings = dataclasses.replace(SETTINGS, cell_image="cellmesh-cell:next")

    def act(*, may_roll_out: bool) -> list[type]:
        decision = decide(world.observed(), settings, may_roll_out=may_roll_out, now="2026-01-01T00:00:00Z")
        for action in decision.actions:
            world.act(action)
        return [type(action) for action in decision.actions]

    def seen() -> tuple[int, str]:
        spec = plane.api.must_get("statefulsets", namespace, "alpha")["spec"]
        return spec["replicas"], spec["template"]["spec"]["containers"][0]["image"]

    world.edit({"replicas": 3})
    assert act(may_roll_out=False) == [Scale]
    assert seen() == (3, SETTINGS.cell_image)
    assert act(may_roll_out=False) == []
    assert act(may_roll_out=True) == [Apply]
    assert seen() == (3, settings.cell_image)
    world.edit({"replicas": 1})
    assert set(act(may_roll_out=False)) == {Delete, Apply}
    assert seen() == (1, settings.cell_image)
    assert act(may_roll_out=False) == []


def test_storage_grows_while_the_pods_run(plane: ControlPlane, namespace: str, controllers: Any) -> None:
    """The claims grow, the StatefulSet is made anew, and the pods and claims are the ones that were there.

    Even where claims are to go with their StatefulSet: here it goes without what it owns.
    """
    make_storage_class(plane.api, "grows", expandable=True)
    controllers("statefulset-controller", "garbage-collector-controller")
    storage = {"size": "1Gi", "className": "grows", "retention": {"whenDeleted": "Delete"}}
    world = World(plane, namespace, {"replicas": 2, "storage": storage})
    with Kubelet(plane, namespace):
        world.reconcile()
        eventually(lambda: ready(world) == ("True", "InstancesReady"), within=20)
        eventually(lambda: all(owners(claim) for claim in world.observed().claims), within=20)
        before = identities(world)
        world.edit({"storage": {"size": "2Gi"}})
        (grow,) = {type(action) for action in world.decide().actions if not isinstance(action, Apply)}
        assert grow is ResizeClaim
        eventually(lambda: not world.reconcile(passes=2) and size(world) == "2Gi", within=20)
        for claim in world.observed().claims:
            bind_claim(plane.api, namespace, claim["metadata"]["name"], capacity="2Gi")
        eventually(lambda: ready(world) == ("True", "InstancesReady"), within=20)
        eventually(lambda: all(owners(claim) for claim in world.observed().claims), within=20)
        assert identities(world) == before
        assert condition(world, "StorageReady") == ("True", "Bound")


def test_storage_that_cannot_grow_stays_while_other_changes_get_through(
    plane: ControlPlane, namespace: str, controllers: Any
) -> None:
    """The StatefulSet keeps its size, takes the new port, and the Cell says what it cannot have."""
    make_storage_class(plane.api, "fixed", expandable=False)
    controllers("statefulset-controller")
    world = World(plane, namespace, {"storage": {"size": "1Gi", "className": "fixed"}})
    with Kubelet(plane, namespace):
        world.reconcile()
        eventually(lambda: ready(world) == ("True", "InstancesReady"), within=20)
        world.edit({"storage": {"size": "2Gi"}, "port": 9000})
        assert not [action for action in world.reconcile() if isinstance(action, (Delete, ResizeClaim))]
        assert condition(world, "StorageReady") == ("False", "ExpansionNotSupported")
        assert size(world) == "1Gi"
        assert world.template["containers"][0]["ports"][0]["containerPort"] == 9000


def test_why_pods_cannot_be_made_is_said(plane: ControlPlane, namespace: str, controllers: Any) -> None:
    """A quota's refusal is an Event of the StatefulSet and nowhere else."""
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    plane.api.create("resourcequotas", namespace, quota)
    status = {"status": {"hard": {"pods": "0"}, "used": {"pods": "0"}}}
    plane.api.patch("resourcequotas", namespace, "none", status, subresource="status")
    controllers("statefulset-controller")
    world = World(plane, namespace, {})
    world.reconcile()
    eventually(lambda: ready(world) == ("False", "QuotaExceeded"), within=20)


def condition(world: World, kind: str) -> tuple[str, str]:
    """Return status and reason of a condition, as it would be reported now."""
    (found,) = [item for item in world.decide().status["conditions"] if item["type"] == kind]
    return found["status"], found["reason"]


def ready(world: World) -> tuple[str, str]:
    """Return status and reason of Ready, as it would be reported now."""
    return condition(world, "Ready")


def size(world: World) -> str | None:
    """Return the storage in the StatefulSet's claim template; None while there is no StatefulSet."""
    live = world.api.get(STATEFUL_SETS.plural, world.namespace, "alpha")
    if live is None:
        return None
    (template,) = live["spec"]["volumeClaimTemplates"]
    return str(template["spec"]["resources"]["requests"]["storage"])


def identities(world: World) -> set[str]:
    """Return the uids of pods and claims."""
    observed = world.observed()
    return {item["metadata"]["uid"] for item in (*observed.pods, *observed.claims)}


def owners(item: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the owner references of an object."""
    found: list[dict[str, Any]] = item["metadata"].get("ownerReferences", [])
    return found
