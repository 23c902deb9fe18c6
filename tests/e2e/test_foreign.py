"""Objects of the same name that belong to somebody else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from e2e.images import Images
from e2e.spaces import Space, cell
from support import eventually

Maker = Callable[[str, str], dict[str, Any]]


def _stateful_set(name: str, image: str) -> dict[str, Any]:
    labels = {"app": name}
    confined = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    container = {"name": "mine", "image": image, "command": ["sleep", "infinity"], "securityContext": confined}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container], "terminationGracePeriodSeconds": 0}}
    spec = {"replicas": 1, "serviceName": name, "selector": {"matchLabels": labels}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": name}, "spec": spec}


def _service(name: str, _: str) -> dict[str, Any]:
    spec = {"selector": {"app": name}, "ports": [{"port": 80}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def _budget(name: str, _: str) -> dict[str, Any]:
    spec = {"maxUnavailable": 1, "selector": {"matchLabels": {"app": name}}}
    return {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": name}, "spec": spec}


OBJECTS: dict[str, tuple[str, Maker]] = {
    "statefulsets": ("StatefulSet", _stateful_set),
    "services": ("Service", _service),
    "poddisruptionbudgets": ("PodDisruptionBudget", _budget),
}


@pytest.mark.parametrize("plural", OBJECTS)
def test_a_foreign_object_is_left_alone_and_reported(space: Space, built: Images, plural: str) -> None:
    """Condition and event name it, nothing of it is changed; when it goes, the Cell takes the name."""
    kind, make = OBJECTS[plural]
    space.apply(make("mine", built.cell))
    before = space.cluster.api.must_get(plural, space.name, "mine")
    space.apply(cell("mine", replicas=2))
    said = space.wait_condition("mine", "Ready", "False", "NameConflict")
    print(f"\n{said['message']}")
    assert kind in said["message"]
    assert space.condition("mine", "Stalled")["status"] == "True"
    eventually(
        lambda: [event for event in space.events("mine") if event["reason"] == "NameConflict"],
        within=10,
        message="an event",
    )
    after = space.cluster.api.must_get(plural, space.name, "mine")
    for one in (before, after):
        # What its own controller does there.
        one.pop("status", None)
        for name in ("managedFields", "resourceVersion"):
            one["metadata"].pop(name)
    assert after == before
    space.kubectl("delete", plural, "mine")
    space.wait_ready("mine")
    assert len(space.peers()) == 2
