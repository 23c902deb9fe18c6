"""The operator misses what happened: it is cut off from an API server that was started anew meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from e2e.clusters import SOON, Cluster
from e2e.releases import Release
from e2e.spaces import Space, cell
from e2e.watching import PodWatch
from support import eventually

#: Seconds after the reconnection in which everything is known again.
PROMISED = 15.0


@contextmanager
def cut_off(cluster: Cluster, release: Release) -> Iterator[None]:
    """Refuse every connection of the operator's pods to the API server, at their nodes."""
    rules = []
    for pod in (*release.pods("reconciler"), *release.pods("discovery")):
        rule = f"FORWARD -s {pod['status']['podIP']} -p tcp --dport 6443 -j REJECT --reject-with tcp-reset".split()
        rules.append((pod["spec"]["nodeName"], rule))
    try:
        for node, rule in rules:
            cluster.on_node(node, "iptables", "-I", *rule)
        yield
    finally:
        for node, rule in rules:
            cluster.on_node(node, "iptables", "-D", *rule)


@pytest.mark.usefixtures("needs_nodes")
def test_what_was_missed_is_known_fifteen_seconds_after_the_connection_is_back(
    space: Space, cluster: Cluster, release: Release
) -> None:
    """A pod, a Cell and a child go while nobody of the operator sees it: the peers are right, the child is back."""
    space.start(cell("alpha"), cell("pure", replicas=2), cell("gone"))
    eventually(lambda: len(space.peers()) == 4, within=SOON, message="all peers")
    old = {name: peer["uid"] for name, peer in space.peers().items()}
    service = cluster.api.must_get("services", space.name, "alpha")["metadata"]["uid"]
    with cut_off(cluster, release):
        # This ends their watches; the new server has no history from which they could go on.
        with cluster.api_server_stopped():
            pass
        space.kubectl("delete", "pod", "pure-1")
        space.kubectl("delete", "cell", "gone")
        space.kubectl("delete", "service", "alpha")
        space.wait_gone("pods", "gone-0")
        space.wait_pod("pure-1", other_than=old["pure-1"])
        assert cluster.api.get("services", space.name, "alpha") is None
        missed = {name: peer["uid"] for name, peer in space.peers().items()}
        assert missed == old, "it was not cut off"
    begin = PodWatch.now()

    def right() -> bool:
        peers = {name: peer["uid"] for name, peer in space.peers().items()}
        assert peers.keys() == {"alpha-0", "pure-0", "pure-1"}
        assert peers["pure-1"] == space.pod("pure-1")["metadata"]["uid"]
        return True

    def forgotten() -> bool:
        answer = release.ask_discovery(space.name, "/peers?cell_id=gone")
        return answer.json["known"] is False

    def back() -> bool:
        return bool(cluster.api.must_get("services", space.name, "alpha")["metadata"]["uid"] != service)

    eventually(right, within=PROMISED, message="the peers to be right")
    peers_after = PodWatch.now() - begin
    eventually(back, within=max(PROMISED - peers_after, 0), message="the Service to be back")
    print(
        f"\nafter the reconnection: peers right after {peers_after:.1f} s, child back by {PodWatch.now() - begin:.1f} s"
    )
    eventually(forgotten, within=PROMISED, message="the Cell to be unknown")
