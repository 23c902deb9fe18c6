"""Discovery when the API server is away: what it serves, for how long, and what it finds afterwards."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from apiserver.control_plane import ControlPlane
from apiserver.discoveries import EXPIRY, Replica, make_cell, make_pod, running, token
from apiserver.stand_ins import end_pod
from apiserver.wire import Wire
from support import eventually

#: Seconds after a reconnection within which discovery has to be right again (the issue's bound).
BOUND = 15.0
LAPTOP = {"cell_id": "laptop", "ip": "h", "port": 1}


@pytest.fixture
def replica(plane: ControlPlane, make_namespace: Callable[..., str], wire: Wire, tmp_path: Path) -> Iterator[Replica]:
    """Run a replica that reaches the API server through the wire."""
    own = make_namespace()
    config = plane.kubeconfig(token(plane, own), port=wire.port)
    started = Replica("discovery", tmp_path, config, own)
    with running(started):
        yield started


def make_mesh(plane: ControlPlane, namespace: str, replica: Replica) -> None:
    """Make two Cells with two pods in all, and wait until they are told."""
    for name in ("alpha", "pure"):
        make_cell(plane.api, namespace, name)
        make_pod(plane.api, namespace, name)
    eventually(lambda: len(replica.peers(namespace)) == 2, within=BOUND, message="the peers")


def age(replica: Replica, namespace: str) -> float:
    """Return how old what is told is, in seconds."""
    answer = replica.answer(namespace)
    assert int(answer.headers["age"]) <= answer.json["age"]
    return float(answer.json["age"])


def test_what_was_deleted_in_a_gap_is_gone_after_it(
    plane: ControlPlane, namespace: str, replica: Replica, wire: Wire
) -> None:
    """Expect a pod and a Cell deleted while connections were cut and the server restarted to be gone soon after."""
    make_mesh(plane, namespace, replica)
    wire.cut()
    eventually(lambda: replica.metric("watch_restarts_total") > 0, within=BOUND, message="the loss to be noticed")
    end_pod(plane.api, namespace, "alpha-0")
    plane.api.delete("cells", namespace, "pure")
    plane.stop_server()
    plane.start_server()
    assert len(replica.peers(namespace)) == 2  # what it knew
    wire.mend()
    eventually(lambda: replica.peers(namespace) == {}, within=BOUND, message="both to be gone")
    assert replica.answer(namespace, "alpha").json["known"] is True
    assert replica.answer(namespace, "pure").json["known"] is False


def test_what_is_deleted_as_soon_as_the_server_is_back_is_gone(
    plane: ControlPlane, namespace: str, replica: Replica
) -> None:
    """Expect a pod and a Cell deleted right after a start, before discovery is back, to be gone soon after."""
    make_mesh(plane, namespace, replica)
    plane.stop_server(signal.SIGKILL)
    eventually(lambda: age(replica, namespace) > 1, within=BOUND, message="what is told to grow old")
    plane.start_server()
    end_pod(plane.api, namespace, "alpha-0")
    plane.api.delete("cells", namespace, "pure")
    eventually(lambda: replica.peers(namespace) == {}, within=BOUND, message="both to be gone")
    eventually(lambda: age(replica, namespace) < BOUND, within=BOUND, message="what is told to be fresh")


def test_while_the_server_is_away_all_is_served_and_nobody_expires(
    plane: ControlPlane, namespace: str, replica: Replica, wire: Wire
) -> None:
    """Expect peers, their growing age, readiness, registrations and beats as always; and expiry after it is back."""
    make_mesh(plane, namespace, replica)
    assert replica.post(f"/meshes/{namespace}/register", LAPTOP).status == 200
    eventually(lambda: replica.metric("unwritten_registrations") == 0, within=BOUND, message="it to be shared")
    wire.cut()
    late = {**LAPTOP, "cell_id": "late"}
    assert replica.post(f"/meshes/{namespace}/register", late).status == 200
    eventually(lambda: age(replica, namespace) > EXPIRY + 2, within=BOUND, message="time to pass")
    assert replica.peers(namespace).keys() == {"alpha-0", "pure-0", "laptop", "late"}
    assert replica.get("/readyz").status == replica.get("/livez").status == 200
    assert replica.post(f"/meshes/{namespace}/heartbeat", {"cell_id": "late"}).status == 200
    assert replica.metric("expired_total") == 0
    wire.mend()
    eventually(lambda: age(replica, namespace) < EXPIRY, within=BOUND, message="what is told to be fresh")
    eventually(
        lambda: replica.peers(namespace).keys() == {"alpha-0", "pure-0"}, within=BOUND, message="the silent to be gone"
    )


def test_a_network_that_swallows_everything_is_noticed(
    plane: ControlPlane, namespace: str, replica: Replica, wire: Wire
) -> None:
    """Expect age to grow although no connection breaks, nobody to expire, and all to go on afterwards."""
    make_mesh(plane, namespace, replica)
    assert replica.post(f"/meshes/{namespace}/register", LAPTOP).status == 200
    eventually(lambda: replica.metric("unwritten_registrations") == 0, within=BOUND, message="it to be shared")
    wire.freeze()
    # Longer than contact is taken for granted without a word.
    eventually(lambda: age(replica, namespace) > 11, within=2 * BOUND, message="what is told to grow old")
    assert "laptop" in replica.peers(namespace)
    assert replica.metric("expired_total") == 0
    make_pod(plane.api, namespace, "pure", 1)
    wire.mend()
    eventually(lambda: "pure-1" in replica.peers(namespace), within=BOUND, message="the new pod")
    eventually(lambda: age(replica, namespace) < 10, within=BOUND, message="what is told to be fresh")


def test_an_idle_server_does_not_make_what_is_told_old(namespace: str, replica: Replica) -> None:
    """Expect the age to stay small for longer than watches are silent between two probes."""
    until = time.monotonic() + 12
    worst = 0.0
    while time.monotonic() < until:
        worst = max(worst, age(replica, namespace))
    assert worst < 10
