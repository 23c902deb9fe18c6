"""Live objects against what was applied."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from cellmesh_operator.decisions.cells import read_cell
from cellmesh_operator.decisions.comparing import additions, changed
from cellmesh_operator.decisions.resources import build_service, build_stateful_set
from reconciled import SETTINGS, UID, a_cell, stored

AUTHORS = {
    "resources": {"limits": {"cpu": "1", "memory": "1Gi"}},
    "env": [{"name": "A", "value": "b"}],
    "template": {
        "volumes": [{"name": "v", "emptyDir": {}}],
        "containers": [{"name": "side", "image": "side:1", "ports": [{"containerPort": 1}]}],
        "initContainers": [{"name": "first", "image": "first:1"}],
    },
}


def desired() -> dict[str, Any]:
    """Return the StatefulSet of a Cell with containers and volumes of its author."""
    return build_stateful_set(read_cell(a_cell(AUTHORS)), SETTINGS)


def live() -> dict[str, Any]:
    """Return it as the API server answers it."""
    return stored(desired())


def pod(stateful_set: dict[str, Any]) -> dict[str, Any]:
    """Return the pod's spec of a StatefulSet."""
    found: dict[str, Any] = stateful_set["spec"]["template"]["spec"]
    return found


@pytest.mark.parametrize("body", [desired(), build_service(read_cell(a_cell()))], ids=["StatefulSet", "Service"])
def test_defaults_of_the_api_server_are_no_change(body: dict[str, Any]) -> None:
    """What the API server fills in, or leaves out because it is false, is not seen as anybody's doing."""
    assert changed(body, stored(body)) == ()


def test_defaults_of_the_api_server_are_no_additions() -> None:
    """Nor in the parts where additions count."""
    assert additions(pod(desired()), pod(live())).paths == ()


@pytest.mark.parametrize(
    ("want", "have", "same"),
    [
        ({"limits": {"cpu": "1000m"}}, {"limits": {"cpu": "1"}}, True),
        ({"limits": {"cpu": 1}}, {"limits": {"cpu": "1"}}, True),
        ({"requests": {"memory": "1024Mi"}}, {"requests": {"memory": "1Gi"}}, True),
        ({"requests": {"memory": "1Gi"}}, {"requests": {"memory": "1G"}}, False),
        ({"sizeLimit": "0.5Gi"}, {"sizeLimit": "512Mi"}, True),
        ({"image": "1000m"}, {"image": "1"}, False),
        ({"env": [{"name": "a", "value": "1000m"}]}, {"env": [{"name": "a", "value": "1"}]}, False),
        ({"a": False}, {}, True),
        ({"a": 0}, {}, True),
        ({"automountServiceAccountToken": False}, {}, False),
        ({"allowPrivilegeEscalation": False}, {}, False),
        ({"enableServiceLinks": False}, {}, False),
        ({"a": {}}, {}, True),
        ({"a": {}}, {"a": {"b": 1}}, True),
        ({"a": []}, {}, True),
        ({"a": []}, {"a": [1]}, False),
        ({"a": ""}, {}, True),
        ({"a": ""}, {"a": "b"}, False),
        ({"a": "b"}, {}, False),
        ({"a": {"b": 1}}, {"a": 1}, False),
        ({"a": [1]}, {"a": 1}, False),
        ({"args": ["a", "b"]}, {"args": ["b", "a"]}, False),
        ({"args": ["a"]}, {"args": ["a", "b"]}, False),
        ({"tolerations": [{"key": "k"}]}, {"tolerations": [{"key": "k", "operator": "Equal"}]}, True),
        ({"env": [{"name": "a"}]}, {"env": [{"name": "b"}, {"name": "a"}]}, True),
        ({"env": [{"name": "a"}, {"name": "b"}]}, {"env": [{"name": "b"}]}, False),
        ({"ports": [{"containerPort": 1}]}, {"ports": [{"containerPort": 1, "protocol": "TCP"}]}, True),
        ({"ports": [{"containerPort": 1, "protocol": "UDP"}]}, {"ports": [{"containerPort": 1}]}, False),
    ],
)
def test_fields_are_compared_by_what_they_mean(want: dict[str, Any], have: dict[str, Any], *, same: bool) -> None:
    """Quantities by value, named items by name, all else as it stands; more in the live object is fine."""
    assert (changed(want, have) == ()) == same


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("spec", "replicas"), 5, "spec.replicas"),
        (("metadata", "labels", "app.kubernetes.io/name"), "x", "metadata.labels[app.kubernetes.io/name]"),
        (("metadata", "ownerReferences"), [], f"metadata.ownerReferences[{UID}]"),
        (("spec", "updateStrategy", "rollingUpdate", "partition"), 1, "spec.updateStrategy.rollingUpdate.partition"),
        (("spec", "template", "spec", "serviceAccountName"), "admin", "spec.template.spec.serviceAccountName"),
        (("spec", "template", "spec", "containers", 0, "image"), "x", "spec.template.spec.containers[cell].image"),
        (
            ("spec", "template", "spec", "containers", 0, "env", 3, "value"),
            "x",
            "spec.template.spec.containers[cell].env[CELLMESH_CELL_ID].value",
        ),
        (
            ("spec", "template", "spec", "containers", 0, "resources", "limits", "cpu"),
            "2",
            "spec.template.spec.containers[cell].resources.limits.cpu",
        ),
    ],
)
def test_a_field_that_somebody_changed_is_named(path: tuple[Any, ...], value: Any, said: str) -> None:
    """Fields of ours with another value, each by its path."""
    found = live()
    target = found
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = value
    assert changed(desired(), found) == (said,)


