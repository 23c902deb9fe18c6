"""Objects that tests of the reconciler's pure part start from, and a model of an API server that takes actions."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

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
from cellmesh_operator.decisions.hashing import digest
from cellmesh_operator.naming import (
    CELL_LABEL,
    POD_DISRUPTION_BUDGETS,
    SERVICE_ACCOUNTS,
    SERVICES,
    STATEFUL_SETS,
    Resource,
    cell_labels,
)

Object = dict[str, Any]

UID = "11111111-2222-3333-4444-555555555555"
SETTINGS = BuildSettings(
    cell_image="cellmesh-cell:1",
    image_pull_policy="IfNotPresent",
    discovery_url="http://cellmesh-discovery.system:8001",
)
#: Times that follow each other.
EARLIER, NOW, LATER = "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z", "2026-01-01T00:02:00Z"
REVISION = "alpha-1"
FIELDS: dict[Resource, str] = {
    SERVICE_ACCOUNTS: "service_account",
    SERVICES: "service",
    POD_DISRUPTION_BUDGETS: "pod_disruption_budget",
    STATEFUL_SETS: "stateful_set",
}


def a_cell(spec: Mapping[str, Any] | None = None, *, generation: int = 1, status: Object | None = None) -> Object:
    """Return a Cell named alpha as the API server gives it."""
    cell: Object = {
        "apiVersion": "cellmesh.dev/v1alpha1",
        "kind": "Cell",
        "metadata": {"name": "alpha", "namespace": "mesh", "uid": UID, "generation": generation},
        "spec": dict(spec or {}),
    }
    return {**cell, "status": status} if status is not None else cell


def a_pod(
    ordinal: int = 0,
    *,
    ready: bool = True,
    changed: str = NOW,
    revision: str = REVISION,
    status: Object | None = None,
    containers: Iterable[Object] = (),
    deleted: bool = False,
    created: str = EARLIER,
) -> Object:
    """Return a pod of alpha; ``changed`` is when its readiness did, ``status`` is merged into its status."""
    name = f"alpha-{ordinal}"
    metadata: Object = {
        "name": name,
        "namespace": "mesh",
        "uid": f"pod-{ordinal}",
        "labels": {**cell_labels("alpha"), "controller-revision-hash": revision},
        "creationTimestamp": created,
        "ownerReferences": [{"kind": "StatefulSet", "name": "alpha", "uid": "set", "controller": True}],
    }
    if deleted:
        metadata["deletionTimestamp"] = NOW
    condition = {"type": "Ready", "status": str(ready), "lastTransitionTime": changed}
    statuses = list(containers) or [a_container(ready=ready)]
    return {
        "metadata": metadata,
        "status": {"phase": "Running", "conditions": [condition], "containerStatuses": statuses, **(status or {})},
    }


def a_container(*, ready: bool = False, state: Object | None = None, name: str = "cell", **more: Any) -> Object:
    """Return the status of a container; it has been running since EARLIER unless ``state`` says otherwise."""
    running = {"running": {"startedAt": EARLIER}}
    return {"name": name, "image": "cellmesh-cell:1", "ready": ready, "state": state or running, **more}


def a_claim(ordinal: int = 0, *, size: str = "1Gi", phase: str = "Bound", class_name: str | None = "fast") -> Object:
    """Return the volume claim of an instance of alpha."""
    spec: Object = {"resources": {"requests": {"storage": size}}}
    if class_name is not None:
        spec["storageClassName"] = class_name
    status: Object = {"phase": phase}
    if phase == "Bound":
        status["capacity"] = {"storage": size}
    return {
        "metadata": {"name": f"inbox-alpha-{ordinal}", "namespace": "mesh", "labels": {CELL_LABEL: "alpha"}},
        "spec": spec,
        "status": status,
    }


def a_class(*, expandable: bool = True, default: bool = False) -> Object:
    """Return a StorageClass."""
    annotations = {"storageclass.kubernetes.io/is-default-class": "true"} if default else {}
    return {"metadata": {"annotations": annotations}, "allowVolumeExpansion": expandable}


def decided(observed: Observed, *, may_roll_out: bool = True, settings: BuildSettings = SETTINGS) -> Decision:
    """Return the decision at NOW."""
    return decide(observed, settings, may_roll_out=may_roll_out, now=NOW)


def conditions(status: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Return status and reason of each condition by type."""
    return {item["type"]: (item["status"], item["reason"]) for item in status["conditions"]}


def message(status: Mapping[str, Any], kind: str = "Ready") -> str:
    """Return the message of a condition."""
    (found,) = [item["message"] for item in status["conditions"] if item["type"] == kind]
    return str(found)


