"""The end-to-end tests' look at a cluster that somebody has given them, before they install and delete things there."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from apiserver.control_plane import ControlPlane
from e2e.clusters import in_use
from e2e.spaces import cell

OURS = {"cellmesh-e2e": "yes"}


@pytest.fixture
def plane(new_plane: Callable[..., ControlPlane]) -> ControlPlane:
    """Return a cluster in which those tests have left a namespace of theirs, with a Cell in it."""
    plane = new_plane(audit=False)
    make_namespace(plane, "left-over", OURS)
    plane.api.create("cells", "left-over", cell("alpha"))
    return plane


def make_namespace(plane: ControlPlane, name: str, labels: dict[str, str]) -> None:
    """Make a namespace with these labels."""
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
    plane.api.create("namespaces", None, body)


def test_what_such_tests_have_left_is_no_hindrance(plane: ControlPlane) -> None:
    """A cluster with namespaces and Cells of theirs alone may be used, cellmesh-system included."""
    assert in_use(plane.api) == ""
    make_namespace(plane, "cellmesh-system", OURS)
    assert in_use(plane.api) == ""


def test_a_cluster_without_the_definition_of_cells_may_be_used(new_plane: Callable[..., ControlPlane]) -> None:
    """A cluster that knows no Cells has none."""
    assert in_use(new_plane(crd=False, audit=False).api) == ""


def test_an_installation_of_somebody_elses_is_named(plane: ControlPlane) -> None:
    """A namespace cellmesh-system without their label is where a real installation would be."""
    make_namespace(plane, "cellmesh-system", {})
    assert "namespace cellmesh-system without our label" in in_use(plane.api)


def test_cells_of_somebody_elses_are_named(plane: ControlPlane) -> None:
    """A Cell in any namespace that is not theirs."""
    make_namespace(plane, "team-a", {"cellmesh-e2e": "no"})
    plane.api.create("cells", "team-a", cell("precious"))
    assert "cell precious is in namespace team-a" in in_use(plane.api)


def test_a_reconciler_in_another_namespace_is_named(plane: ControlPlane) -> None:
    """An installation elsewhere would contend with theirs for every Cell."""
    make_namespace(plane, "team-a", {})
    labels = {"app.kubernetes.io/part-of": "cellmesh", "app.kubernetes.io/component": "reconciler"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "reconciler", "image": "none"}]}}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "other", "labels": labels},
        "spec": {"selector": {"matchLabels": labels}, "template": template},
    }
    plane.api.create("deployments", "team-a", deployment)
    assert "deployment other is in namespace team-a" in in_use(plane.api)
