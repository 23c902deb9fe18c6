"""deploy/install.yaml, for those who do without Helm, on a real API server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from apiserver.control_plane import ControlPlane
from support import eventually

INSTALL = Path(__file__).parents[2] / "deploy/install.yaml"


@pytest.fixture
def plane(new_plane: Callable[..., ControlPlane]) -> ControlPlane:
    """Return an API server that knows nothing of Cells yet."""
    return new_plane(crd=False, audit=False)


def test_plain_kubectl_apply_takes_all_of_it(plane: ControlPlane) -> None:
    """One client-side `kubectl apply -f` makes every object, the definition of Cells among them."""
    documents = [found for found in yaml.safe_load_all(INSTALL.read_text()) if found]
    said = plane.kubectl("apply", "--validate=strict", "-f", str(INSTALL)).stdout
    assert said.count(" created") == len(documents)
    found = plane.kubectl("get", "-f", str(INSTALL), "-o", "name").stdout.split()
    assert len(found) == len(documents)


def test_applying_it_again_changes_nothing(plane: ControlPlane) -> None:
    """A second `kubectl apply` of the same file leaves everything as it is."""
    versions = ("get", "-f", str(INSTALL), "-o", "jsonpath={range .items[*]}{.kind} {.metadata.generation}{'\\n'}{end}")
    plane.kubectl("apply", "-f", str(INSTALL))
    before = plane.kubectl(*versions).stdout
    plane.kubectl("apply", "-f", str(INSTALL))
    # Not "unchanged" in its own words: it always sends a patch for fields that are replaced as a whole.
    assert plane.kubectl(*versions).stdout == before
    assert "Deployment 1" in before


def test_cells_can_be_made_once_it_is_applied(plane: ControlPlane) -> None:
    """The example is accepted as soon as the definition is established."""
    plane.kubectl("apply", "-f", str(INSTALL))
    eventually(plane.cells_are_served, within=30, message="the definition of Cells to be served")
    example = Path(__file__).parents[2] / "examples/alpha-pure.yaml"
    said = plane.kubectl("apply", "--validate=strict", "-f", str(example)).stdout
    assert said.count(" created") == 2


def test_nothing_in_it_says_that_helm_manages_it() -> None:
    """What Helm writes about its own objects is not in it, and every object names its namespace."""
    for found in yaml.safe_load_all(INSTALL.read_text()):
        labels = found["metadata"].get("labels", {})
        assert labels.get("app.kubernetes.io/managed-by") != "Helm"
        assert "helm.sh/chart" not in labels
        assert "helm.sh/resource-policy" not in found["metadata"].get("annotations", {})
        if found["kind"] in {"Deployment", "Service", "ServiceAccount", "Role", "RoleBinding", "PodDisruptionBudget"}:
            assert found["metadata"]["namespace"] == "cellmesh-system"
