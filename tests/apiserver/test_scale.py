"""Many Cells at once: what the reconciler writes for each, and that a restart writes nothing. No times are asserted.

``python -m benchmarks.scale`` does the same with 1,000 Cells and measures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from apiserver.control_plane import ControlPlane
from apiserver.reconcilers import Reconciler, make_cell, running, token, user
from apiserver.stand_ins import Kubelet, make_storage_class
from support import eventually

CELLS = 100
#: API writes by the reconciler for a new Cell at most, until it is Ready.
WRITES = 9
#: Seconds for each phase, on a busy machine.
PATIENCE = 100.0


def test_many_cells_at_once_cost_a_bounded_number_of_writes_and_a_restart_none(
    plane: ControlPlane, namespace: str, controllers: Callable[..., None], tmp_path: Path
) -> None:
    """Expect at most nine writes for each of a hundred Cells with volumes until all are Ready, and none afterwards."""
    make_storage_class(plane.api, "standard", expandable=True, default=True)
    controllers("statefulset-controller", flags=["--concurrent-statefulset-syncs=20"])
    config = plane.kubeconfig(token(plane, namespace))
    mark = plane.audit_mark()

    def ready() -> bool:
        cells = plane.api.list("cells", namespace)
        conditions = [one for cell in cells for one in cell.get("status", {}).get("conditions", [])]
        return sum(one["type"] == "Ready" and one["status"] == "True" for one in conditions) == CELLS

    with running(Reconciler(tmp_path, config, namespaces=namespace)) as reconciler, Kubelet(plane, namespace):
        with ThreadPoolExecutor(8) as pool:
            for number in range(CELLS):
                pool.submit(make_cell, plane.api, namespace, f"c{number:03}", storage={"size": "1Gi"})
        eventually(ready, within=PATIENCE, message="all Cells to be Ready")
        reconciler.idle()
        assert reconciler.metric("repairs_total") == 0
    writes = Counter(one.name.partition(".")[0] for one in plane.requests_since(mark, user=user(namespace)))
    assert len(writes) == CELLS
    assert max(writes.values()) <= WRITES, writes.most_common(3)
    mark = plane.audit_mark()
    with running(Reconciler(tmp_path, config, namespaces=namespace, resync="2")) as reconciler:
        looks = "reconcile_seconds_count"
        eventually(lambda: reconciler.metric(looks) >= CELLS, within=PATIENCE, message="all Cells to be looked at")
        reconciler.idle()
    assert [one.text for one in plane.requests_since(mark, user=user(namespace))] == []
    plane.api.delete("storageclasses", None, "standard")
