"""The harness itself: what other tests of this level rely on."""

from __future__ import annotations

import contextlib
import http.client
import time
from collections.abc import Callable
from typing import Any

import pytest

from apiserver.api import Refused
from apiserver.control_plane import ControlPlane
from apiserver.stand_ins import Kubelet, bind_claim, block_pod, make_storage_class, run_pod
from apiserver.wire import Wire
from support import eventually

LABELS = {"app": "sample"}


def container(**more: Any) -> dict[str, Any]:
    """Return a container that `restricted` lets through."""
    security = {
        "runAsNonRoot": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    return {"name": "main", "image": "sample:1", "securityContext": security, **more}


def stateful_set(replicas: int) -> dict[str, Any]:
    """Return a StatefulSet with a volume."""
    claim = {
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": "sample"},
        "spec": {
            "replicas": replicas,
            "serviceName": "sample",
            "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": LABELS},
            "template": {
                "metadata": {"labels": LABELS},
                "spec": {"serviceAccountName": "runner", "containers": [container()]},
            },
            "volumeClaimTemplates": [claim],
        },
    }


def test_a_service_account_may_do_what_its_rules_say_and_nothing_else(plane: ControlPlane, namespace: str) -> None:
    """RBAC is on: tokens of ServiceAccounts are bound by it."""
    rules = [{"apiGroups": ["cellmesh.dev"], "resources": ["cells"], "verbs": ["list"]}]
    api = plane.api_as(plane.service_account(namespace, "reader", rules))

    assert api.list("cells", namespace) == []
    with pytest.raises(Refused, match="403"):
        api.list("pods", namespace)


def test_a_pod_that_breaks_restricted_is_refused(plane: ControlPlane, namespace: str) -> None:
    """Pod Security is enforced in the namespaces of tests."""
    plane.service_account(namespace, "runner")
    spec = {"serviceAccountName": "runner", "containers": [{"name": "main", "image": "sample:1"}]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "sample"}, "spec": spec}

    with pytest.raises(Refused, match='violates PodSecurity "restricted'):
        plane.api.create("pods", namespace, pod)


def test_controllers_and_stand_ins_bring_a_stateful_set_up_and_down(
    plane: ControlPlane, namespace: str, controllers: Callable[..., None]
) -> None:
    """Pods become Ready with an address, and go when they are deleted."""
    plane.service_account(namespace, "runner")
    controllers("statefulset-controller")
    with Kubelet(plane, namespace):
        plane.api.create("statefulsets", namespace, stateful_set(2))

        def ready() -> bool:
            return plane.api.must_get("statefulsets", namespace, "sample")["status"].get("readyReplicas") == 2

        eventually(ready, within=30)
        addresses = {pod["status"]["podIP"] for pod in plane.api.list("pods", namespace)}
        plane.api.patch("statefulsets", namespace, "sample", {"spec": {"replicas": 0}})
        eventually(lambda: plane.api.list("pods", namespace) == [], within=30)

    assert len(addresses) == 2


def test_a_pod_can_be_blocked_and_run_by_hand(plane: ControlPlane, namespace: str) -> None:
    """Statuses that a kubelet would report are reported."""
    plane.service_account(namespace, "runner")
    spec = {"serviceAccountName": "runner", "containers": [container()]}
    plane.api.create("pods", namespace, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}, "spec": spec})

    block_pod(plane.api, namespace, "one", "ImagePullBackOff", "no such image")
    waiting = plane.api.must_get("pods", namespace, "one")["status"]["containerStatuses"][0]["state"]["waiting"]
    ip = run_pod(plane.api, namespace, "one")
    pod = plane.api.must_get("pods", namespace, "one")

    assert waiting["reason"] == "ImagePullBackOff"
    assert pod["status"]["podIP"] == ip
    assert pod["spec"]["nodeName"] == "node-a"


def test_a_bound_claim_grows_where_its_class_lets_it(plane: ControlPlane, namespace: str) -> None:
    """The API server itself refuses growth that the class does not allow."""
    for name, expandable in (("elastic", True), ("stiff", False)):
        make_storage_class(plane.api, name, expandable=expandable)
        wanted = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
        claim = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": name},
            "spec": {**wanted, "storageClassName": name},
        }
        plane.api.create("persistentvolumeclaims", namespace, claim)
        bind_claim(plane.api, namespace, name)
    growth = {"spec": {"resources": {"requests": {"storage": "2Gi"}}}}

    plane.api.patch("persistentvolumeclaims", namespace, "elastic", growth)
    with pytest.raises(Refused, match="storageclass that provisions the pvc must support resize"):
        plane.api.patch("persistentvolumeclaims", namespace, "stiff", growth)


def test_the_audit_log_tells_who_changed_what(plane: ControlPlane, namespace: str) -> None:
    """Mutating requests are counted by user; reads are not."""
    rules = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create", "list"]}]
    api = plane.api_as(plane.service_account(namespace, "writer", rules))
    mark = plane.audit_mark()

    api.create("configmaps", namespace, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "made"}})
    api.list("configmaps", namespace)

    requests = plane.requests_since(mark, user=f"system:serviceaccount:{namespace}:writer")
    assert [(one.verb, one.resource, one.code) for one in requests] == [("create", "configmaps", 201)]


def test_the_api_server_comes_back_on_its_port_with_its_objects(plane: ControlPlane, namespace: str) -> None:
    """Stopped and started again, it knows what it knew."""
    plane.stop_server()
    with pytest.raises(OSError, match="refused"):
        plane.api.list("namespaces")

    plane.start_server()

    assert plane.api.get("namespaces", None, namespace) is not None


def test_a_wire_can_be_cut_and_mended(plane: ControlPlane, wire: Wire) -> None:
    """A watch through it ends at the cut; afterwards requests get through again."""
    api = plane.api_as(plane.tokens["admin"], port=wire.port)
    with api.watch("namespaces", timeout=60) as events:
        assert next(events)["type"] == "ADDED"
        wire.cut()
        started = time.monotonic()
        with contextlib.suppress(OSError, http.client.HTTPException):
            for _ in events:
                pass
        assert time.monotonic() - started < 30
        with pytest.raises((OSError, http.client.HTTPException)):
            api.list("namespaces")
    wire.mend()

    assert api.list("namespaces")


def test_kubectl_runs_as_whom_the_token_says(plane: ControlPlane, namespace: str) -> None:
    """Also for a user who may nothing."""
    token = plane.service_account(namespace, "nobody")

    refused = plane.kubectl("get", "cells", namespace=namespace, token=token, check=False)

    assert plane.kubectl("get", "cells", namespace=namespace).stderr.startswith("No resources found")
    assert "forbidden" in refused.stderr
