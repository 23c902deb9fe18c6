"""Charts rendered by the real Helm 3 and Helm 4; a test that takes ``helm`` runs once with each.

``helm("lint", ...)`` runs it and returns the finished process; ``render(*options)`` returns what the chart
``cellmesh`` makes, as a ``Rendered``. Without Helm these tests are skipped with the remedy, or fail where required.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from apiserver.binaries import Missing, find
from levels import missing

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CHART = ROOT / "charts/cellmesh"
CRDS = ROOT / "charts/cellmesh-crds"

Helm = Callable[..., subprocess.CompletedProcess[str]]


@dataclass(frozen=True)
class Rendered:
    """What a chart makes: objects in Helm's order, hooks among them."""

    objects: list[dict[str, Any]] = field(default_factory=list)

    def all(self, kind: str) -> list[dict[str, Any]]:
        """Return the objects of a kind."""
        return [found for found in self.objects if found["kind"] == kind]

    def one(self, kind: str, name: str, namespace: str | None = None) -> dict[str, Any]:
        """Return the one object of that kind and name."""
        found = [
            each
            for each in self.all(kind)
            if each["metadata"]["name"] == name and namespace in (None, each["metadata"].get("namespace"))
        ]
        assert len(found) == 1, f"{len(found)} of {kind} {name}; there are {self.names()}"
        return found[0]

    def names(self) -> list[str]:
        """Return ``Kind/name`` of every object."""
        return [f"{each['kind']}/{each['metadata']['name']}" for each in self.objects]

    def pods(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the name and the spec of every pod, in a template or on its own."""
        for each in self.objects:
            if each["kind"] == "Deployment":
                yield each["metadata"]["name"], each["spec"]["template"]["spec"]
            elif each["kind"] == "Pod":
                yield each["metadata"]["name"], each["spec"]


Render = Callable[..., Rendered]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this directory."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.charts)


@pytest.fixture(params=["helm3", "helm4"])
def helm(request: pytest.FixtureRequest) -> Helm:
    """Return a function that runs Helm 3, or Helm 4."""
    try:
        program = find(request.param)
    except Missing as fault:
        missing(str(fault), "run `make tools`")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([program, *arguments], capture_output=True, text=True, check=False, timeout=60)

    return run


@pytest.fixture
def render(helm: Helm) -> Render:
    """Return a function that renders a chart: ``cellmesh`` of release ``cellmesh`` unless told otherwise."""

    def run(
        *options: str, chart: Path = CHART, release: str = "cellmesh", namespace: str = "cellmesh-system"
    ) -> Rendered:
        done = helm("template", release, str(chart), "--namespace", namespace, *options)
        assert done.returncode == 0, done.stderr
        return Rendered([found for found in yaml.safe_load_all(done.stdout) if found])

    return run


@pytest.fixture
def refused(helm: Helm) -> Callable[..., str]:
    """Return a function that renders with options that must be refused, and returns what Helm says."""

    def run(*options: str) -> str:
        done = helm("template", "cellmesh", str(CHART), *options)
        assert done.returncode != 0, "it was rendered"
        return done.stderr

    return run
