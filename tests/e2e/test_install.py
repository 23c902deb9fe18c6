"""From nothing to the first message: what the README has a user do."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest

from e2e.clusters import SOON, Cluster
from e2e.programs import ROOT
from e2e.releases import Release
from e2e.spaces import Space
from processes import request
from support import eventually

EXAMPLE = ROOT / "examples" / "alpha-pure.yaml"


@pytest.fixture(scope="module")
def example(make_shared_space: Callable[[], Space]) -> Space:
    """Apply the example and wait for it, as the README says."""
    space = make_shared_space()
    space.kubectl("apply", "-f", str(EXAMPLE))
    space.wait_ready()
    return space


def test_the_examples_cells_exchange_messages_by_pod_ip(example: Space) -> None:
    """Alpha sends to pure and pure to alpha; each goes to a pod's address that discovery tells of."""
    print("\n" + example.kubectl("get", "cells"))
    peers = example.peers()
    assert {name: peer["ip"] for name, peer in peers.items()} == {
        name: example.pod(name)["status"]["podIP"] for name in ("alpha-0", "pure-0")
    }
    for sender, receiver in (("alpha", "pure"), ("pure", "alpha")):
        sent = example.send(f"{sender}-0", receiver, message_type="ping", payload={"text": f"Hello from {sender}!"})
        assert sent.status == 200, sent
        assert (sent.json["status"], sent.json["to_cell"]) == ("delivered", receiver)
        assert sent.json["response"]["acknowledged"] is True
        assert sent.json["response"]["cell_id"] == receiver
        assert sent.json["response"]["durability"] == "volume"
        peer = peers[f"{receiver}-0"]
        assert sent.json["target_url"] == f"http://{peer['ip']}:{peer['port']}/message"
        (message,) = example.messages(f"{receiver}-0")
        assert message["payload"] == {"text": f"Hello from {sender}!"}
        assert (message["message_id"], message["from_cell"]) == (sent.json["message_id"], sender)


def test_kubectl_shows_what_a_cell_is_and_how_it_is(example: Space) -> None:
    """`get cells` has a line a cell with readiness and reason, `get all` has Cells, `explain` explains."""
    lines = [line.split() for line in example.kubectl("get", "cells").splitlines()]
    assert lines[0] == ["NAME", "READY", "REPLICAS", "REASON", "AGE"]
    assert [line[:4] for line in lines[1:]] == [
        ["alpha", "True", "1", "InstancesReady"],
        ["pure", "True", "1", "InstancesReady"],
    ]
    assert "cell.cellmesh.dev/alpha" in example.kubectl("get", "all", "-o", "name")
    assert "replicas" in example.kubectl("explain", "cell.spec")


def test_a_message_is_sent_by_exec_and_by_port_forward(example: Space, cluster: Cluster) -> None:
    """What the README shows: the command in the pod, and the API by a forwarded port."""
    said = example.kubectl("exec", "alpha-0", "-c", "cell", "--", "cellmesh", "send", "alpha", "pure")
    assert re.fullmatch(r"delivered \S+ to pure at http://\S+/message\n", said)
    with cluster.running_kubectl("-n", example.name, "port-forward", "pod/alpha-0", ":8000") as forward:
        said = forward.readline()
        found = re.search(r"127\.0\.0\.1:(\d+) ->", said)
        assert found, said
        sent = request(int(found[1]), "POST", "/send", {"to_cell": "pure", "payload": {"text": "forwarded"}})
    assert sent.status == 200, sent
    said = example.kubectl("exec", "pure-0", "-c", "cell", "--", "cellmesh", "messages", "pure")
    assert "forwarded" in said


def test_helm_test_sends_a_message_between_two_cells(release: Release) -> None:
    """`helm test` passes, and leaves no Cell behind."""
    said = release.helm("test", release.name, "--logs", "--timeout=3m")
    assert said.count("Phase:          Succeeded") == 3, said
    assert re.search(r"delivered \S+ to cellmesh-test-receiver", said)
    eventually(
        lambda: not release.cluster.api.list("cells", release.namespace), within=SOON, message="its Cells to be gone"
    )


def test_meshes_do_not_see_each_other(make_space: Callable[[], Space]) -> None:
    """Cells of the same names in two namespaces: each reaches its own, and a cell of the other mesh is unknown."""
    one, other = make_space(), make_space()
    for space in (one, other):
        space.kubectl("apply", "-f", str(EXAMPLE))
    other.kubectl("create", "-f", "-", stdin=_renamed())
    for space in (one, other):
        space.wait_ready()
    sent = one.send("alpha-0", "pure", payload={"mesh": "one"})
    assert urlsplit(sent.json["target_url"]).hostname == one.pod("pure-0")["status"]["podIP"]
    assert [message["payload"] for message in one.messages("pure-0")] == [{"mesh": "one"}]
    assert other.messages("pure-0") == []
    assert one.peers().keys() == {"alpha-0", "pure-0"}
    refused = one.send("alpha-0", "lonely")
    assert (refused.status, refused.json["code"]) == (404, "unknown_cell")
    assert refused.json["available_cells"] == ["alpha", "pure"]
    foreign = {"from_cell": "alpha", "to_cell": "pure", "to_namespace": one.name, "message_id": "stray", "payload": {}}
    misdirected = other.ask("pure-0", "POST", "/message", foreign)
    assert misdirected.status == 421, misdirected


def _renamed() -> str:
    return EXAMPLE.read_text().split("---")[0].replace("name: alpha", "name: lonely")


def test_everything_runs_under_the_restricted_standard(cluster: Cluster, example: Space, release: Release) -> None:
    """The operator's namespace and the test's enforce it, and each has running pods."""
    for name in (example.name, release.namespace):
        labels = cluster.api.must_get("namespaces", None, name)["metadata"]["labels"]
        assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
        assert len([pod for pod in cluster.api.list("pods", name) if pod["status"]["phase"] == "Running"]) >= 2


def test_helm_waits_for_the_demo_cells(release: Release) -> None:
    """Helm 4's --wait returns when the Cells of the chart are Ready; a message is sent at once."""
    try:
        release.install({"demo": {"enabled": True, "storage": {"ephemeral": {}}}})
        listed = release.cluster.kubectl("-n", release.namespace, "get", "cells")
        assert [line.split()[:2] for line in listed.splitlines()[1:]] == [["alpha", "True"], ["pure", "True"]]
        body = {"to_cell": "pure", "timeout": 10}
        sent = release.cluster.ask_pod(release.namespace, "alpha-0", 8000, "POST", "/send", body)
        assert sent.status == 200, sent
    finally:
        release.install()