class Cluster:
    """What is observed of alpha, changed as an API server, its controllers and kubelets would change it."""

    def __init__(self, spec: Mapping[str, Any] | None = None, *, settings: BuildSettings = SETTINGS) -> None:
        self.settings = settings
        self.observed = Observed(cell=a_cell(spec), storage_classes={"fast": a_class(default=True)})
        self._uids = 0

    def reconcile(self, *, passes: int = 6) -> list[Action]:
        """Decide and act until there is nothing to do; return all that was done.

        Raises:
            AssertionError: there was still something to do after so many passes.

        """
        done: list[Action] = []
        for _ in range(passes):
            decision = decided(self.observed, settings=self.settings)
            self.report(decision.status)
            if not decision.actions:
                return done
            for action in decision.actions:
                self.act(action)
            done += decision.actions
            self.run_controllers()
        raise AssertionError(f"still to do after {passes} passes: {decision.actions}")

    def edit(self, spec: Mapping[str, Any]) -> None:
        """Change the Cell's spec as its author would."""
        metadata = self.observed.cell["metadata"]
        status = self.observed.cell.get("status")
        cell = a_cell(spec, generation=metadata["generation"] + 1, status=dict(status) if status else None)
        self._set(cell=cell)

    def change(self, resource: Resource, **fields: Any) -> None:
        """Put fields in place in a child, behind the reconciler's back."""
        live = copy.deepcopy(getattr(self.observed, FIELDS[resource]))
        self._set(**{FIELDS[resource]: _merged(live, fields)})

    def report(self, status: Mapping[str, Any]) -> None:
        """Store a status."""
        self._set(cell={**self.observed.cell, "status": copy.deepcopy(dict(status))})

    def act(self, action: Action) -> None:
        """Do what an action asks for."""
        if isinstance(action, ResizeClaim):
            self._set(claims=tuple(_grown(claim, action) for claim in self.observed.claims))
            return
        field = FIELDS[action.resource]
        live = getattr(self.observed, field)
        if isinstance(action, Delete):
            self._set(**{field: None})
            if action.resource == STATEFUL_SETS and not action.orphan:
                self._set(pods=())
        elif isinstance(action, (Remove, Scale)):
            assert action.uid == live["metadata"]["uid"]
            self._set(**{field: stored(_merged(live, action.patch))})
        else:
            assert isinstance(action, Apply)
            assert action.uid == (live["metadata"]["uid"] if live else None)
            self._apply(action, field, live)

    def run_controllers(self) -> None:
        """Make the StatefulSet's pods and claims, all of them ready and bound."""
        stateful_set = self.observed.stateful_set
        if stateful_set is None:
            return
        revision = digest(stateful_set["spec"]["template"])
        wanted = stateful_set["spec"]["replicas"]
        pods = tuple(a_pod(ordinal, revision=revision) for ordinal in range(wanted))
        claims = {claim["metadata"]["name"]: claim for claim in self.observed.claims}
        for template in stateful_set["spec"].get("volumeClaimTemplates") or ():
            size = template["spec"]["resources"]["requests"]["storage"]
            for ordinal in range(wanted):
                claims.setdefault(f"inbox-alpha-{ordinal}", a_claim(ordinal, size=size))
        generation = stateful_set["metadata"]["generation"]
        status = {"observedGeneration": generation, "updateRevision": revision}
        self._set(pods=pods, claims=tuple(claims.values()), stateful_set={**stateful_set, "status": status})

    def _apply(self, action: Apply, field: str, live: Object | None) -> None:
        # Our fields, and in maps and lists of named items what others own beside them.
        merged = _merged(copy.deepcopy(live or {}), action.body, by_name=True)
        self._uids += live is None
        metadata = merged["metadata"]
        metadata.setdefault("uid", f"{field}-{self._uids}")
        metadata["generation"] = metadata.get("generation", 0) + 1
        self._set(**{field: stored(merged)})

    def _set(self, **fields: Any) -> None:
        self.observed = dataclasses.replace(self.observed, **fields)


def stored(body: Mapping[str, Any]) -> Object:
    """Return an object as an API server answers it: defaults filled in, false left out."""
    found = copy.deepcopy(dict(body))
    spec = found.get("spec", {})
    if found.get("kind") == "Service":
        spec |= {"clusterIPs": ["None"], "internalTrafficPolicy": "Cluster", "sessionAffinity": "None"}
        if not spec.get("publishNotReadyAddresses"):
            spec.pop("publishNotReadyAddresses", None)
    if found.get("kind") == "StatefulSet":
        spec.setdefault("revisionHistoryLimit", 10)
        pod = spec["template"]["spec"]
        pod.setdefault("dnsPolicy", "ClusterFirst")
        pod |= {"restartPolicy": "Always", "schedulerName": "default-scheduler", "serviceAccount": "alpha"}
        for container in pod["containers"]:
            container |= {"terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}
            container.setdefault("imagePullPolicy", "IfNotPresent")
        for template in spec.get("volumeClaimTemplates") or ():
            template["spec"].setdefault("volumeMode", "Filesystem")
            template["status"] = {"phase": "Pending"}
    return found


def _grown(claim: Object, action: ResizeClaim) -> Object:
    if claim["metadata"]["name"] != action.name:
        return claim
    grown = _merged(copy.deepcopy(claim), action.patch)
    grown["status"]["capacity"] = {"storage": action.size}
    return grown


def _merged(target: Any, patch: Any, *, by_name: bool = False) -> Any:
    """Return a merge patch's result; with ``by_name`` items of lists that have names are merged by them."""
    if isinstance(patch, Mapping):
        merged = dict(target) if isinstance(target, Mapping) else {}
        for key, value in patch.items():
            if value is None:
                merged.pop(key, None)
            else:
                merged[key] = _merged(merged.get(key), value, by_name=by_name)
        return merged
    if by_name and isinstance(patch, list) and isinstance(target, list) and _named(patch) and _named(target):
        ours = {item["name"]: item for item in patch}
        there = {item["name"]: item for item in target}
        return [
            *(_merged(there.get(name), item, by_name=True) for name, item in ours.items()),
            *(item for name, item in there.items() if name not in ours),
        ]
    return copy.deepcopy(patch)


def _named(items: list[Any]) -> bool:
    return bool(items) and all(isinstance(item, Mapping) and "name" in item for item in items)
