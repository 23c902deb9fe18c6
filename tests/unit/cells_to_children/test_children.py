"""The children that a Cell is turned into."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from cellmesh.settings import Settings
from cellmesh_operator.decisions.cells import read_cell
from cellmesh_operator.decisions.resources import (
    build_pod_disruption_budget,
    build_service,
    build_service_account,
    build_stateful_set,
)
from reconciled import SETTINGS, UID, a_cell

LABELS = {
    "cellmesh.dev/cell": "alpha",
    "app.kubernetes.io/name": "cellmesh-cell",
    "app.kubernetes.io/instance": "alpha",
    "app.kubernetes.io/component": "cell",
    "app.kubernetes.io/part-of": "cellmesh",
    "app.kubernetes.io/managed-by": "cellmesh-reconciler",
}
METADATA = {
    "name": "alpha",
    "namespace": "mesh",
    "labels": LABELS,
    "ownerReferences": [
        {
            "apiVersion": "cellmesh.dev/v1alpha1",
            "kind": "Cell",
            "name": "alpha",
            "uid": UID,
            "controller": True,
            "blockOwnerDeletion": False,
        }
    ],
}


def stateful_set(spec: dict[str, Any] | None = None, **settings: Any) -> dict[str, Any]:
    """Return the StatefulSet of a Cell."""
    return build_stateful_set(read_cell(a_cell(spec)), dataclasses.replace(SETTINGS, **settings))


def pod(template: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    """Return the spec of a Cell's pods."""
    found: dict[str, Any] = stateful_set({**spec, "template": template or {}})["spec"]["template"]["spec"]
    return found


def environment(**spec: Any) -> dict[str, Any]:
    """Return the variables of a cell's container by name."""
    return {item["name"]: item.get("value", item.get("valueFrom")) for item in pod(**spec)["containers"][0]["env"]}


def test_the_service_account_of_a_cell_has_no_token() -> None:
    """An identity of the cell's own, bound to it, and nothing in it to log in with."""
    assert build_service_account(read_cell(a_cell())) == {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": METADATA,
        "automountServiceAccountToken": False,
    }


def test_the_service_account_bears_the_authors_annotations_but_none_of_ours() -> None:
    """Annotations are how clouds tie accounts to roles; names below our prefix are not the author's."""
    cell = read_cell(a_cell({"serviceAccount": {"annotations": {"cloud/role": "r", "cellmesh.dev/spec-hash": "x"}}}))
    assert build_service_account(cell)["metadata"]["annotations"] == {"cloud/role": "r"}


def test_the_service_is_headless_and_names_ready_instances_only() -> None:
    """DNS leads people to instances that take messages; cells find each other without it."""
    assert build_service(read_cell(a_cell({"port": 9000}))) == {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": METADATA,
        "spec": {
            "type": "ClusterIP",
            "clusterIP": "None",
            "publishNotReadyAddresses": False,
            "selector": {"cellmesh.dev/cell": "alpha"},
            "ports": [{"name": "cell", "port": 9000, "targetPort": "cell", "protocol": "TCP", "appProtocol": "http"}],
        },
    }


@pytest.mark.parametrize("replicas", [0, 1])
def test_a_single_instance_has_no_disruption_budget(replicas: int) -> None:
    """A budget for one instance would say nothing, or block every node drain."""
    assert build_pod_disruption_budget(read_cell(a_cell({"replicas": replicas}))) is None


def test_of_several_instances_one_may_be_evicted_at_a_time() -> None:
    """One at a time, and those that are not ready always."""
    assert build_pod_disruption_budget(read_cell(a_cell({"replicas": 2}))) == {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": METADATA,
        "spec": {
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": {"cellmesh.dev/cell": "alpha"}},
        },
    }