def test_a_field_that_somebody_removed_is_named() -> None:
    """A container, a probe, a label that is gone."""
    found = live()
    del pod(found)["containers"][1]
    del pod(found)["containers"][0]["livenessProbe"]
    assert changed(desired(), found) == (
        "spec.template.spec.containers[cell].livenessProbe",
        "spec.template.spec.containers[side]",
    )


@pytest.mark.parametrize(
    ("place", "name", "value"),
    [
        ("template", "annotations", {"kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z"}),
        ("template", "labels", {"cost-centre": "7"}),
        ("object", "annotations", {"note": "x"}),
        ("object", "finalizers", ["x/y"]),
        ("pod", "tolerations", [{"key": "k", "operator": "Exists"}]),
        ("pod", "nodeSelector", {"a": "b"}),
        ("pod", "imagePullSecrets", [{"name": "p"}]),
        ("pod", "priorityClassName", "high"),
    ],
)
def test_what_others_may_add_is_left_alone(place: str, name: str, value: Any) -> None:
    """Annotations, so that ``kubectl rollout restart`` works, labels, and where pods are placed."""
    found = live()
    target = {"template": found["spec"]["template"]["metadata"], "object": found["metadata"], "pod": pod(found)}[place]
    target[name] = {**target.get(name, {}), **value} if isinstance(value, dict) else value
    assert changed(desired(), found) == ()
    assert additions(pod(desired()), pod(found)).paths == ()


@pytest.mark.parametrize(
    ("where", "added", "said"),
    [
        (None, {"hostNetwork": True}, "hostNetwork"),
        (None, {"hostPID": True}, "hostPID"),
        (None, {"hostIPC": True}, "hostIPC"),
        (None, {"shareProcessNamespace": True}, "shareProcessNamespace"),
        (None, {"hostAliases": [{"ip": "10.0.0.1", "hostnames": ["cellmesh-discovery"]}]}, "hostAliases"),
        (None, {"dnsConfig": {"nameservers": ["10.0.0.1"]}}, "dnsConfig"),
        (None, {"dnsPolicy": "None"}, "dnsPolicy"),
        (None, {"runtimeClassName": "x"}, "runtimeClassName"),
        (None, {"nodeName": "x"}, "nodeName"),
        ("securityContext", {"sysctls": [{"name": "a", "value": "b"}]}, "securityContext.sysctls"),
        ("securityContext", {"supplementalGroups": [0]}, "securityContext.supplementalGroups"),
        ("cell", {"command": ["sh"]}, "containers[cell].command"),
        ("cell", {"args": ["x"]}, "containers[cell].args"),
        ("cell", {"envFrom": [{"secretRef": {"name": "s"}}]}, "containers[cell].envFrom"),
        ("cell", {"lifecycle": {"preStop": {}}}, "containers[cell].lifecycle"),
        ("cell", {"volumeDevices": [{"devicePath": "/dev/x", "name": "v"}]}, "containers[cell].volumeDevices"),
        ("cell.securityContext", {"privileged": True}, "containers[cell].securityContext.privileged"),
        ("cell.securityContext", {"runAsUser": 0}, "containers[cell].securityContext.runAsUser"),
        ("cell.securityContext", {"runAsNonRoot": False}, "containers[cell].securityContext.runAsNonRoot"),
        (
            "cell.securityContext",
            {"seccompProfile": {"type": "Unconfined"}},
            "containers[cell].securityContext.seccompProfile",
        ),
        ("cell.capabilities", {"add": ["SYS_ADMIN"]}, "containers[cell].securityContext.capabilities.add"),
        ("cell.readinessProbe", {"exec": {"command": ["true"]}}, "containers[cell].readinessProbe.exec"),
        ("cell.ports", {"hostPort": 8000}, "containers[cell].ports[8000/TCP].hostPort"),
        ("cell.env", {"valueFrom": {}}, "containers[cell].env[CELLMESH_CELL_ID].valueFrom"),
        ("first", {"command": ["sh"]}, "initContainers[first].command"),
        ("volume", {"hostPath": {"path": "/"}}, "volumes[tmp].hostPath"),
    ],
)
def test_what_others_add_where_it_matters_is_seen(where: str | None, added: dict[str, Any], said: str) -> None:
    """The host's namespaces, other names for discovery, other commands, rights, ports, environments, volumes."""
    found = live()
    spec = pod(found)
    cell = spec["containers"][0]
    targets = {
        None: spec,
        "securityContext": spec["securityContext"],
        "cell": cell,
        "cell.securityContext": cell["securityContext"],
        "cell.capabilities": cell["securityContext"]["capabilities"],
        "cell.readinessProbe": cell["readinessProbe"],
        "cell.ports": cell["ports"][0],
        "cell.env": cell["env"][3],
        "first": spec["initContainers"][0],
        "volume": spec["volumes"][0],
    }
    targets[where] |= added
    assert additions(pod(desired()), spec).paths == (said,)


