"""Inboxes on volumes, and those that are not: pods and nodes go, volumes should grow."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from e2e.clusters import SOON, Cluster
from e2e.ledgers import Ledger
from e2e.spaces import VOLUME, Space, cell, spread
from support import eventually


def _put(space: Space, instance: str, *ids: str) -> None:
    for one in ids:
        message = {"message_id": one, "from_cell": "test", "payload": {"id": one}, "ttl": 0}
        answer = space.ask(instance, "POST", "/message", message)
        assert answer.status == 200, answer


def _ids(space: Space, instance: str) -> list[str]:
    return [message["message_id"] for message in space.messages(instance)]


@pytest.mark.usefixtures("needs_workers")
def test_a_drained_node_gives_its_inboxes_back(space: Space, cluster: Cluster, ledger: Callable[..., Ledger]) -> None:
    """Volumes are the node's own here: an instance returns with its inbox when the node does; others go on."""
    apart = {"topologySpreadConstraints": [spread("pure")]}
    space.start(cell("alpha"), cell("pure", replicas=2, storage=VOLUME, template=apart), cell("single", storage=VOLUME))
    _put(space, "single-0", "a", "b", "c")
    node = space.pod("single-0")["spec"]["nodeName"]
    if space.pod("alpha-0")["spec"]["nodeName"] == node:
        _move(space, cluster, "alpha-0", node)
    assert {pod["spec"]["nodeName"] for pod in space.pods("pure")} == set(cluster.workers), "they are not spread"
    with ledger(space, to="pure") as flow:
        try:
            cluster.kubectl("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=100s")
            space.wait_condition("single", "Ready", "False", "Unschedulable")
            assert space.condition("pure", "Available")["status"] == "True"
            eventually(lambda: len(_of(space, "pure")) == 1, within=SOON, message="one instance among the peers")
            flow.wait_flowing()
        finally:
            cluster.kubectl("uncordon", node)
        space.wait_ready("single", "pure")
        flow.wait_flowing()
    assert space.pod("single-0")["spec"]["nodeName"] == node
    assert _ids(space, "single-0") == ["a", "b", "c"]
    assert flow.finish().failed == []
    flow.check_inboxes()


def _of(space: Space, name: str) -> list[str]:
    return [instance for instance in space.peers() if instance.startswith(f"{name}-")]


def _move(space: Space, cluster: Cluster, instance: str, node: str) -> None:
    """Have a pod without a volume scheduled to another node."""
    cluster.kubectl("cordon", node)
    try:
        uid = space.pod(instance)["metadata"]["uid"]
        space.kubectl("delete", "pod", instance)
        space.wait_pod(instance, other_than=uid)
    finally:
        cluster.kubectl("uncordon", node)


def test_an_ephemeral_inbox_outlives_its_container_and_not_its_pod(space: Space, ledger: Callable[..., Ledger]) -> None:
    """As the documentation says: a restart of the container keeps it, a new pod begins with nothing."""
    space.start(cell("alpha"), cell("pure"))
    before = space.pod("pure-0")
    end = "import os, signal; os.kill(1, signal.SIGTERM)"
    with ledger(space, to="pure") as flow:
        space.kubectl("exec", "pure-0", "-c", "cell", "--", "python3", "-c", end)
        eventually(lambda: _restarted(space), within=SOON, message="the container to be started anew")
        flow.wait_flowing()
    assert space.pod("pure-0")["metadata"]["uid"] == before["metadata"]["uid"]
    flow.check_inboxes()
    space.kubectl("delete", "pod", "pure-0")
    space.wait_pod("pure-0", other_than=before["metadata"]["uid"])
    assert space.messages("pure-0") == []
    # The same comparison finds what was lost: it would find it in a cell with a volume, too.
    with pytest.raises(AssertionError, match="lost"):
        flow.check_inboxes()


def _restarted(space: Space) -> bool:
    (status,) = space.pod("pure-0")["status"]["containerStatuses"]
    return bool(status["restartCount"] == 1 and status["ready"])


def test_a_volume_that_cannot_grow_is_said_to_be_so(space: Space, cluster: Cluster) -> None:
    """Kind's class cannot expand volumes: StorageReady says so, the claim stays as it is, the cell goes on."""
    space.start(cell("pure", storage=VOLUME))
    uid = space.pod("pure-0")["metadata"]["uid"]
    space.patch("pure", {"storage": {"size": "2Gi"}})
    said = space.wait_condition("pure", "StorageReady", "False", "ExpansionNotSupported")
    print(f"\n{said['message']}")
    assert "standard" in said["message"]
    claim = cluster.api.must_get("persistentvolumeclaims", space.name, "inbox-pure-0")
    assert claim["spec"]["resources"]["requests"]["storage"] == "1Gi"
    assert space.condition("pure", "Ready")["status"] == "True"
    assert space.pod("pure-0")["metadata"]["uid"] == uid
    warnings = [event["reason"] for event in space.events("pure") if event["type"] == "Warning"]
    assert "ExpansionNotSupported" in warnings
