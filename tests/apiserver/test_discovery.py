"""Discovery, two replicas of it, on a real API server: pods, Cells and shared registrations."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from apiserver.control_plane import ControlPlane
from apiserver.discoveries import EXPIRY, FOLLOW, Replica, make_cell, make_pod, running, token
from apiserver.stand_ins import end_pod, run_pod
from processes import Answer, request
from support import eventually

#: Seconds for what takes a moment, on a busy machine.
SOON = 15.0
LAPTOP = {"cell_id": "laptop", "ip": "20302eb1df3f", "port": 8002, "level": 3.2}

Both = tuple[Replica, Replica]


@pytest.fixture
def both(plane: ControlPlane, make_namespace: Callable[..., str], tmp_path: Path) -> Iterator[Both]:
    """Run two replicas with the rights that the chart grants."""
    own = make_namespace()
    config = plane.kubeconfig(token(plane, own))
    one, two = (Replica(f"discovery-{number}", tmp_path, config, own) for number in (1, 2))
    with running(one, two):
        yield one, two


def post(replica: Replica, mesh: str, path: str, body: object) -> Answer:
    """Make a POST request in a mesh."""
    return replica.post(f"/meshes/{mesh}{path}", body)


def test_it_is_ready_within_five_seconds_with_no_cell_at_all(
    plane: ControlPlane, make_namespace: Callable[..., str], tmp_path: Path
) -> None:
    """Expect readiness from the first complete lists, also where there is nothing to list."""
    own, empty = make_namespace(), make_namespace()
    config = plane.kubeconfig(token(plane, own, [empty]))
    replica = Replica("discovery", tmp_path, config, own, namespaces=empty)
    with running(replica, ready=False):
        begun = time.monotonic()
        replica.wait_ready()
        assert time.monotonic() - begun < 5
        assert replica.answer(empty).json["count"] == 0


def test_a_ready_pod_is_a_peer_with_what_its_cell_says(plane: ControlPlane, namespace: str, both: Both) -> None:
    """Expect all fields on both replicas, with the pod's address and its container's port."""
    make_cell(plane.api, namespace, "pure", type="pure", branch="main", services=["code-analysis"])
    ip = make_pod(plane.api, namespace, "pure", port=8123)
    uid = plane.api.must_get("pods", namespace, "pure-0")["metadata"]["uid"]
    for replica in both:
        peer = eventually(lambda r=replica: r.peers(namespace)["pure-0"], within=SOON, message="the peer")
        assert peer.pop("last_seen").startswith("20")
        assert peer == {
            "cell_id": "pure",
            "ip": ip,
            "port": 8123,
            "hostname": "pure-0",
            "type": "pure",
            "branch": "main",
            "services": ["code-analysis"],
            "namespace": namespace,
            "instance": "pure-0",
            "uid": uid,
            "source": "pod",
            "durability": "volume",
        }
        assert replica.answer(namespace, "pure").json["replicas"] == 1


def test_a_change_of_readiness_shows_within_a_second(plane: ControlPlane, namespace: str, both: Both) -> None:
    """Expect both replicas to follow ten changes, most of them well within a second."""
    make_cell(plane.api, namespace, "pure")
    make_pod(plane.api, namespace, "pure", ready=False)
    took = []
    for number in range(10):
        ready = number % 2 == 0
        run_pod(plane.api, namespace, "pure-0", ready=ready)
        begun = time.monotonic()
        for replica in both:
            eventually(
                lambda r=replica, n=int(ready): len(r.peers(namespace)) == n, within=SOON, message=f"ready: {ready}"
            )
        took.append(time.monotonic() - begun)
    print(f"readiness shown by both replicas: median {statistics.median(took):.3f} s, longest {max(took):.3f} s")
    assert statistics.median(took) < 1


def test_a_pod_that_is_deleted_is_gone_at_once_while_it_still_drains(
    plane: ControlPlane, namespace: str, both: Both
) -> None:
    """Expect it gone with its deletion timestamp, and its cell to be known without any instance."""
    make_cell(plane.api, namespace, "pure")
    make_pod(plane.api, namespace, "pure")
    for replica in both:
        eventually(lambda r=replica: r.peers(namespace), within=SOON, message="the peer")
    plane.api.delete("pods", namespace, "pure-0", gracePeriodSeconds="30")
    assert plane.api.must_get("pods", namespace, "pure-0")["status"]["conditions"][-1]["status"] == "True"
    for replica in both:
        eventually(lambda r=replica: not r.peers(namespace), within=SOON, message="the peer to be gone")
        assert replica.answer(namespace, "pure").json["known"] is True


def test_a_cell_that_is_scaled_is_told_to_who_waits_for_it(plane: ControlPlane, namespace: str, both: Both) -> None:
    """Expect an open query to be answered with the new number, and where an ephemeral cell keeps messages."""
    make_cell(plane.api, namespace, "pure", replicas=2, storage={"ephemeral": {}})
    make_pod(plane.api, namespace, "pure")
    for replica in both:
        peer = eventually(lambda r=replica: r.peers(namespace)["pure-0"], within=SOON, message="the peer")
        assert peer["durability"] == "ephemeral"
    known = [replica.answer(namespace, "pure").json for replica in both]
    assert [answer["replicas"] for answer in known] == [2, 2]

    plane.api.patch("cells", namespace, "pure", {"spec": {"replicas": 1}})

    begun = time.monotonic()
    for replica, before in zip(both, known, strict=True):
        answer = replica.get(f"/meshes/{namespace}/peers?cell_id=pure&version={before['version']}&wait=20s")
        assert (answer.json["replicas"], len(answer.json["peers"])) == (1, 1)
    assert time.monotonic() - begun < SOON


def test_an_edited_cell_is_told_without_a_restart(plane: ControlPlane, namespace: str, both: Both) -> None:
    """Expect the new services of the same pod, and a waiting query to be answered."""
    make_cell(plane.api, namespace, "pure", services=["old"])
    make_pod(plane.api, namespace, "pure")
    one, _ = both
    eventually(lambda: one.peers(namespace), within=SOON, message="the peer")
    version = one.answer(namespace, "pure").json["version"]
    plane.api.patch("cells", namespace, "pure", {"spec": {"services": ["new"]}})
    answer = one.get(f"/meshes/{namespace}/peers?cell_id=pure&version={version}&wait=20s").json
    assert answer["peers"][0]["services"] == ["new"]


def test_a_deleted_cell_is_unknown_at_once_though_its_pods_still_run(
    plane: ControlPlane, namespace: str, both: Both
) -> None:
    """Expect neither the name nor its peers."""
    make_cell(plane.api, namespace, "pure")
    make_pod(plane.api, namespace, "pure")
    for replica in both:
        eventually(lambda r=replica: r.peers(namespace), within=SOON, message="the peer")
    plane.api.delete("cells", namespace, "pure")
    for replica in both:
        eventually(
            lambda r=replica: r.answer(namespace, "pure").json["known"] is False,
            within=SOON,
            message="it to be unknown",
        )
        assert replica.peers(namespace) == {}


def test_replicas_have_equal_etags_and_versions_of_their_own(plane: ControlPlane, namespace: str, both: Both) -> None:
    """Expect 304 at one for what the other said, and a version of the other to be answered at once."""
    one, two = both
    for name in ("alpha", "idle", "pure"):
        make_cell(plane.api, namespace, name, type=name)
    for name, ordinal in (("pure", 1), ("alpha", 0), ("pure", 0)):
        make_pod(plane.api, namespace, name, ordinal)
    assert post(two, namespace, "/register", LAPTOP).status == 200

    def equal() -> bool:
        answers = [replica.answer(namespace) for replica in both]
        assert [answer.json["count"] for answer in answers] == [4, 4]
        return all(answer.json["settled"] for answer in answers)

    eventually(equal, within=SOON, message="both to know all")
    for path in ("", "?cell_id=pure", "?cell_id=idle", "?cell_id=laptop", "?cell_id=nobody"):
        url = f"/meshes/{namespace}/peers{path}"
        first, second = one.get(url), two.get(url)
        assert first.headers["etag"] == second.headers["etag"], path
        assert first.json["version"] != second.json["version"]
    begun = time.monotonic()
    two.get(f"/meshes/{namespace}/peers?version={one.answer(namespace).json['version']}&wait=60s")
    assert time.monotonic() - begun < 30


def test_a_registration_is_shared_and_expires_everywhere(plane: ControlPlane, namespace: str, both: Both) -> None:
    """Expect it with both, kept by beats at either, and gone from both and from the Leases when it falls silent."""
    one, two = both
    assert post(one, namespace, "/register", LAPTOP).status == 200
    eventually(lambda: two.peers(namespace)["laptop"]["level"] == 3.2, within=SOON, message="the registration")
    until = time.monotonic() + 2 * EXPIRY
    turn = 0
    while time.monotonic() < until:
        assert post(both[turn % 2], namespace, "/heartbeat", {"cell_id": "laptop"}).status == 200
        assert all("laptop" in replica.peers(namespace) for replica in both)
        turn += 1
    eventually(lambda: not any(replica.peers(namespace) for replica in both), within=SOON, message="it to expire")
    eventually(lambda: leases(plane, both) == [], within=SOON, message="its Lease to be gone")
    assert post(one, namespace, "/heartbeat", {"cell_id": "laptop"}).status == 404
    assert sum(replica.metric("expired_total") for replica in both) == 1


def leases(plane: ControlPlane, both: Both) -> list[str]:
    """Return the names of the Leases in discovery's namespace."""
    return [item["metadata"]["name"] for item in plane.api.list("leases", both[0].namespace)]