def test_the_stateful_set_of_a_cell_that_says_nothing() -> None:
    """The whole object, as it is applied for a Cell with an empty spec."""

    def setting(name: str, value: str) -> dict[str, Any]:
        return {"name": f"CELLMESH_{name}", "value": value}

    def field(name: str, path: str) -> dict[str, Any]:
        return {"name": f"CELLMESH_{name}", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}

    def probe(path: str, period: int, timeout: int, failures: int) -> dict[str, Any]:
        return {
            "httpGet": {"path": path, "port": "cell", "scheme": "HTTP"},
            "periodSeconds": period,
            "timeoutSeconds": timeout,
            "failureThreshold": failures,
        }

    def spread(key: str) -> dict[str, Any]:
        return {
            "maxSkew": 1,
            "topologyKey": key,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": {"cellmesh.dev/cell": "alpha"}},
        }

    found = stateful_set()
    assert found.pop("metadata") == METADATA | {
        "annotations": {"cellmesh.dev/spec-hash": read_cell(a_cell()).spec_hash}
    }
    assert found == {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "spec": {
            "replicas": 1,
            "serviceName": "alpha",
            "podManagementPolicy": "Parallel",
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
            "selector": {"matchLabels": {"cellmesh.dev/cell": "alpha"}},
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"},
            "volumeClaimTemplates": [
                {
                    "apiVersion": "v1",
                    "kind": "PersistentVolumeClaim",
                    "metadata": {"name": "inbox", "labels": LABELS},
                    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
                }
            ],
            "template": {
                "metadata": {"labels": LABELS},
                "spec": {
                    "serviceAccountName": "alpha",
                    "automountServiceAccountToken": False,
                    "enableServiceLinks": False,
                    "terminationGracePeriodSeconds": 35,
                    "securityContext": {
                        "runAsNonRoot": True,
                        "runAsUser": 65532,
                        "runAsGroup": 65532,
                        "fsGroup": 65532,
                        "fsGroupChangePolicy": "OnRootMismatch",
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}}],
                    "topologySpreadConstraints": [
                        spread("kubernetes.io/hostname"),
                        spread("topology.kubernetes.io/zone"),
                    ],
                    "containers": [
                        {
                            "name": "cell",
                            "image": "cellmesh-cell:1",
                            "imagePullPolicy": "IfNotPresent",
                            "ports": [{"name": "cell", "containerPort": 8000, "protocol": "TCP"}],
                            "env": [
                                field("INSTANCE", "metadata.name"),
                                field("UID", "metadata.uid"),
                                field("NAMESPACE", "metadata.namespace"),
                                setting("CELL_ID", "alpha"),
                                setting("HOST", "0.0.0.0"),  # noqa: S104
                                setting("PORT", "8000"),
                                setting(
                                    "ALLOWED_HOSTS",
                                    "alpha.mesh,alpha.mesh.svc,alpha.mesh.svc.cluster.local,"
                                    "$(CELLMESH_INSTANCE).alpha,$(CELLMESH_INSTANCE).alpha.mesh,"
                                    "$(CELLMESH_INSTANCE).alpha.mesh.svc,"
                                    "$(CELLMESH_INSTANCE).alpha.mesh.svc.cluster.local",
                                ),
                                setting("DATA_DIR", "/var/lib/cellmesh/inbox"),
                                setting("DURABILITY", "volume"),
                                setting("REGISTER", "false"),
                                setting("DISCOVERY_URL", "http://cellmesh-discovery.system:8001/meshes/mesh"),
                                setting("MAX_MESSAGES", "1000000"),
                                setting("MAX_BYTES", "536870912"),
                                setting("HISTORY", "10000"),
                                setting("DEDUPE_WINDOW", "600"),
                                setting("MAX_DELIVERIES", "5"),
                                setting("DRAIN_ACCEPT", "2"),
                                setting("DRAIN_TIMEOUT", "25"),
                            ],
                            "resources": {"requests": {"cpu": "50m", "memory": "96Mi"}},
                            "volumeMounts": [
                                {"name": "inbox", "mountPath": "/var/lib/cellmesh"},
                                {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
                            ],
                            "securityContext": {
                                "allowPrivilegeEscalation": False,
                                "capabilities": {"drop": ["ALL"]},
                                "readOnlyRootFilesystem": True,
                            },
                            "startupProbe": probe("/livez", 1, 1, 300),
                            "readinessProbe": probe("/readyz", 1, 1, 3),
                            "livenessProbe": probe("/livez", 10, 5, 6),
                        }
                    ],
                },
            },
        },
    }


def test_every_variable_is_a_setting_of_a_cell() -> None:
    """A name that the cell does not know would be a setting without effect."""
    names = {f"CELLMESH_{item.name.upper()}" for item in dataclasses.fields(Settings)}
    assert set(environment()) <= names


def test_a_cell_starts_with_the_environment_that_it_is_given() -> None:
    """The cell's own reader takes every value and means the same by it."""
    given = environment(
        port=9000,
        mailbox={"maxMessages": 5, "maxBytes": "1500k", "history": 7, "dedupeWindow": 9, "maxDeliveries": 3},
        storage={"ephemeral": {}},
    )
    settings = Settings.from_environ({name: value for name, value in given.items() if isinstance(value, str)})
    assert (settings.cell_id, settings.port, settings.durability, settings.register) == (
        "alpha",
        9000,
        "ephemeral",
        False,
    )
    assert (settings.max_messages, settings.max_bytes, settings.history, settings.dedupe_window) == (5, 1_500_000, 7, 9)
    assert settings.max_deliveries == 3
    assert settings.discovery_url == "http://cellmesh-discovery.system:8001/meshes/mesh"


