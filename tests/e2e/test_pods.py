"""Pods are deleted: how soon the mesh knows, and what senders see."""

from __future__ import annotations

import json
import string
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

from e2e.client_pod import ClientPod
from e2e.clusters import SOON
from e2e.ledgers import Ledger, excused
from e2e.spaces import VOLUME, Space, cell, port_of
from e2e.watching import PeersWatch, PodSeen, PodWatch, percentiles, watched
from support import eventually

CELLS = 10
DELETIONS = 5
#: What a cell is told to wait after SIGTERM before it refuses messages, in seconds.
DRAIN_DELAY = 2.0


def test_a_deleted_pod_goes_on_answering_for_its_drain_delay(space: Space, client: ClientPod) -> None:
    """It is unready at once and gone from the peers, yet takes what still comes; then it says that it drains."""
    space.start(cell("pure"))
    pod = space.pod("pure-0")
    with watched(space) as (pods, peers):
        eventually(lambda: all(watch.appeared(pod["metadata"]["uid"]) for watch in peers), within=SOON)
        client.launch(space.name, "knock.py", pod["status"]["podIP"], str(port_of(pod)), "pure")
        eventually(lambda: client.read(space.name).count("200") > 3, within=SOON, message="the pod to answer")
        space.kubectl("delete", "pod", "pure-0", "--wait=false")
        eventually(lambda: all(watch.vanished(pod["metadata"]["uid"]) for watch in peers), within=SOON)
        space.wait_pod("pure-0", other_than=pod["metadata"]["uid"])
        knocks = [json.loads(line) for line in client.read(space.name).splitlines()]
    told = pods.first(lambda seen: seen.uid == pod["metadata"]["uid"] and seen.leaving)
    assert told is not None
    after = [knock for knock in knocks if knock["began"] > told.at]
    first = next(knock for knock in after if knock["status"] != 200)
    gone = [round((watch.vanished(pod["metadata"]["uid"]) or 0) - told.at, 3) for watch in peers]
    print(f"\nanswers for {first['began'] - told.at:.2f} s after its deletion; gone from the peers after {gone} s")
    # SIGTERM comes a moment after the deletion, never before it.
    assert first["began"] - told.at > DRAIN_DELAY - 0.2
    assert {knock["status"] for knock in after if knock["began"] < first["began"]} == {200}
    assert {(knock["status"], knock["code"]) for knock in after} - {(200, "")} <= {
        (503, "draining"),
        (0, "ConnectionRefusedError"),
        (0, "ConnectionResetError"),
        (0, "RemoteDisconnected"),
    }


def test_fifty_deleted_pods_are_replaced_among_the_peers(space: Space, ledger: Callable[..., Ledger]) -> None:
    """Each is gone from the peers of every replica and its successor there; no message is lost over it."""
    names = [f"pure-{letter}" for letter in string.ascii_lowercase[:CELLS]]
    space.start(cell("alpha"), *(cell(name, storage=VOLUME) for name in names))
    with watched(space) as (pods, peers), ExitStack() as stack:
        flows = {name: stack.enter_context(ledger(space, to=name, clients=1, timeout=1)) for name in names}
        with ThreadPoolExecutor(CELLS) as executor:
            work = [executor.submit(_delete_over_and_over, space, name, pods, peers) for name in names]
            turns = [turn for one in work for turn in one.result()]
        for flow in flows.values():
            flow.wait_flowing()
            flow.finish()
    assert len(turns) == CELLS * DELETIONS
    vanished = [watch.vanished(turn.old) - turn.leaving for turn in turns for watch in peers]  # type: ignore[operator]
    appeared = [watch.appeared(turn.new) - turn.ready for turn in turns for watch in peers]  # type: ignore[operator]
    print(f"\ngone from the peers after its deletion: {percentiles(vanished)}")
    print(f"successor among the peers after it is Ready: {percentiles(appeared)}")
    print(f"from deletion to Ready: {percentiles([turn.ready - turn.leaving for turn in turns])}")
    print(f"gap in deliveries to a cell of one instance: {percentiles(_gaps(turns, flows))}")
    # The second that the contract names. Of most: what a pause of this machine adds is not discovery's.
    assert sorted(appeared)[len(appeared) // 2] < 1
    assert sorted(vanished)[len(vanished) // 2] < 1
    for name, flow in flows.items():
        spans = list(pods.unready(name, until=pods.now()))
        assert len(spans) == DELETIONS
        assert [attempt for attempt in flow.finish().failed if not excused(attempt, spans)] == []
        flow.check_inboxes()


@dataclass(frozen=True)
class Turn:
    """One deletion: the uids of the pod and of its successor, when the one was said to go and the other was Ready."""

    name: str
    old: str
    new: str
    leaving: float
    ready: float


def _delete_over_and_over(space: Space, name: str, pods: PodWatch, peers: list[PeersWatch]) -> list[Turn]:
    instance = f"{name}-0"
    turns: list[Turn] = []
    old = str(space.pod(instance)["metadata"]["uid"])
    for _ in range(DELETIONS):
        _wait_among(peers, old)
        space.cluster.api.delete("pods", space.name, instance)
        leaving, ready = _wait_replaced(pods, instance, old)
        turns.append(Turn(name, old, ready.uid, leaving.at, ready.at))
        old = ready.uid
    _wait_among(peers, old)
    return turns


def _wait_replaced(pods: PodWatch, instance: str, old: str) -> tuple[PodSeen, PodSeen]:
    """Return the first sight of a pod being about to go, and that of its successor being Ready."""

    def replaced() -> tuple[PodSeen, PodSeen] | None:
        leaving = pods.first(lambda seen: seen.uid == old and seen.leaving)
        if leaving is None:
            return None
        ready = pods.first(
            lambda seen: seen.name == instance and seen.uid != old and seen.ready and seen.at > leaving.at
        )
        return None if ready is None else (leaving, ready)

    found = eventually(replaced, within=SOON, message=f"{instance} to be replaced")
    assert found is not None
    return found


def _wait_among(peers: list[PeersWatch], uid: str) -> None:
    eventually(lambda: all(watch.appeared(uid) for watch in peers), within=SOON, message=f"{uid} among the peers")


def _gaps(turns: list[Turn], flows: dict[str, Ledger]) -> list[float]:
    return [flows[turn.name].finish().gap(turn.leaving - 0.5, turn.ready + 2) for turn in turns]