def test_a_cell_that_leaves_at_one_replica_is_gone_from_the_other(
    plane: ControlPlane, namespace: str, both: Both
) -> None:
    """Expect no peer and no Lease, long before it would have expired."""
    one, two = both
    post(one, namespace, "/register", LAPTOP)
    eventually(lambda: "laptop" in two.peers(namespace), within=SOON, message="the registration")
    assert request(two.port, "DELETE", f"/meshes/{namespace}/peer/laptop").status == 200
    eventually(lambda: "laptop" not in one.peers(namespace), within=SOON, message="it to be gone")
    eventually(lambda: leases(plane, both) == [], within=SOON, message="its Lease to be gone")


def test_a_cells_name_cannot_be_registered(plane: ControlPlane, namespace: str, both: Both) -> None:
    """Expect 409 on both replicas, and a registration from before to give way."""
    assert post(both[0], namespace, "/register", LAPTOP).status == 200
    make_cell(plane.api, namespace, "laptop")
    for replica in both:
        eventually(
            lambda r=replica: r.answer(namespace, "laptop").json["known"] and not r.peers(namespace),
            within=SOON,
            message="the registration to give way",
        )
        refused = post(replica, namespace, "/register", LAPTOP)
        assert (refused.status, refused.json["code"]) == (409, "name_taken")
    eventually(lambda: leases(plane, both) == [], within=SOON, message="its Lease to be gone")