@pytest.mark.parametrize(
    ("handler", "url"),
    [
        ({"port": 9000}, "http://127.0.0.1:9000/"),
        ({"port": 9000, "path": "/on-message"}, "http://127.0.0.1:9000/on-message"),
        ({"url": "http://pure-handler:80/$(HOME)"}, "http://pure-handler:80/$(HOME)"),
    ],
)
def test_a_cell_is_told_of_its_handler(handler: dict[str, Any], url: str) -> None:
    """A port is one of the pod itself; what the kubelet would expand arrives as it was written."""
    more = {"timeoutSeconds": 5, "maxConcurrency": 2, "types": ["query", "a $(b)"]}
    given = {
        name: value.replace("$$", "$")
        for name, value in environment(handler={**handler, **more}).items()
        if isinstance(value, str) and "HANDLER" in name
    }
    settings = Settings.from_environ({"CELLMESH_CELL_ID": "alpha", **given})
    assert (settings.handler_url, settings.handler_timeout, settings.handler_concurrency) == (url, 5.0, 2)
    assert settings.handler_types == ("query", "a $(b)")
    assert "$(" not in environment(handler={"url": "http://a/$(HOME)"})["CELLMESH_HANDLER_URL"].replace("$$", "")


def test_a_cell_is_told_of_its_app_where_the_manifest_names_one() -> None:
    """Otherwise of none, so that an image can bring its own."""
    assert environment(app="word_count:cell")["CELLMESH_APP"] == "word_count:cell"
    assert "CELLMESH_APP" not in environment()


def test_a_cell_without_a_handler_is_told_nothing_of_one() -> None:
    """Its pods stay as they were before there were handlers."""
    assert [name for name in environment() if "HANDLER" in name] == []


def test_scaling_leaves_the_pods_as_they_are() -> None:
    """The template does not depend on the number of instances, or scaling would restart those that are there."""
    one, three = stateful_set({"replicas": 1}), stateful_set({"replicas": 3})
    assert one["spec"]["template"] == three["spec"]["template"]


@pytest.mark.parametrize("spec", [{"type": "pure"}, {"branch": "main"}, {"services": ["code-analysis"]}])
def test_what_only_peers_see_changes_no_child(spec: dict[str, Any]) -> None:
    """Type, branch and services are discovery's to show; nothing of them is applied."""
    assert stateful_set(spec) == stateful_set()


@pytest.mark.parametrize(
    ("grace", "accept", "timeout"),
    [(35, "2", "25"), (300, "2", "290"), (15, "2", "7.5"), (5, "2", "2.5"), (2, "1", "1")],
)
def test_the_drain_fits_into_the_grace_period(grace: int, accept: str, timeout: str) -> None:
    """Ten seconds, or half of a short period, are kept for closing down after the drain."""
    given = environment(template={"terminationGracePeriodSeconds": grace})
    assert (given["CELLMESH_DRAIN_ACCEPT"], given["CELLMESH_DRAIN_TIMEOUT"]) == (accept, timeout)


def test_an_ephemeral_cell_has_an_empty_dir_and_no_claims() -> None:
    """The inbox lives in the pod, within the size limit if there is one, and receipts say so."""
    found = stateful_set({"storage": {"ephemeral": {"sizeLimit": "2Gi"}}})["spec"]
    assert {"name": "inbox", "emptyDir": {"sizeLimit": "2Gi"}} in found["template"]["spec"]["volumes"]
    assert {"volumeClaimTemplates", "persistentVolumeClaimRetentionPolicy"} & set(found) == set()
    assert environment(storage={"ephemeral": {}})["CELLMESH_DURABILITY"] == "ephemeral"
    assert {"name": "inbox", "emptyDir": {}} in pod(storage={"ephemeral": {}})["volumes"]


def test_storage_is_claimed_as_the_cell_says() -> None:
    """Size, class, access modes and retention reach the StatefulSet."""
    storage = {
        "size": "5Gi",
        "className": "fast",
        "accessModes": ["ReadWriteOncePod"],
        "retention": {"whenDeleted": "Delete", "whenScaled": "Retain"},
    }
    found = stateful_set({"storage": storage})["spec"]
    assert found["volumeClaimTemplates"][0]["spec"] == {
        "accessModes": ["ReadWriteOncePod"],
        "resources": {"requests": {"storage": "5Gi"}},
        "storageClassName": "fast",
    }
    assert found["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Delete", "whenScaled": "Retain"}


