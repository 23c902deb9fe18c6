"""The API server is away for half a minute; when it is back, the operator is kept from it a while longer.

One run for both: first messages have to go on, then a pod, a Cell and a child go while nobody of the operator
sees it, and no history from which its watches could go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from e2e.clusters import SOON, Cluster
from e2e.ledgers import Ledger
from e2e.releases import Release
from e2e.spaces import VOLUME, Space, cell
from e2e.watching import PodWatch, stay
from support import eventually

#: Seconds that the API server is away.
AWAY = 30.0
#: Seconds after the operator is connected again in which it knows what it missed.
PROMISED = 15.0


@dataclass(kw_only=True)
class Outage:
    """What happened. Moments in seconds since the epoch, the others in seconds since the connection was back."""

    space: Space
    flow: Ledger
    began: float
    ended: float
    blind: bool
    peers_right: float
    cell_forgotten: float
    child_back: float
    restarts_before: dict[str, int]
    restarts_after: dict[str, int]


@pytest.fixture(scope="module")
def outage(
    make_shared_space: Callable[[], Space],
    cluster: Cluster,
    release: Release,
    ledger: Callable[..., Ledger],
    needs_nodes: None,
) -> Outage:
    """Stop the API server, cut the operator off, start it, take things away, let the operator see again."""
    space = make_shared_space()
    space.start(cell("alpha"), cell("pure", replicas=2, storage=VOLUME), cell("gone"))
    eventually(lambda: len(space.peers()) == 4, within=SOON, message="all peers")
    old = _uids(space)
    service = _uid(space, "services", "alpha")
    restarts = _restarts(release)
    with cut_off(cluster, release) as cut:
        with ledger(space, to="pure") as flow:
            with cluster.api_server_stopped():
                began = PodWatch.now()
                stay(AWAY)
                ended = PodWatch.now()
                cut()
            flow.wait_flowing()
            flow.finish()
        space.kubectl("delete", "pod", "pure-1")
        space.kubectl("delete", "cell", "gone")
        space.kubectl("delete", "service", "alpha")
        space.wait_gone("pods", "gone-0")
        space.wait_pod("pure-1", other_than=old["pure-1"])
        blind = _uids(space) == old and cluster.api.get("services", space.name, "alpha") is None
    back = PodWatch.now()
    return Outage(
        space=space,
        flow=flow,
        began=began,
        ended=ended,
        blind=blind,
        peers_right=_until(back, lambda: _right(space), "the peers to be right"),
        cell_forgotten=_until(back, lambda: _forgotten(space, release, "gone"), "the Cell to be unknown"),
        child_back=_until(back, lambda: _uid(space, "services", "alpha") != service, "the Service to be back"),
        restarts_before=restarts,
        restarts_after=_restarts(release),
    )


@contextmanager
def cut_off(cluster: Cluster, release: Release) -> Iterator[Callable[[], None]]:
    """Give what refuses, at their nodes, every connection of the operator's pods to the API server, until the end."""
    pods = [*release.pods("reconciler"), *release.pods("discovery")]
    rules = [
        (
            pod["spec"]["nodeName"],
            f"FORWARD -s {pod['status']['podIP']} -p tcp --dport 6443 -j REJECT --reject-with tcp-reset".split(),
        )
        for pod in pods
    ]
    made = []

    def cut() -> None:
        for node, rule in rules:
            cluster.on_node(node, "iptables", "-I", *rule)
            made.append((node, rule))

    try:
        yield cut
    finally:
        for node, rule in made:
            cluster.on_node(node, "iptables", "-D", *rule)


def _uid(space: Space, plural: str, name: str) -> str:
    return str(space.cluster.api.must_get(plural, space.name, name)["metadata"]["uid"])


def _uids(space: Space) -> dict[str, str]:
    return {name: peer["uid"] for name, peer in space.peers().items()}


def _right(space: Space) -> bool:
    peers = _uids(space)
    assert peers.keys() == {"alpha-0", "pure-0", "pure-1"}
    assert peers == {name: _uid(space, "pods", name) for name in peers}
    return True


def _forgotten(space: Space, release: Release, name: str) -> bool:
    return release.ask_discovery(space.name, f"/peers?cell_id={name}").json["known"] is False


def _until(since: float, check: Callable[[], bool], message: str) -> float:
    eventually(check, within=SOON, message=message)
    return PodWatch.now() - since


def _restarts(release: Release) -> dict[str, int]:
    pods = [*release.pods("reconciler"), *release.pods("discovery")]
    return {pod["metadata"]["name"]: pod["status"]["containerStatuses"][0]["restartCount"] for pod in pods}


def test_messages_go_on_without_the_api_server(outage: Outage) -> None:
    """Between cells that know each other no send fails, and nothing acknowledged is lost."""
    record = outage.flow.finish()
    delivered = [one for one in record.delivered if outage.began < one.began and one.ended < outage.ended]
    print(f"\nAPI server away for {outage.ended - outage.began:.0f} s: {len(delivered)} messages delivered")
    assert len(delivered) > AWAY
    assert record.failed == []
    outage.flow.check_inboxes()


def test_what_was_missed_is_known_fifteen_seconds_after_the_connection_is_back(outage: Outage) -> None:
    """The pod and the Cell are gone from the peers, the pod's successor is there, the child is made again."""
    assert outage.blind, "the operator was not cut off: it saw what happened"
    print(
        f"\nafter the reconnection: peers right after {outage.peers_right:.1f} s, "
        f"Cell forgotten by {outage.cell_forgotten:.1f} s, child back by {outage.child_back:.1f} s"
    )
    assert max(outage.peers_right, outage.cell_forgotten, outage.child_back) < PROMISED


def test_all_goes_on_by_itself_after_the_outage(outage: Outage) -> None:
    """Nothing of the operator was started anew; a change of a Cell is acted upon, and messages flow."""
    assert outage.restarts_after == outage.restarts_before
    space = outage.space
    space.patch("pure", {"replicas": 3})
    space.wait_ready("pure")
    eventually(lambda: "pure-2" in space.peers(), within=SOON, message="the third instance among the peers")
    sent = space.send("alpha-0", "pure", to_instance="pure-2")
    assert sent.status == 200, sent