def test_a_registration_of_the_largest_size_is_shared_and_a_larger_one_refused(namespace: str, both: Both) -> None:
    """Expect 16 KiB to come back whole from the other replica, and 413 for more."""
    one, two = both
    added = len(f',"namespace":"{namespace}","source":"registered"')
    room = 16 * 1024 - added - len('{"cell_id":"laptop","ip":"h","port":1,"note":""}')
    text = '{"cell_id":"laptop","ip":"h","port":1,"note":"%s"}'
    note = "ü" * (room // 2)
    assert post(one, namespace, "/register", (text % note).encode()).status == 200
    eventually(lambda: two.peers(namespace)["laptop"]["note"] == note, within=SOON, message="the registration")
    refused = post(one, namespace, "/register", (text % (note + "xx")).encode())
    assert (refused.status, refused.json["code"]) == (413, "body_too_large")


def test_roles_in_some_namespaces_are_enough(
    plane: ControlPlane, make_namespace: Callable[..., str], tmp_path: Path
) -> None:
    """Expect Cells of two namespaces to be told without any right elsewhere, and none of a third."""
    own, first, second, third = (make_namespace() for _ in range(4))
    config = plane.kubeconfig(token(plane, own, [first, second]))
    for mesh in (first, second, third):
        make_cell(plane.api, mesh, "pure")
        make_pod(plane.api, mesh, "pure")
    replica = Replica("discovery", tmp_path, config, own, namespaces=f"{first},{second}")
    with running(replica):
        assert [len(replica.peers(mesh)) for mesh in (first, second, third)] == [1, 1, 0]
        make_pod(plane.api, second, "pure", 1)
        eventually(lambda: len(replica.peers(second)) == 2, within=SOON, message="the second pod")


def test_a_missing_right_is_said_and_keeps_it_from_being_ready(
    plane: ControlPlane, make_namespace: Callable[..., str], tmp_path: Path
) -> None:
    """Expect /readyz to name the kind that may not be listed, and /livez to be well."""
    own = make_namespace()
    config = plane.kubeconfig(plane.service_account(own, "discovery", FOLLOW))
    replica = Replica("discovery", tmp_path, config, own)
    with running(replica, ready=False):

        def said() -> bool:
            answer = replica.get("/readyz")
            return answer.status == 503 and f"leases in {own}: may not list and watch" in answer.json["error"]

        eventually(said, within=SOON, message="the reason")
        assert replica.get("/livez").status == 200


def test_without_the_definition_of_cells_it_says_so_and_is_ready_once_there_is_one(
    new_plane: Callable[..., ControlPlane], tmp_path: Path
) -> None:
    """Expect the remedy in /readyz, then readiness by itself."""
    plane = new_plane(crd=False)
    replica = Replica("discovery", tmp_path, plane.kubeconfig(), "default")
    with running(replica, ready=False):

        def said() -> bool:
            answer = replica.get("/readyz")
            return answer.status == 503 and "install the custom resource definition" in answer.json["error"]

        eventually(said, within=SOON, message="the remedy")
        plane.install_crd()
        replica.wait_ready()


def test_pods_that_come_and_go_in_numbers_are_all_followed(plane: ControlPlane, namespace: str, both: Both) -> None:
    """Expect both replicas to agree with the API server after fifty changes at once, without a repair."""
    make_cell(plane.api, namespace, "pure")
    for ordinal in range(25):
        make_pod(plane.api, namespace, "pure", ordinal)
    for ordinal in range(0, 25, 2):
        end_pod(plane.api, namespace, f"pure-{ordinal}")
    wanted = {f"pure-{ordinal}" for ordinal in range(1, 25, 2)}
    for replica in both:
        eventually(lambda r=replica: r.peers(namespace).keys() == wanted, within=SOON, message="the pods left")
        assert replica.metric("repairs_total") == 0