@pytest.mark.parametrize("name", ["containers", "initContainers", "volumes"])
def test_a_container_or_volume_too_many_is_seen(name: str) -> None:
    """Whoever added it."""
    found = live()
    pod(found)[name].append({"name": "more"})
    assert additions(pod(desired()), pod(found)).paths == (f"{name}[more]",)


@pytest.mark.parametrize(
    ("name", "item", "said"),
    [
        ("env", {"name": "LD_PRELOAD", "value": "x"}, "containers[cell].env[LD_PRELOAD]"),
        ("volumeMounts", {"name": "v", "mountPath": "/v"}, "containers[cell].volumeMounts[/v]"),
        ("ports", {"containerPort": 22, "protocol": "TCP"}, "containers[cell].ports[22/TCP]"),
    ],
)
def test_an_item_too_many_in_a_container_is_seen(name: str, item: dict[str, Any], said: str) -> None:
    """A variable, a mount, a port that is not ours."""
    found = live()
    pod(found)["containers"][0][name].append(item)
    assert additions(pod(desired()), pod(found)).paths == (said,)


def test_init_containers_where_there_should_be_none_are_seen() -> None:
    """The whole list is an addition then, and is taken away whole."""
    want = build_stateful_set(read_cell(a_cell()), SETTINGS)
    found = stored(want)
    pod(found)["initContainers"] = [{"name": "x"}]
    seen = additions(pod(want), pod(found))
    assert (seen.paths, seen.patch) == (("initContainers",), {"initContainers": None})


@pytest.mark.parametrize(
    "tightening",
    [
        {"runAsNonRoot": True},
        {"privileged": False},
        {"seccompProfile": {"type": "RuntimeDefault"}},
        {"appArmorProfile": {"type": "RuntimeDefault"}},
    ],
)
def test_taking_rights_away_is_left_alone(tightening: dict[str, Any]) -> None:
    """Policy engines do it everywhere; undoing it would start a fight over nothing."""
    found = live()
    pod(found)["containers"][0]["securityContext"] |= tightening
    assert additions(pod(desired()), pod(found)).paths == ()


def test_the_patch_takes_away_what_was_added_and_nothing_else() -> None:
    """Added fields become null, lists with additions are replaced by ours, the rest is not touched."""
    found = live()
    spec = pod(found)
    spec["hostNetwork"] = True
    spec["securityContext"]["sysctls"] = [{"name": "a", "value": "b"}]
    spec["volumes"].append({"name": "host", "hostPath": {"path": "/"}})
    assert additions(pod(desired()), spec).patch == {
        "hostNetwork": None,
        "securityContext": {"sysctls": None},
        "volumes": pod(desired())["volumes"],
    }


def test_comparing_changes_nothing() -> None:
    """Both objects stay as they are."""
    want, have = desired(), live()
    before = copy.deepcopy((want, have))
    changed(want, have)
    additions(pod(want), pod(have))
    assert (want, have) == before
