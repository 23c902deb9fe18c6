"""The reconciler when something goes away: the API server, its connections, its own life, the definition of Cells."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apiserver.control_plane import ControlPlane
from apiserver.reconcilers import (
    CHILDREN,
    Reconciler,
    child,
    conditions,
    edit_cell,
    make_cell,
    running,
    token,
    user,
    wait_for,
)
from apiserver.stand_ins import Kubelet
from apiserver.wire import Wire
from cellmesh_operator.reconciler.queue import FIRST_BACKOFF, JITTER
from support import eventually

Controllers = Callable[..., None]
SOON = 20.0
#: Seconds after a reconnection within which all has to be right again (the issue's bound).
BOUND = 15.0


def settled(plane: ControlPlane, namespace: str, *names: str) -> None:
    """Make Cells and wait until they are up to date."""
    for name in names:
        make_cell(plane.api, namespace, name)
    for name in names:
        wait_for(plane.api, namespace, "UpToDate", "True", name=name)


def test_a_restart_changes_nothing(plane: ControlPlane, namespace: str, tmp_path: Path) -> None:
    """Expect no mutating request in another life: not even an apply without effect."""
    config = plane.kubeconfig(token(plane, namespace))
    with running(Reconciler(tmp_path, config)) as first:
        settled(plane, namespace, "alpha", "pure")
        first.idle()
    mark = plane.audit_mark()
    with running(Reconciler(tmp_path, config, resync="1")) as second:
        eventually(lambda: second.metric("reconcile_seconds_count") >= 2, within=SOON)
        second.idle()
        assert second.metric("repairs_total") == 0
    assert [one.text for one in plane.requests_since(mark, user=user(namespace))] == []


def test_changes_made_while_it_was_down_are_found(plane: ControlPlane, namespace: str, tmp_path: Path) -> None:
    """Expect an edit, a new Cell and a deleted child to be seen at the start."""
    config = plane.kubeconfig(token(plane, namespace))
    with running(Reconciler(tmp_path, config)):
        settled(plane, namespace, "alpha")
    plane.api.delete("services", namespace, "alpha")
    edit_cell(plane.api, namespace, port=9000)
    make_cell(plane.api, namespace, "pure")
    with running(Reconciler(tmp_path, config)):
        child(plane.api, "services", namespace, "alpha")
        child(plane.api, "statefulsets", namespace, "pure")
        wait_for(plane.api, namespace, "UpToDate", "True")


def test_what_happened_in_a_watch_gap_is_found_within_seconds(
    plane: ControlPlane, namespace: str, wire: Wire, tmp_path: Path
) -> None:
    """Expect deleted children to be back soon after reconnecting to a server that no longer knows the history."""
    config = plane.kubeconfig(token(plane, namespace), port=wire.port)
    with running(Reconciler(tmp_path, config, namespaces=namespace)) as reconciler:
        settled(plane, namespace, "alpha", "pure", "third")
        wire.cut()
        eventually(lambda: reconciler.metric("lost_watches") >= 6, within=SOON, message="the loss to be noticed")
        for plural in CHILDREN:
            plane.api.delete(plural, namespace, "alpha")
        plane.api.delete("cells", namespace, "pure")
        make_cell(plane.api, namespace, "fourth")
        plane.stop_server()
        plane.start_server()
        assert plane.api.get("services", namespace, "alpha") is None
        wire.mend()
        for plural in CHILDREN:
            eventually(
                lambda kind=plural: plane.api.get(kind, namespace, "alpha"), within=BOUND, message=f"the {plural}"
            )
        child(plane.api, "statefulsets", namespace, "fourth")
        eventually(lambda: reconciler.metric("cells", 'condition="UpToDate"') == 3, within=BOUND)
        eventually(lambda: reconciler.metric("repairs_total") >= 1, within=BOUND)
        assert reconciler.get("/healthz").status == 200


def test_it_gets_over_a_restart_of_the_api_server(plane: ControlPlane, namespace: str, tmp_path: Path) -> None:
    """Expect it to stay alive, say in a few lines what is lost and found again, and to go on by itself."""
    config = plane.kubeconfig(token(plane, namespace))
    with running(Reconciler(tmp_path, config, namespaces=namespace)) as reconciler:
        settled(plane, namespace, "alpha")
        plane.stop_server()
        eventually(lambda: reconciler.metric("lost_watches") >= 6, within=SOON)
        assert reconciler.get("/healthz").status == 200
        plane.start_server()
        edit_cell(plane.api, namespace, port=9000)
        wait_for(plane.api, namespace, "UpToDate", "True", within=BOUND)
        eventually(lambda: reconciler.metric("lost_watches") == 0, within=SOON)
        lines = reconciler.text().splitlines()
        assert len(lines) < 60, "\n".join(lines)


def test_it_starts_before_the_api_server_does(plane: ControlPlane, namespace: str, tmp_path: Path) -> None:
    """Expect it to wait, not ready, and to begin when the server is there."""
    config = plane.kubeconfig(token(plane, namespace))
    plane.stop_server()
    with running(Reconciler(tmp_path, config, namespaces=namespace), ready=False) as reconciler:
        answer = eventually(lambda: reconciler.get("/readyz"), within=SOON)
        assert answer.status == 503
        assert b"waiting for" in answer.body
        plane.start_server()
        reconciler.wait_ready()
        settled(plane, namespace, "alpha")


def test_a_connection_that_has_died_without_a_sound_is_noticed(
    plane: ControlPlane, namespace: str, wire: Wire, tmp_path: Path
) -> None:
    """Expect a frozen network to be taken for what it is in less than a minute, and to be got over."""
    config = plane.kubeconfig(token(plane, namespace), port=wire.port)
    with running(Reconciler(tmp_path, config, namespaces=namespace)) as reconciler:
        settled(plane, namespace, "alpha")
        wire.freeze()
        plane.api.delete("services", namespace, "alpha")
        eventually(lambda: reconciler.metric("lost_watches") >= 6, within=60, message="the silence to be noticed")
        wire.mend()
        eventually(lambda: plane.api.get("services", namespace, "alpha"), within=BOUND, message="the Service")


def test_without_the_definition_of_cells_it_says_so(new_plane: Any, tmp_path: Path) -> None:
    """Expect not ready with the reason; work once it is there; the same again when it is taken away and comes back."""
    plane: ControlPlane = new_plane(crd=False)
    config = plane.kubeconfig(token(plane, "default"))
    with running(Reconciler(tmp_path, config), ready=False) as reconciler:
        for name in ("alpha", "pure"):
            eventually(
                lambda: b"the definition of Cells, cells.cellmesh.dev" in reconciler.get("/readyz").body, within=SOON
            )
            assert reconciler.get("/readyz").status == 503
            assert reconciler.get("/healthz").status == 200
            plane.install_crd()
            reconciler.wait_ready()
            make_cell(plane.api, "default", name)
            child(plane.api, "statefulsets", "default", name)
            plane.api.delete("customresourcedefinitions", None, "cells.cellmesh.dev")


def test_with_roles_only_it_serves_its_namespaces_and_no_other(
    plane: ControlPlane, make_namespace: Callable[..., str], tmp_path: Path
) -> None:
    """Expect two namespaces to be served, a third to be left alone, and no right to be missed."""
    home, one, two, other = (make_namespace() for _ in range(4))
    config = plane.kubeconfig(token(plane, home, served=[one, two]))
    with running(Reconciler(tmp_path, config, namespaces=f"{one},{two}")) as reconciler:
        for namespace in (one, two, other):
            make_cell(plane.api, namespace, storage={"size": "1Gi"})
        wait_for(plane.api, one, "UpToDate", "True")
        wait_for(plane.api, two, "UpToDate", "True")
        reconciler.idle()
        assert plane.api.get("statefulsets", other, "alpha") is None
        assert "forbidden" not in reconciler.text()


def test_lacking_rights_are_named_and_got_over(plane: ControlPlane, namespace: str, tmp_path: Path) -> None:
    """Expect not ready with what is lacking, and work as soon as it is granted."""
    account = plane.service_account(namespace, "reconciler")
    config = plane.kubeconfig(account)
    with running(Reconciler(tmp_path, config), ready=False) as reconciler:
        eventually(lambda: b"the right to list" in reconciler.get("/readyz").body, within=SOON)
        token(plane, namespace)
        reconciler.wait_ready()
        settled(plane, namespace, "alpha")


def test_a_new_default_image_reaches_a_few_cells_at_a_time(
    plane: ControlPlane, namespace: str, controllers: Controllers, tmp_path: Path
) -> None:
    """Expect a bad image to take down no more Cells than allowed, to show on the others, and a good one to mend all."""
    names = [f"c{number}" for number in range(5)]
    controllers("statefulset-controller")
    config = plane.kubeconfig(token(plane, namespace))

    def images() -> list[str]:
        found = [plane.api.must_get("statefulsets", namespace, name) for name in names]
        return [one["spec"]["template"]["spec"]["containers"][0]["image"] for one in found]

    with Kubelet(plane, namespace), running(Reconciler(tmp_path, config, namespaces=namespace)):
        for name in names:
            make_cell(plane.api, namespace, name)
        for name in names:
            wait_for(plane.api, namespace, "Ready", "True", name=name, within=60)
    # Without a kubelet: what is rolled out does not become ready.
    settings = {"namespaces": namespace, "max_concurrent": "2", "resync": "2"}
    with running(Reconciler(tmp_path, config, cell_image="cellmesh-cell:bad", **settings)) as reconciler:
        eventually(lambda: images().count("cellmesh-cell:bad") == 2, within=SOON)
        eventually(
            lambda: (
                [conditions(plane.api, namespace, name)["UpToDate"] for name in names].count(
                    ("False", "WaitingForRollout")
                )
                == 3
            ),
            within=SOON,
        )
        reconciler.idle()
        assert reconciler.metric("rollout_waiting_cells") == 3
    with running(Reconciler(tmp_path, config, cell_image="cellmesh-cell:bad", **settings)) as reconciler:
        eventually(lambda: reconciler.metric("rollout_waiting_cells") == 3, within=SOON)
        reconciler.idle()
        assert images().count("cellmesh-cell:bad") == 2
    with Kubelet(plane, namespace), running(Reconciler(tmp_path, config, cell_image="cellmesh-cell:2", **settings)):
        eventually(lambda: set(images()) == {"cellmesh-cell:2"}, within=120, message="all Cells to be rolled out")
        for name in names:
            wait_for(plane.api, namespace, "Ready", "True", name=name, within=60)
            wait_for(plane.api, namespace, "UpToDate", "True", name=name)


def test_a_mutating_policy_that_changes_our_fields_makes_no_loop(new_plane: Any, tmp_path: Path) -> None:
    """Expect attempts at growing intervals, an Event, and other Cells to be served."""
    plane: ControlPlane = new_plane(
        flags=[
            "--feature-gates=MutatingAdmissionPolicy=true",
            "--runtime-config=admissionregistration.k8s.io/v1beta1=true",
        ]
    )
    api = plane.api
    group = "admissionregistration.k8s.io/v1beta1"
    expression = "Object{spec: Object.spec{replicas: 3}}"
    policy = {
        "apiVersion": group,
        "kind": "MutatingAdmissionPolicy",
        "metadata": {"name": "three"},
        "spec": {
            "matchConstraints": {
                "resourceRules": [
                    {
                        "apiGroups": ["apps"],
                        "apiVersions": ["v1"],
                        "operations": ["CREATE", "UPDATE"],
                        "resources": ["statefulsets"],
                    }
                ]
            },
            "matchConditions": [{"name": "one", "expression": "object.metadata.name == 'alpha'"}],
            "failurePolicy": "Fail",
            "reinvocationPolicy": "Never",
            "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}],
        },
    }
    binding = {
        "apiVersion": group,
        "kind": "MutatingAdmissionPolicyBinding",
        "metadata": {"name": "three"},
        "spec": {"policyName": "three"},
    }
    base = f"/apis/{group}"
    api.request("POST", f"{base}/mutatingadmissionpolicies", policy)
    api.request("POST", f"{base}/mutatingadmissionpolicybindings", binding)
    config = plane.kubeconfig(token(plane, "default"))
    with running(Reconciler(tmp_path, config)):
        probe = {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "alpha"}}
        probe["spec"] = _minimal()
        created = eventually(
            lambda: (
                found := api.request("POST", "/apis/apps/v1/namespaces/default/statefulsets?dryRun=All", probe),
                found["spec"]["replicas"] == 3 and found,
            )[1],
            within=SOON,
            message="the policy to work",
        )
        assert created["spec"]["replicas"] == 3
        mark = plane.audit_mark()
        make_cell(api, "default", "alpha")
        settled(plane, "default", "pure")
        eventually(
            lambda: "FieldsChangedByOthers" in {one["reason"] for one in api.list("events", "default")}, within=SOON
        )
        eventually(lambda: len(_applies(plane, mark)) >= 5, within=60, message="further attempts")
        times = _applies(plane, mark)
        gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
        # The first apply makes it, the second sets it right at once; then come waits of 1, 2, 4 and more seconds, each
        # up to a fifth shorter or longer.
        least = [FIRST_BACKOFF * JITTER[0] * 2**number for number in range(len(gaps) - 1)]
        assert all(gap >= wait for gap, wait in zip(gaps[1:], least, strict=True)), gaps
        settled(plane, "default", "third")


def _minimal() -> dict[str, Any]:
    return {
        "serviceName": "x",
        "replicas": 1,
        "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
    }


def _applies(plane: ControlPlane, mark: int) -> list[float]:
    """Return when the StatefulSet was applied, in seconds."""
    requests = plane.requests_since(mark, user=user("default"))
    return [one.at for one in requests if (one.resource, one.name) == ("statefulsets", "alpha")]


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
def test_a_signal_ends_it_in_good_order(plane: ControlPlane, namespace: str, tmp_path: Path, number: str) -> None:
    """Expect code 0 and no stack trace, also while it waits for something."""
    import signal

    config = plane.kubeconfig(plane.service_account(namespace, "powerless"))
    reconciler = Reconciler(tmp_path, config)
    reconciler.start(wait=False)
    try:
        reconciler.listening()
        reconciler.signal(signal.Signals[number])
        assert reconciler.wait(10) == 0
        assert "Traceback" not in reconciler.text()
    finally:
        reconciler.kill()


def test_a_kubeconfig_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    """Expect code 1 and what is wrong, without a stack trace."""
    environ = {
        "KUBECONFIG": str(tmp_path / "missing"),
        "PATH": "/usr/bin:/bin",
        "CELLMESH_RECONCILER_DISCOVERY_URL": "http://d:1",
    }
    result = subprocess.run(
        [sys.executable, "-m", "cellmesh_operator.reconciler"],
        env=environ,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr.startswith("reconciler: KUBECONFIG names a file that is not there")
    assert len(result.stderr.splitlines()) == 1
