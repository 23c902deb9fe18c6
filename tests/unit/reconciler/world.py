"""A reconciler on an API server in memory, with a clock that the test moves."""

from __future__ import annotations

import asyncio
from typing import Any

from cellmesh_operator.naming import CELLS, EVENTS, PODS, STATEFUL_SETS, Resource
from cellmesh_operator.reconciler.looking import Reconciler
from cellmesh_operator.reconciler.metrics import Metrics
from cellmesh_operator.reconciler.noticing import Notices
from cellmesh_operator.reconciler.observing import Observer
from cellmesh_operator.reconciler.rollout import Rollout
from cellmesh_operator.reconciler.settings import Settings
from cellmesh_operator.reconciler.store import KINDS, Key, Store
from cellmesh_operator.reconciler.working import Outcome
from unit.reconciler.fake_client import FakeClient

Object = dict[str, Any]


class World:
    """One reconciler and what it sees.

    Attributes:
        client: the API server.
        now: seconds on the clock.
        woken: Cells whose turn in a rollout has come.

    """

    def __init__(self, client: FakeClient | None = None, **settings: Any) -> None:
        self.client = client or FakeClient()
        self.now = 1000.0
        self.woken: list[Key] = []
        self.metrics = Metrics()
        self.store = Store()
        given = {"discovery_url": "http://discovery:8001", "cell_image": "cellmesh-cell:1", **settings}
        self.settings = Settings(**given)
        self.rollout = Rollout(self.settings.max_concurrent)
        self.notices = Notices(self.client, self.metrics, clock=lambda: self.now, sleep=_no_sleep)  # type: ignore[arg-type]
        self.observer = Observer(self.client, self.store, lambda: self.now)  # type: ignore[arg-type]
        self.reconciler = Reconciler(
            self.client,  # type: ignore[arg-type]
            self.store,
            self.observer,
            self.rollout,
            self.notices,
            self.metrics,
            self.settings.build,
            wake=self.woken.append,
            clock=lambda: self.now,
            now=lambda: f"2026-01-01T00:{int(self.now) // 60 % 60:02}:{int(self.now) % 60:02}Z",
        )

    def make_cell(self, name: str = "alpha", **spec: Any) -> Object:
        """Create or edit a Cell as its author would, and let the watch tell."""
        known = self.client.there(CELLS, name) or {"metadata": {"name": name}}
        return self.tell(CELLS, self.client.put(CELLS, {**known, "spec": spec}))

    def tell(self, resource: Resource, item: Object) -> Object:
        """Let the watch tell of an object."""
        self.store.put(resource, item)
        return item

    def tell_all(self) -> None:
        """Let the watches tell of everything that is there."""
        for kind in KINDS:
            for item in self.client._matching(kind, None, "" if kind == CELLS else "cellmesh.dev/cell"):
                self.store.put(kind, item)

    async def look(self, name: str = "alpha") -> Outcome:
        """Look at a Cell once."""
        return await self.reconciler.reconcile(("mesh", name))

    async def run_pods(self, name: str = "alpha", *, ready: bool = True) -> None:
        """Do what the StatefulSet's controller and kubelets do, and let the watches tell."""
        found = self.client.there(STATEFUL_SETS, name)
        assert found is not None
        revision = str(found["metadata"]["generation"])
        status = {
            "observedGeneration": found["metadata"]["generation"],
            "currentRevision": revision,
            "updateRevision": revision,
        }
        self.tell(STATEFUL_SETS, self.client.put(STATEFUL_SETS, {**found, "status": status}))
        for ordinal in range(found["spec"]["replicas"]):
            labels = {**found["spec"]["template"]["metadata"]["labels"], "controller-revision-hash": revision}
            metadata = {
                "name": f"{name}-{ordinal}",
                "labels": labels,
                "ownerReferences": [{"kind": "StatefulSet", "name": name, "uid": "set", "controller": True}],
            }
            condition = {"type": "Ready", "status": str(ready), "lastTransitionTime": "2026-01-01T00:00:00Z"}
            pod = {"metadata": metadata, "status": {"phase": "Running", "conditions": [condition]}}
            self.tell(PODS, self.client.put(PODS, pod))

    def conditions(self, name: str = "alpha") -> dict[str, tuple[str, str]]:
        """Return status and reason of each condition that was reported of a Cell."""
        cell = self.client.there(CELLS, name)
        assert cell is not None
        return {item["type"]: (item["status"], item["reason"]) for item in cell["status"]["conditions"]}

    async def send_notices(self) -> None:
        """Send the Events that wait."""
        sending = asyncio.create_task(self.notices.run())
        for _ in range(50):
            await asyncio.sleep(0)
        sending.cancel()

    def events(self) -> list[str]:
        """Return the reasons of the Events there are."""
        return [item["reason"] for item in self.client._matching(EVENTS, None, "")]


async def _no_sleep(_: float) -> None:
    await asyncio.sleep(0)
