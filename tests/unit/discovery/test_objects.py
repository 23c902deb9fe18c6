"""What is read off Cells and pods."""

import json
from typing import Any

import pytest

from cellmesh.protocol.peers import Peer
from cellmesh_operator.discovery.objects import CellFacts, PodFacts, peer_of, read_cell, read_pod
from unit.discovery.fake_api import cell, pod

POD = PodFacts("m", "pure-0", "uid-pure-0", "pure", "10.0.0.1", 8002)


def without(item: dict[str, Any], *path: str) -> dict[str, Any]:
    """Return an object without one of its fields."""
    inner = item
    for name in path[:-1]:
        inner = inner[name]
    del inner[path[-1]]
    return item


def with_ports(*containers: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a pod whose containers have these ports."""
    item = pod("pure-0")
    item["spec"]["containers"] = [{"ports": ports} for ports in containers]
    return item


def owned(**changes: Any) -> dict[str, Any]:
    """Return a pod whose owner differs."""
    item = pod("pure-0")
    item["metadata"]["ownerReferences"][0].update(changes)
    return item


def named(name: str, item: dict[str, Any]) -> dict[str, Any]:
    """Return a pod under another name."""
    item["metadata"]["name"] = name
    return item


def orphaned(name: str) -> dict[str, Any]:
    """Return a pod of the Cell by its label that nothing controls."""
    return named(name, without(pod("pure-0"), "metadata", "ownerReferences"))


def test_a_ready_pod_of_a_stateful_set_is_read() -> None:
    """Expect its name, uid, Cell, address and port."""
    assert read_pod(pod("pure-0")) == POD


@pytest.mark.parametrize("item", [orphaned("pure-0"), owned(controller=False)])
def test_an_instance_whose_stateful_set_is_made_anew_stays(item: dict[str, Any]) -> None:
    """Expect a pod that nothing controls and that the StatefulSet will adopt to be read as before."""
    assert read_pod(item) == POD


NO_PEER = {
    "not ready": pod("pure-0", ready=False),
    "no readiness known yet": without(pod("pure-0"), "status", "conditions"),
    "no status at all": without(pod("pure-0"), "status"),
    "no address": pod("pure-0", ip=None),
    "terminating": pod("pure-0", deletionTimestamp="2026-01-31T12:00:00Z"),
    "no label": without(pod("pure-0"), "metadata", "labels"),
    "no owner, and no ordinal in its name": orphaned("pure"),
    "no owner, and something else than an ordinal in its name": orphaned("pure-x"),
    "no owner, and the name of another Cell's instance": orphaned("impure-0"),
    "no owner, and a name that no StatefulSet gives": orphaned("pure-01"),
    "another kind of owner": owned(kind="ReplicaSet"),
    "another API group's StatefulSet": owned(apiVersion="apps.example.org/v1"),
    "the StatefulSet of another name": owned(name="other"),
    "an owner that does not control, and no ordinal in its name": named("pure-x", owned(controller=False)),
    "no port": with_ports([]),
    "a port of another name": with_ports([{"name": "http", "containerPort": 8002}]),
    "containers that are none": {**pod("pure-0"), "spec": {"containers": "x"}},
}


@pytest.mark.parametrize("item", list(NO_PEER.values()), ids=list(NO_PEER))
def test_any_other_pod_is_no_peer(item: dict[str, Any]) -> None:
    """Expect nothing to be kept of it."""
    assert read_pod(item) is None


def test_the_port_is_the_one_that_is_named_whichever_container_has_it() -> None:
    """Expect neither the first container's nor the first port."""
    item = with_ports([{"containerPort": 1}], [{"name": "x", "containerPort": 2}, {"name": "cell", "containerPort": 3}])
    facts = read_pod(item)
    assert facts is not None
    assert facts.port == 3


def test_a_cell_is_read_with_what_peers_are_told_of_it() -> None:
    """Expect type, branch and services, where its messages are kept, and how many instances it should have."""
    item = cell("pure", type="pure", branch="main", services=["a", "b"], replicas=3)
    assert read_cell(item) == CellFacts("m", "pure", "pure", "main", ("a", "b"), "volume", 3)


@pytest.mark.parametrize(
    ("storage", "durability"),
    [(None, "volume"), ({"size": "1Gi"}, "volume"), ({"ephemeral": {}}, "ephemeral"), ({"ephemeral": None}, "volume")],
)
def test_a_cell_says_by_its_storage_where_messages_are_kept(storage: Any, durability: str) -> None:
    """Expect a volume unless it is ephemeral, and one instance where no number is written."""
    facts = read_cell(cell("pure", storage=storage))
    assert facts is not None
    assert (facts.durability, facts.replicas) == (durability, 1)


@pytest.mark.parametrize("item", [cell("a.b"), cell("pure", services=5), {"metadata": {"name": "pure"}}])
def test_a_cell_that_cannot_be_one_is_left_out(item: dict[str, Any]) -> None:
    """Expect no error: one bad Cell never stops the others."""
    assert read_cell(item) is None


def test_a_pod_is_told_as_a_peer_with_all_its_fields() -> None:
    """Expect the design's fields, the hostname and instance being the pod's name."""
    record = peer_of(CellFacts("m", "pure", "pure", "main", ("a",), "volume", 3), POD)
    told = json.loads(record.encoded("now"))
    assert told == {
        "cell_id": "pure",
        "ip": "10.0.0.1",
        "port": 8002,
        "hostname": "pure-0",
        "type": "pure",
        "branch": "main",
        "services": ["a"],
        "namespace": "m",
        "instance": "pure-0",
        "uid": "uid-pure-0",
        "source": "pod",
        "durability": "volume",
        "last_seen": "now",
    }
    assert told.keys() == set(Peer.__struct_fields__)


def test_what_a_cell_does_not_say_is_not_told() -> None:
    """Expect no nulls."""
    assert (
        not {"type", "branch", "services", "durability"}
        & json.loads(peer_of(CellFacts("m", "pure"), POD).encoded("t")).keys()
    )
