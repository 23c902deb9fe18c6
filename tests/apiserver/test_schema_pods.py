"""What passes the Cell's schema makes pods that Kubernetes takes, under Pod Security `restricted` too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from apiserver.api import Refused
from apiserver.control_plane import ControlPlane
from cell_tables import ACCEPTED, cell
from cellmesh_operator.decisions.actions import BuildSettings
from cellmesh_operator.decisions.cells import read_cell
from cellmesh_operator.decisions.resources.stateful_set import build_stateful_set

SETTINGS = BuildSettings(cell_image="cellmesh-cell:test", image_pull_policy="", discovery_url="http://discovery:8001")
#: Objects that admission looks up for the pods of the table.
_CLASSES = {
    "/apis/scheduling.k8s.io/v1/priorityclasses": {"kind": "PriorityClass", "value": 1},
    "/apis/node.k8s.io/v1/runtimeclasses": {"kind": "RuntimeClass", "handler": "runsc"},
}
_NAMES = {"PriorityClass": "high", "RuntimeClass": "gvisor"}


@pytest.fixture(scope="module")
def classes(plane: ControlPlane) -> Iterator[None]:
    """Make the classes that Cells of the table name."""
    for path, body in _CLASSES.items():
        name = _NAMES[str(body["kind"])]
        version = path.removeprefix("/apis/").rpartition("/")[0]
        plane.api.request("POST", path, {"apiVersion": version, "metadata": {"name": name}, **body})
    yield
    for path, body in _CLASSES.items():
        plane.api.request("DELETE", f"{path}/{_NAMES[str(body['kind'])]}")


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_cell_of_the_table_makes_a_stateful_set_and_pods_that_are_taken(
    plane: ControlPlane, classes: None, namespace: str, name: str
) -> None:
    """Strictly: no field of it is unknown to the API server."""
    plane.service_account(namespace, "alpha")
    stored = plane.api.create("cells", namespace, cell(ACCEPTED[name]), dryRun="All")
    built = build_stateful_set(read_cell(stored), SETTINGS)
    query = {"dryRun": "All", "fieldValidation": "Strict"}

    plane.api.create("statefulsets", namespace, built, **query)
    plane.api.create("pods", namespace, first_pod(built), **query)


def test_the_namespace_of_this_test_does_enforce_it(plane: ControlPlane, namespace: str) -> None:
    """The same pod with one thing that `restricted` forbids is refused, so the test above can fail."""
    plane.service_account(namespace, "alpha")
    stored = plane.api.create("cells", namespace, cell({}), dryRun="All")
    pod = first_pod(build_stateful_set(read_cell(stored), SETTINGS))
    pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True

    with pytest.raises(Refused, match="violates PodSecurity"):
        plane.api.create("pods", namespace, pod, dryRun="All")


def first_pod(stateful_set: dict[str, Any]) -> dict[str, Any]:
    """Return the pod that the StatefulSet's controller would make first."""
    template = stateful_set["spec"]["template"]
    spec = dict(template["spec"])
    claims = [
        {
            "name": claim["metadata"]["name"],
            "persistentVolumeClaim": {"claimName": f"{claim['metadata']['name']}-alpha-0"},
        }
        for claim in stateful_set["spec"].get("volumeClaimTemplates", [])
    ]
    spec["volumes"] = [*spec.get("volumes", []), *claims]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {**template["metadata"], "name": "alpha-0"}, "spec": spec}
