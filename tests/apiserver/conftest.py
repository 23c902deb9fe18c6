"""Tests against a real API server: etcd and kube-apiserver, one pair for the whole run, ready in seconds.

What a test asks for:

``plane``           the ``ControlPlane``: admin's client ``plane.api``, ``plane.kubectl("get", "cells")``,
                    ``plane.kubeconfig(token)`` for programs under test, ``plane.service_account(ns, name, rules)``
                    and ``plane.token(ns, name)`` for tokens bound by RBAC, ``plane.stop_server()`` and
                    ``plane.start_server()`` (same port, same etcd), ``plane.audit_mark()`` and
                    ``plane.requests_since(mark, user=...)`` for the mutating requests somebody made. The
                    definition of Cells is installed.
``namespace``       a namespace of the test's own, enforcing Pod Security ``restricted``; taken away afterwards with
                    all that is in it. Make others with ``make_namespace()``.
``controllers``     ``controllers("statefulset-controller", "garbage-collector-controller", qps=500, burst=1000)``
                    runs kube-controller-manager with these until the test ends.
``new_plane``       ``new_plane(crd=False, audit=True, flags=[...])`` starts another control plane, for tests that
                    would harm the shared one.
``wire``            a TCP forwarder to the API server, to ``cut()``, ``freeze()`` and ``mend()``; its clients get
                    ``plane.kubeconfig(token, port=wire.port)``.

``apiserver.api.Api`` is the plain client (``get``, ``list``, ``create``, ``patch``, ``apply``, ``delete``, ``watch``,
``Refused``); ``apiserver.stand_ins`` does what kubelets, schedulers and volume drivers would do
(``run_pod``, ``block_pod``, ``leave_unscheduled``, ``end_pod``, ``bind_claim``, ``make_storage_class``,
``Kubelet``). Import them so: ``from apiserver.stand_ins import run_pod``.

Where the programs are missing, these tests are skipped with the remedy; with CI=true or
CELLMESH_REQUIRE_LEVELS=1 they fail. When a test fails, its report ends with the namespace's Cells and events and
with the logs of the control plane.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from apiserver.binaries import REMEDY, absent
from apiserver.control_plane import ControlPlane
from apiserver.wire import Wire
from levels import missing

HERE = Path(__file__).parent
NEEDED = ("etcd", "kube-apiserver", "kubectl")
_PLANES = pytest.StashKey[list[ControlPlane]]()
_NAMESPACES = pytest.StashKey[list[str]]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this directory."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.apiserver)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Add to the report of a failure what the control plane knows of it."""
    report = yield
    if report.failed:
        for plane in item.config.stash.get(_PLANES, []):
            for title, text in _evidence(plane, item.stash.get(_NAMESPACES, [])):
                report.sections.append((title, text))
    return report


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[ControlPlane]:
    """Share one control plane between all tests, with the definition of Cells installed."""
    _need(NEEDED)
    with ControlPlane(tmp_path_factory.mktemp("control-plane")) as running:
        planes = pytestconfig.stash.setdefault(_PLANES, [])
        planes.append(running)
        running.install_crd()
        yield running
        planes.remove(running)


@pytest.fixture
def new_plane(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Start another control plane, for a test that would harm the shared one."""
    _need(NEEDED)
    planes = request.config.stash.setdefault(_PLANES, [])
    started: list[ControlPlane] = []
    with ExitStack() as stack:

        def start(*, crd: bool = True, audit: bool = True, flags: Sequence[str] = ()) -> ControlPlane:
            directory = tmp_path_factory.mktemp("other-plane")
            running = stack.enter_context(ControlPlane(directory, audit=audit, flags=flags))
            started.append(running)
            planes.append(running)
            if crd:
                running.install_crd()
            return running

        yield start
        for running in started:
            planes.remove(running)


@pytest.fixture
def make_namespace(plane: ControlPlane, request: pytest.FixtureRequest) -> Iterator[Callable[..., str]]:
    """Make namespaces of the test's own: ``make_namespace(labels={...})`` returns the name."""
    names = request.node.stash.setdefault(_NAMESPACES, [])

    def make(labels: dict[str, str] | None = None) -> str:
        name = f"test-{uuid.uuid4().hex[:10]}"
        given = {"pod-security.kubernetes.io/enforce": "restricted"} if labels is None else labels
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": given}}
        plane.api.create("namespaces", None, body)
        names.append(name)
        return name

    yield make
    if not plane.server.running:
        plane.start_server()
    for name in names:
        plane.api.empty(name)


@pytest.fixture
def namespace(make_namespace: Callable[..., str]) -> str:
    """Make a namespace of the test's own, enforcing Pod Security ``restricted``."""
    return make_namespace()


@pytest.fixture
def controllers(plane: ControlPlane) -> Iterator[Callable[..., None]]:
    """Run controllers of kube-controller-manager, by name, until the test ends."""
    _need(("kube-controller-manager",))
    with ExitStack() as stack:

        def start(*names: str, qps: float = 200, burst: int = 400, flags: Sequence[str] = ()) -> None:
            stack.enter_context(plane.running_controllers(*names, qps=qps, burst=burst, flags=flags))

        yield start


@pytest.fixture
def wire(plane: ControlPlane) -> Iterator[Wire]:
    """Put a forwarder in front of the API server, whose connections a test can cut."""
    with Wire(plane.port) as forwarding:
        yield forwarding


def _need(programs: Sequence[str]) -> None:
    if lacking := absent(programs):
        missing(f"no API server to test against: {lacking}", REMEDY)


def _evidence(plane: ControlPlane, namespaces: Sequence[str]) -> Iterator[tuple[str, str]]:
    for name in namespaces:
        try:
            cells, events = plane.api.list("cells", name), plane.api.list("events", name)
        except Exception as error:
            yield f"namespace {name}", f"could not be looked at: {error}"
            continue
        for cell in cells:
            cell["metadata"].pop("managedFields", None)
        yield f"Cells of {name}", "\n".join(json.dumps(cell) for cell in cells)
        lines = (
            f"{one.get('lastTimestamp') or one.get('eventTime')} {one['involvedObject'].get('kind')}/"
            f"{one['involvedObject'].get('name')} {one.get('reason')}: {one.get('message')}"
            for one in events
        )
        yield f"events of {name}", "\n".join(lines)
    yield f"end of {plane.server.log}", plane.server.tail()
    if plane.controllers.running:
        yield f"end of {plane.controllers.log}", plane.controllers.tail()
