"""From Cells and pods to peers. Pure.

A pod is a peer while it serves and the Cell that it says it is of is there; what peers are told of a Cell
(``type``, ``branch``, ``services``, ``durability``, how many there should be) is read off the Cell, so that editing
it restarts nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from cellmesh_operator.discovery.members import Key
from cellmesh_operator.discovery.objects import CellFacts, PodFacts, peer_of
from cellmesh_operator.discovery.registry import Registry


class Projection:
    """Keeps a registry in step with Cells and pods, whatever the order in which they come and go.

    Args:
        registry: where the peers go.
        on_evicted: called with each registration that had to give way to a Cell of its name.

    """

    def __init__(self, registry: Registry, on_evicted: Callable[[Key], None]) -> None:
        self._registry = registry
        self._on_evicted = on_evicted
        self._cells: dict[tuple[str, str], CellFacts] = {}
        self._pods: dict[tuple[str, str], dict[str, PodFacts]] = {}

    def cell_changed(self, old: CellFacts | None, new: CellFacts | None) -> None:
        """Take in that a Cell came, changed or went."""
        if old == new:
            return
        if new is None:
            assert old is not None  # noqa: S101 - one of the two is there
            self._remove_cell(old)
            return
        self._cells[new.namespace, new.name] = new
        for key in self._registry.declare(new.namespace, new.name, new.replicas):
            self._on_evicted(key)
        for pod in self._pods.get((new.namespace, new.name), {}).values():
            self._registry.put_pod(new.namespace, peer_of(new, pod))

    def pod_changed(self, old: PodFacts | None, new: PodFacts | None) -> None:
        """Take in that a pod began to serve, changed or serves no longer."""
        if old == new:
            return
        if old is not None and (new is None or new.cell != old.cell):
            self._remove_pod(old)
        if new is not None:
            self._pods.setdefault((new.namespace, new.cell), {})[new.name] = new
            cell = self._cells.get((new.namespace, new.cell))
            if cell is not None:
                self._registry.put_pod(new.namespace, peer_of(cell, new))

    def _remove_cell(self, cell: CellFacts) -> None:
        del self._cells[cell.namespace, cell.name]
        for name in self._pods.get((cell.namespace, cell.name), {}):
            self._registry.drop_pod(cell.namespace, cell.name, name)
        self._registry.undeclare(cell.namespace, cell.name)

    def _remove_pod(self, pod: PodFacts) -> None:
        pods = self._pods[pod.namespace, pod.cell]
        del pods[pod.name]
        if not pods:
            del self._pods[pod.namespace, pod.cell]
        self._registry.drop_pod(pod.namespace, pod.cell, pod.name)
