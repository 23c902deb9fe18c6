"""An operator for some namespaces, with Roles in them and nothing for the whole cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from e2e.clusters import SOON, Cluster
from e2e.images import Images
from e2e.programs import Failed
from e2e.releases import Release
from e2e.spaces import VOLUME, Space, cell
from support import eventually


@pytest.fixture
def scoped(
    cluster: Cluster, release: Release, built: Images, make_space: Callable[..., Space]
) -> Iterator[tuple[Release, Space, Space]]:
    """Install one for two namespaces by Helm 3, with the reconciler of the whole cluster away."""
    home, away = make_space(), make_space()
    own = Release(cluster, home.name, built, major=3)
    release.scale("reconciler", 0)
    try:
        own.install({"watchNamespaces": [home.name, away.name]})
        yield own, home, away
        own.uninstall()
    finally:
        release.scale("reconciler", 1)


def test_an_operator_for_two_namespaces_works_with_roles_only(
    scoped: tuple[Release, Space, Space], cluster: Cluster, make_space: Callable[..., Space]
) -> None:
    """It serves both and no other namespace; none of its accounts may do anything beyond them."""
    own, home, away = scoped
    elsewhere = make_space()
    elsewhere.apply(cell("alpha"))
    for space in (home, away):
        space.apply(cell("alpha"), cell("pure", storage=VOLUME))
    for space in (home, away):
        space.wait_ready()
        sent = space.send("alpha-0", "pure")
        assert sent.status == 200, sent
        assert own.peers(space.name).keys() == {"alpha-0", "pure-0"}
    assert own.peers(elsewhere.name) == {}
    assert "status" not in elsewhere.cell("alpha") or elsewhere.cell("alpha")["status"]["observedGeneration"] == -1

    roles = "clusterroles,clusterrolebindings"
    named = cluster.kubectl("get", roles, "-o", "name", "-l", f"app.kubernetes.io/instance={own.name}", "-A")
    bound = cluster.kubectl("get", "clusterrolebindings", "-o", "jsonpath={..subjects[*].namespace}")
    assert home.name not in bound.split(), named
    for component in ("reconciler", "discovery"):
        account = f"--as=system:serviceaccount:{home.name}:cellmesh-{component}"
        assert _can(cluster, "list", "pods", "-n", away.name, account)
        assert not _can(cluster, "list", "pods", "-n", elsewhere.name, account)
        assert not _can(cluster, "list", "cells.cellmesh.dev", "-A", account)

    # It cannot read classes, and says of a volume that cannot grow what the API server says.
    home.patch("pure", {"storage": {"size": "2Gi"}})
    said = home.wait_condition("pure", "StorageReady", "False")
    print(f"\n{said['reason']}: {said['message']}")
    assert (
        "only dynamically provisioned" in said["message"]
        or "expan" in said["message"].lower()
        or "resize" in said["message"]
    )
    home.kubectl("delete", "cell", "--all")
    eventually(lambda: own.peers(home.name) == {}, within=SOON, message="its peers to be gone")


def _can(cluster: Cluster, *what: str) -> bool:
    try:
        return cluster.kubectl("auth", "can-i", *what).strip() == "yes"
    except Failed:
        return False
