"""The images under test, and how they get onto the cluster's nodes."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from e2e.clusters import Cluster, script
from e2e.programs import run
from levels import missing

_GIVEN = ("CELLMESH_E2E_CELL_IMAGE", "CELLMESH_E2E_NEXT_CELL_IMAGE", "CELLMESH_E2E_OPERATOR_IMAGE")


@dataclass(frozen=True)
class Images:
    """Names of images as ``repository:tag``; ``next_cell`` is another than ``cell`` and works as well."""

    cell: str
    next_cell: str
    operator: str


class Build:
    """The building of the images, which goes on while a cluster is made."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1)
        self._under_way: Future[str] | None = None

    def begin(self) -> Future[str]:
        """Begin, unless it has begun."""
        if self._under_way is None:
            self._under_way = self._executor.submit(script, "deploy/images.sh", "e2e")
        return self._under_way

    def finish(self) -> None:
        """Wait for its end.

        Raises:
            Failed: the images could not be built.

        """
        self.begin().result()


def provide(cluster: Cluster, build: Build, show: Callable[[], Any]) -> Images:
    """Build the images and load them, or take those that are given for a cluster that is not kind's."""
    if not cluster.kind:
        names = [os.environ.get(name, "") for name in _GIVEN]
        if not all(names):
            missing("images cannot be loaded into this cluster", f"push them, and name them in {', '.join(_GIVEN)}")
        return Images(*names)
    with show():
        build.finish()
        images = _tagged()
        script("tests/kind/cluster.sh", "load", images.cell, images.next_cell, images.operator, "--name", cluster.kind)
    return images


def _tagged() -> Images:
    """Tag what was built by its content, so that a cluster that was kept sees a change as what it is: an upgrade."""
    names = []
    for image in ("cellmesh-cell", "cellmesh-operator"):
        found = run(["docker", "image", "inspect", "-f", "{{.Id}}", f"{image}:e2e"], environ={}).strip()
        name = f"{image}:e2e-{found.removeprefix('sha256:')[:12]}"
        run(["docker", "tag", f"{image}:e2e", name], environ={})
        names.append(name)
    cell, operator = names
    run(["docker", "tag", cell, f"{cell}-next"], environ={})
    return Images(cell, f"{cell}-next", operator)


def forget(cluster: Cluster, images: Images) -> None:
    """Take the tags of this run away, unless its cluster is kept; the images stay until they are built anew."""
    if cluster.kind and not os.environ.get("CELLMESH_E2E_KEEP"):
        run(["docker", "rmi", *vars(images).values()], environ={})
