"""Tests on a cluster: images built, charts installed by Helm, Cells applied by kubectl, nothing simulated.

What a test asks for:

``cluster``      the ``Cluster``: ``cluster.kubectl(...)`` for what users do, ``cluster.api`` to look often.
``release``      the charts, installed for the whole cluster; ``release.peers(mesh)`` asks discovery.
``space``        a namespace of the test's own that enforces ``restricted``: ``space.start(cell("alpha"))``,
                 ``space.send("alpha-0", "pure")``; others with ``make_space()``.
``ledger``       ``with ledger(space, to="pure") as flow:`` messages flow, sent from a pod, until the block ends;
                 ``flow.finish()`` is what became of each, ``flow.check_inboxes()`` compares.
``client``       that pod, for scripts of ``in_pod/``.

The cluster is kind's, of one control plane and two workers; it is deleted at the end unless CELLMESH_E2E_KEEP is
set, with which the next run takes it as it is. With CELLMESH_E2E_KUBECONFIG, that cluster is used instead,
unless it has an installation of CellMesh or Cells that are not these tests' own.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from e2e import clusters, images
from e2e.client_pod import NAMESPACE as CLIENT_NAMESPACE
from e2e.client_pod import ClientPod
from e2e.clusters import Cluster
from e2e.evidence import collect
from e2e.images import Build, Images
from e2e.ledgers import Ledger
from e2e.releases import Release, make_namespace
from e2e.spaces import Space

HERE = Path(__file__).parent
SYSTEM = "cellmesh-system"
#: Seconds a test may take, making the cluster and even its node image included.
TIMEOUT = 1800
_CLUSTER = pytest.StashKey[Cluster]()
_SPACES = pytest.StashKey[list[str]]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this directory."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.e2e)
            item.add_marker(pytest.mark.timeout(TIMEOUT))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Add to the report of a failure what the cluster knows of it."""
    report = yield
    cluster = item.config.stash.get(_CLUSTER, None)
    if report.failed and cluster is not None and HERE in item.path.parents:
        report.sections += list(collect(cluster, item.config.stash[_SPACES], [SYSTEM]))
    return report


@pytest.fixture(scope="session")
def show(pytestconfig: pytest.Config) -> Callable[[], Any]:
    """Return a context within which output reaches the terminal."""
    manager = pytestconfig.pluginmanager.getplugin("capturemanager")
    return manager.global_and_fixture_disabled  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def build() -> Build:
    """Build the images once."""
    return Build()


@pytest.fixture(scope="session")
def cluster(pytestconfig: pytest.Config, build: Build, show: Callable[[], Any]) -> Iterator[Cluster]:
    """Share one cluster between all tests."""
    given = os.environ.get("CELLMESH_E2E_KUBECONFIG")
    clusters.helm(4)
    running = clusters.given(Path(given)) if given else Cluster(clusters.create(show, build.begin))
    pytestconfig.stash[_CLUSTER] = running
    pytestconfig.stash[_SPACES] = []
    yield running
    del pytestconfig.stash[_CLUSTER]
    running.close()
    if not given and not os.environ.get("CELLMESH_E2E_KEEP"):
        clusters.delete()


@pytest.fixture(scope="session")
def built(cluster: Cluster, build: Build, show: Callable[[], Any]) -> Iterator[Images]:
    """Build the images and bring them onto the nodes."""
    provided = images.provide(cluster, build, show)
    yield provided
    images.forget(cluster, provided)


@pytest.fixture(scope="session")
def release(cluster: Cluster, built: Images) -> Iterator[Release]:
    """Install both charts, for the whole cluster, in a namespace that enforces ``restricted``."""
    make_namespace(cluster, SYSTEM)
    installed = Release(cluster, SYSTEM, built)
    installed.install_resource()
    installed.install()
    yield installed
    if os.environ.get("CELLMESH_E2E_KUBECONFIG"):
        installed.uninstall()
        cluster.kubectl("delete", "namespace", SYSTEM)


@pytest.fixture(scope="session")
def client(cluster: Cluster, built: Images) -> Iterator[ClientPod]:
    """Share one pod from which messages are sent."""
    pod = ClientPod(cluster, built)
    pod.start()
    yield pod
    if os.environ.get("CELLMESH_E2E_KUBECONFIG"):
        cluster.kubectl("delete", "namespace", CLIENT_NAMESPACE)


@pytest.fixture(scope="session")
def needs_nodes(cluster: Cluster) -> None:
    """Skip where nodes are not containers of this machine, in which a test could run commands."""
    if not cluster.kind:
        pytest.skip("the nodes of this cluster cannot be entered; use kind: unset CELLMESH_E2E_KUBECONFIG")


@pytest.fixture(scope="session")
def needs_workers(cluster: Cluster) -> None:
    """Skip where draining a node would leave none, or would meet others' pods."""
    if not cluster.kind or len(cluster.workers) != 2:
        pytest.skip("this cluster is not kind's with two workers; unset CELLMESH_E2E_KUBECONFIG")


def _spaces(cluster: Cluster, release: Release, config: pytest.Config) -> Iterator[Callable[..., Space]]:
    with ExitStack() as stack:

        def make(release: Release = release) -> Space:
            space = Space(cluster, release, f"e2e-{uuid.uuid4().hex[:8]}")
            config.stash[_SPACES].append(space.name)
            stack.callback(config.stash[_SPACES].remove, space.name)
            # It goes while the next test runs.
            stack.callback(cluster.kubectl, "delete", "namespace", space.name, "--wait=false")
            return space

        yield make


@pytest.fixture
def make_space(cluster: Cluster, release: Release, pytestconfig: pytest.Config) -> Iterator[Callable[..., Space]]:
    """Make namespaces of the test's own."""
    yield from _spaces(cluster, release, pytestconfig)


@pytest.fixture(scope="module")
def make_shared_space(
    cluster: Cluster, release: Release, pytestconfig: pytest.Config
) -> Iterator[Callable[..., Space]]:
    """Make namespaces for the tests of one module, which look at what happened there from different sides."""
    yield from _spaces(cluster, release, pytestconfig)


@pytest.fixture
def space(make_space: Callable[..., Space]) -> Space:
    """Make a namespace of the test's own, enforcing ``restricted``."""
    return make_space()


@pytest.fixture(scope="session")
def ledger(client: ClientPod) -> Callable[..., Ledger]:
    """Return what lets messages flow within a block."""
    return partial(Ledger, client)
