"""Registrations as Leases."""

import json
from typing import Any

import pytest

from cellmesh.protocol.problems import Problem
from cellmesh_operator.discovery.leases import (
    LeaseFacts,
    check_size,
    lease_name,
    new_lease,
    read_lease,
    registered_anew,
    renewal,
)
from cellmesh_operator.discovery.records import PeerRecord
from cellmesh_operator.discovery.registration import parse_registration

KEY = ("m", "pure", "pure-0")


def record(**fields: Any) -> PeerRecord:
    """Return a registration."""
    body = {"cell_id": "pure", "ip": "10.0.0.1", "port": 8002, "instance": "pure-0", **fields}
    return parse_registration(json.dumps(body).encode(), "m")


def stored(item: dict[str, Any]) -> dict[str, Any]:
    """Return a Lease as the API server has it."""
    return {**item, "metadata": {**item["metadata"], "uid": "u", "resourceVersion": "7"}}


def lease(**fields: Any) -> dict[str, Any]:
    """Return the stored Lease of a registration."""
    return stored(new_lease(KEY, record(**fields), "d", "replica-1", 15.0, "2026-01-31T12:00:00.000001Z"))


def read(item: dict[str, Any]) -> LeaseFacts:
    """Return the facts of a Lease that can be read."""
    facts = read_lease(item)
    assert facts is not None
    return facts


def test_a_registration_comes_back_from_its_lease_as_it_was() -> None:
    """Expect the same text, the same hash and the same key, unknown fields included."""
    given = record(level=3.20, note='ü "quoted" \n', services=["a"])
    facts = read(stored(new_lease(KEY, given, "d", "replica-1", 15.0, "now")))
    assert (facts.record, facts.key, facts.holder) == (given, KEY, "replica-1")


def test_a_lease_is_one_that_kubernetes_understands() -> None:
    """Expect holder, times, whole seconds, and the label that selects it."""
    item = lease()
    assert item["spec"] == {
        "holderIdentity": "replica-1",
        "leaseDurationSeconds": 15,
        "acquireTime": "2026-01-31T12:00:00.000001Z",
        "renewTime": "2026-01-31T12:00:00.000001Z",
    }
    assert item["metadata"]["labels"]["cellmesh.dev/registration"] == "true"
    assert json.loads(item["metadata"]["annotations"]["cellmesh.dev/peer"])["namespace"] == "m"


def test_names_differ_by_mesh_cell_and_instance() -> None:
    """Expect no two keys to share a Lease, however their parts are cut."""
    keys = [("a", "b", "c"), ("a", "c", "b"), ("ab", "", "c"), ("a", "b-c", ""), ("a", "b", "-c"), ("a", 'b","c', "")]
    assert len({lease_name(key) for key in keys}) == len(keys)
    assert all(len(lease_name(key)) < 64 for key in keys)


def test_a_renewal_says_more_and_an_edited_label_does_not() -> None:
    """Expect only what a replica writes to count as a sign of life."""
    item = lease()
    before = read(item)
    patch = renewal(before, "replica-1", "later")
    renewed = read({**item, "spec": {**item["spec"], **patch["spec"]}})
    item["metadata"]["labels"]["x"] = "y"
    assert (renewed.says_more_than(before), read(item).says_more_than(before)) == (True, False)
    assert patch["metadata"] == {"resourceVersion": "7"}
    assert renewed.acquired == before.acquired


def test_a_registration_anew_is_told_from_a_renewal() -> None:
    """Expect another time of acquisition, the new peer and the version it is for."""
    patch = registered_anew(read(lease()), record(port=9), "replica-2", "later")
    assert patch["spec"] == {"holderIdentity": "replica-2", "renewTime": "later", "acquireTime": "later"}
    assert patch["metadata"]["resourceVersion"] == "7"
    assert json.loads(patch["metadata"]["annotations"]["cellmesh.dev/peer"])["port"] == 9


def broken(**changes: Any) -> dict[str, Any]:
    """Return a Lease whose metadata differs."""
    item = lease()
    item["metadata"].update(changes)
    return item


UNREADABLE = {
    "no annotation": broken(annotations={}),
    "annotations that are none": broken(annotations=None),
    "no JSON": broken(annotations={"cellmesh.dev/peer": "{"}),
    "no mesh": broken(annotations={"cellmesh.dev/peer": '{"cell_id":"pure","ip":"h","port":1}'}),
    "no peer": broken(annotations={"cellmesh.dev/peer": '{"namespace":"m"}'}),
    "lone surrogates": broken(annotations={"cellmesh.dev/peer": "\ud800"}),
    "another's name": broken(name=lease_name(("m", "pure", "pure-1"))),
}


@pytest.mark.parametrize("item", list(UNREADABLE.values()), ids=list(UNREADABLE))
def test_a_lease_that_no_replica_wrote_is_nobody(item: dict[str, Any]) -> None:
    """Expect no error."""
    assert read_lease(item) is None


def test_a_registration_too_large_to_be_shared_is_refused_clearly() -> None:
    """Expect 413 for one byte too many, with what discovery adds counted."""
    room = 16 * 1024 - len(record(x="").content) - 1
    check_size(record(x="a" * room))
    with pytest.raises(Problem, match="16385 bytes, more than 16384") as caught:
        check_size(record(x="a" * (room + 1)))
    assert caught.value.http_status == 413