def test_an_image_and_its_pull_policy_come_from_the_cell_first() -> None:
    """What the Cell says wins over the reconciler's settings; where nobody says anything the API server decides."""
    (container,) = pod(image="mine:2", imagePullPolicy="Always")["containers"]
    assert (container["image"], container["imagePullPolicy"]) == ("mine:2", "Always")
    (container,) = stateful_set(image_pull_policy="")["spec"]["template"]["spec"]["containers"]
    assert "imagePullPolicy" not in container


def test_resources_of_the_author_replace_the_default_ones() -> None:
    """They are taken whole: a limit alone must not meet a request that is higher."""
    resources = {"limits": {"memory": "64Mi"}}
    assert pod(resources=resources)["containers"][0]["resources"] == resources


def test_variables_of_the_author_arrive_as_written() -> None:
    """The kubelet expands $(NAME) in values; the schema promises that nothing is expanded."""
    given = environment(env=[{"name": "PRICE", "value": "$5 $(HOME) $$"}, {"name": "EMPTY"}])
    assert given["PRICE"] == "$$5 $$(HOME) $$$$"
    assert given["EMPTY"] == ""


def test_variables_may_come_from_secrets_and_config_maps() -> None:
    """References are handed on as they are, single ones and whole objects."""
    reference = {"secretKeyRef": {"name": "s", "key": "k"}}
    sources = [{"configMapRef": {"name": "c"}}]
    (container,) = pod(env=[{"name": "KEY", "valueFrom": reference}], envFrom=sources)["containers"]
    assert container["env"][-1] == {"name": "KEY", "valueFrom": reference}
    assert container["envFrom"] == sources


def test_a_tmp_of_the_author_replaces_ours() -> None:
    """Two volumes cannot be mounted at one place."""
    mount = {"name": "scratch", "mountPath": "/tmp/"}  # noqa: S108
    (container,) = pod({"volumes": [{"name": "scratch", "emptyDir": {}}]}, volumeMounts=[mount])["containers"]
    assert container["volumeMounts"] == [{"name": "inbox", "mountPath": "/var/lib/cellmesh"}, mount]


def test_what_a_template_says_of_placing_reaches_the_pods() -> None:
    """Fields of the template that are fields of a pod stand in the pod's spec as they are."""
    template = {
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "k", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {"x": 1}},
        "imagePullSecrets": [{"name": "pull"}],
        "priorityClassName": "high",
        "runtimeClassName": "gvisor",
        "dnsConfig": {"searches": ["x"]},
        "topologySpreadConstraints": [{"maxSkew": 2, "topologyKey": "k", "whenUnsatisfiable": "DoNotSchedule"}],
        "terminationGracePeriodSeconds": 60,
    }
    found = pod(template)
    assert {name: found[name] for name in template} == template


def test_an_empty_list_of_spread_constraints_means_none() -> None:
    """Only where the author says nothing are instances spread."""
    assert pod({"topologySpreadConstraints": []})["topologySpreadConstraints"] == []


def test_labels_and_annotations_of_the_author_are_on_the_pods_and_never_ours() -> None:
    """What we select by and count on cannot be overwritten."""
    metadata = {
        "labels": {"team": "a", "cellmesh.dev/cell": "other", "app.kubernetes.io/name": "other"},
        "annotations": {"note": "b", "cellmesh.dev/applied-hash": "x"},
    }
    found = stateful_set({"template": {"metadata": metadata}})["spec"]["template"]["metadata"]
    assert found == {"labels": {**LABELS, "team": "a"}, "annotations": {"note": "b"}}


def test_containers_of_the_author_stand_beside_the_cell_and_are_confined() -> None:
    """They come after the cell's own, held to the restricted standard in what they leave open."""
    sidecar = {
        "name": "side",
        "image": "side:1",
        "securityContext": {"runAsUser": 1000, "capabilities": {"add": ["X"]}},
    }
    found = pod({"containers": [sidecar], "initContainers": [{"name": "first", "image": "first:1"}]})
    assert [container["name"] for container in found["containers"]] == ["cell", "side"]
    assert found["containers"][1]["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "runAsUser": 1000,
        "capabilities": {"drop": ["ALL"], "add": ["X"]},
    }
    (first,) = found["initContainers"]
    assert first["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def test_without_discovery_a_cell_is_given_none() -> None:
    """An empty base URL stays empty, so that none comes in by another way."""
    (container,) = stateful_set(discovery_url="")["spec"]["template"]["spec"]["containers"]
    assert {"name": "CELLMESH_DISCOVERY_URL", "value": ""} in container["env"]
