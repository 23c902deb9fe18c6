"""Who is there, by an injected clock."""

import json

import pytest

from cellmesh.protocol.problems import Problem
from cellmesh_operator.discovery.members import MAX_NAMES
from cellmesh_operator.discovery.objects import CellFacts, PodFacts, peer_of
from cellmesh_operator.discovery.records import PeerRecord
from cellmesh_operator.discovery.registration import parse_registration
from cellmesh_operator.discovery.registry import Registry
from cellmesh_operator.discovery.versions import Scope, Versions

MESH = Scope("default")


def registration(cell_id: str, **fields: object) -> PeerRecord:
    """Return a registration of one cell."""
    body = {"cell_id": cell_id, "ip": "10.0.0.1", "port": 8002, **fields}
    return parse_registration(json.dumps(body).encode(), "default")


class Fixture:
    """A registry, and the scopes it said have changed."""

    def __init__(self, *, limit: int = 10, epoch: str = "e") -> None:
        self.changes: list[Scope] = []
        self.registry = Registry(epoch=epoch, expiry=15, limit=limit, on_change=self.changes.append)

    def add(self, cell_id: str, now: float = 0.0, mesh: str = "default", **fields: object) -> None:
        """Register a cell."""
        self.registry.register(mesh, registration(cell_id, **fields), now, f"t{now}")

    def peers(self, scope: Scope = MESH) -> list[dict]:
        """Return the peers of a scope."""
        return [json.loads(text) for text in self.registry.members(scope).encoded()]

    def ports(self, scope: Scope = MESH) -> dict[str, int]:
        """Return the port by instance, or by cell where there is none."""
        return {peer.get("instance", peer["cell_id"]): peer["port"] for peer in self.peers(scope)}


@pytest.fixture
def fixture() -> Fixture:
    """Return an empty registry."""
    return Fixture()


def test_without_instance_the_newest_registration_of_a_cell_wins(fixture: Fixture) -> None:
    """Expect one peer, with the second's port."""
    fixture.add("pure", port=1)
    fixture.add("pure", port=2)
    assert fixture.ports() == {"pure": 2}


def test_instances_of_a_cell_live_side_by_side(fixture: Fixture) -> None:
    """Expect the one without instance and both with to be there."""
    fixture.add("pure", port=1)
    fixture.add("pure", port=2, instance="pure-0")
    fixture.add("pure", port=3, instance="pure-1")
    assert fixture.ports(Scope("default", "pure")) == {"pure": 1, "pure-0": 2, "pure-1": 3}


def test_meshes_do_not_see_each_other(fixture: Fixture) -> None:
    """Expect a cell only in the mesh it registered in."""
    fixture.add("pure", mesh="one")
    assert fixture.peers(Scope("two")) == []
    with pytest.raises(Problem):
        fixture.registry.heartbeat("two", "pure", None, 1, "t")


@pytest.mark.parametrize(("silence", "left"), [(14.99, 1), (15.0, 0), (100.0, 0)])
def test_silence_of_fifteen_seconds_is_the_end(fixture: Fixture, silence: float, left: int) -> None:
    """Expect a registration to be gone from 15 s on, not before."""
    fixture.add("pure", now=100)
    fixture.registry.expire(100 + silence)
    assert len(fixture.registry) == left


def test_expiry_takes_only_the_silent(fixture: Fixture) -> None:
    """Expect cells to stay that beat or registered again, whatever the order they first came in."""
    for name in ("a", "b", "c", "d"):
        fixture.add(name, now=0)
    fixture.registry.heartbeat("default", "a", None, 10, "t10")
    fixture.add("c", now=11)
    assert fixture.registry.expire(15) == 2
    assert fixture.ports().keys() == {"a", "c"}


def test_a_heartbeat_renews_last_seen(fixture: Fixture) -> None:
    """Expect the newer time, in the mesh and in the cell."""
    fixture.add("pure", now=0)
    fixture.registry.heartbeat("default", "pure", None, 5, "t5")
    assert fixture.peers()[0]["last_seen"] == fixture.peers(Scope("default", "pure"))[0]["last_seen"] == "t5"


def test_a_heartbeat_of_nobody_is_unknown(fixture: Fixture) -> None:
    """Expect 404, upon which clients register again."""
    with pytest.raises(Problem) as caught:
        fixture.registry.heartbeat("default", "pure", None, 0, "t")
    assert caught.value.code == "unknown_registration"


def test_more_than_the_limit_is_refused_with_retry_after(fixture: Fixture) -> None:
    """Expect 429 for one too many, counted over all meshes, and nothing changed."""
    for number in range(10):
        fixture.add(f"cell-{number}", mesh=f"mesh-{number}")
    with pytest.raises(Problem) as caught:
        fixture.add("one-more")
    assert (caught.value.code, caught.value.retry_after) == ("too_many_registrations", 5)
    assert len(fixture.registry) == 10


def test_a_renewal_is_not_refused_at_the_limit(fixture: Fixture) -> None:
    """Expect a known key to be replaced however full it is."""
    for number in range(10):
        fixture.add(f"cell-{number}")
    fixture.add("cell-3", port=9)
    assert fixture.ports()["cell-3"] == 9


@pytest.mark.parametrize(
    ("instance", "uid", "left"),
    [
        (None, None, {"pure-0"}),
        ("pure-0", None, {"pure"}),
        ("pure-0", "new", {"pure"}),
        (None, "mine", {"pure-0"}),
    ],
)
def test_deregistration_removes_the_one_named(
    fixture: Fixture, instance: str | None, uid: str | None, left: set[str]
) -> None:
    """Expect exactly that key to go."""
    fixture.add("pure", uid="mine")
    fixture.add("pure", instance="pure-0", uid="new")
    fixture.registry.deregister("default", "pure", instance, uid)
    assert fixture.ports().keys() == left


@pytest.mark.parametrize("uid", ["old", None])
def test_a_process_that_leaves_late_does_not_remove_its_successor(fixture: Fixture, uid: str | None) -> None:
    """Expect a registration to stay whose uid is another, or that has none."""
    fixture.add("pure", **({"uid": "new"} if uid else {}))
    with pytest.raises(Problem) as caught:
        fixture.registry.deregister("default", "pure", None, "old-one")
    assert caught.value.http_status == 404
    assert len(fixture.registry) == 1


def test_a_cell_with_instances_only_is_not_removed_without_naming_one(fixture: Fixture) -> None:
    """Expect nothing removed, and the instances in the answer."""
    fixture.add("pure", instance="pure-0")
    fixture.add("pure", instance="pure-1")
    with pytest.raises(Problem) as caught:
        fixture.registry.deregister("default", "pure", None, None)
    assert caught.value.extra == {"instances": ["pure-0", "pure-1"]}
    assert len(fixture.registry) == 2


def test_a_heartbeat_changes_neither_version_nor_etag(fixture: Fixture) -> None:
    """Expect both as before: readers are not told of beats."""
    fixture.add("pure")
    before = fixture.registry.version(MESH), fixture.registry.etag(MESH, settled=True)
    fixture.registry.heartbeat("default", "pure", None, 5, "t5")
    fixture.add("pure", now=6)
    assert (fixture.registry.version(MESH), fixture.registry.etag(MESH, settled=True)) == before


@pytest.mark.parametrize(
    "change",
    [
        {"port": 9},
        {"services": ["x"]},
        {"consciousness_level": 3.3},
        {"uid": "u"},
    ],
)
def test_a_change_of_any_registered_field_is_a_change(fixture: Fixture, change: dict) -> None:
    """Expect another version and another ETag."""
    fixture.add("pure")
    before = fixture.registry.version(MESH), fixture.registry.etag(MESH, settled=True)
    fixture.add("pure", **change)
    assert fixture.registry.version(MESH) != before[0]
    assert fixture.registry.etag(MESH, settled=True) != before[1]


def test_a_change_is_told_to_its_cell_and_its_mesh_only(fixture: Fixture) -> None:
    """Expect two scopes, told when the registry is consistent."""
    fixture.add("alpha")
    fixture.changes.clear()
    fixture.add("pure")
    assert fixture.changes == [Scope("default", "pure"), MESH]


def test_a_cell_keeps_its_version_when_another_changes(fixture: Fixture) -> None:
    """Expect the version of one cell untouched by another's coming and going."""
    fixture.add("pure")
    scope = Scope("default", "pure")
    before = fixture.registry.version(scope)
    fixture.add("alpha")
    fixture.registry.deregister("default", "alpha", None, None)
    assert fixture.registry.version(scope) == before


def test_the_version_of_a_cell_that_left_differs_from_that_before(fixture: Fixture) -> None:
    """Expect a new version when the last instance goes, and another when one comes back."""
    scope = Scope("default", "pure")
    fixture.add("pure")
    there = fixture.registry.version(scope)
    fixture.registry.expire(15)
    gone = fixture.registry.version(scope)
    fixture.add("pure", now=16)
    assert len({there, gone, fixture.registry.version(scope)}) == 3


def test_versions_of_two_lives_differ() -> None:
    """Expect another version for the same history in another epoch."""
    one, two = Fixture(epoch="one"), Fixture(epoch="two")
    one.add("pure")
    two.add("pure")
    assert one.registry.version(MESH) != two.registry.version(MESH)


def test_etags_differ_by_scope(fixture: Fixture) -> None:
    """Expect different ETags for a mesh, its only cell, another mesh, and before settling."""
    fixture.add("pure")
    scopes = [MESH, Scope("default", "pure"), Scope("default", "none"), Scope("other"), Scope("other", "pure")]
    tags = {fixture.registry.etag(scope, settled=True) for scope in scopes}
    assert len(tags | {fixture.registry.etag(MESH, settled=False)}) == len(scopes) + 1


def test_the_etag_of_an_unknown_cell_covers_the_names_given(fixture: Fixture) -> None:
    """Expect a new ETag when the available cells change, since the answer holds them."""
    scope = Scope("default", "none")
    before = fixture.registry.etag(scope, settled=True)
    fixture.add("pure")
    assert fixture.registry.etag(scope, settled=True) != before


def test_the_etag_tells_a_cell_without_instances_from_a_name_that_nobody_has(fixture: Fixture) -> None:
    """Expect known to be part of it, also where no other name is."""
    scope = Scope("default", "pure")
    before = fixture.registry.etag(scope, settled=True)
    fixture.registry.declare("default", "pure")
    assert fixture.registry.etag(scope, settled=True) != before


def test_a_cell_that_comes_and_goes_leaves_nothing_behind(fixture: Fixture) -> None:
    """Expect no mesh, and a version that differs from those before."""
    scope = Scope("default", "pure")
    versions = [fixture.registry.version(scope)]
    fixture.registry.declare("default", "pure")
    versions.append(fixture.registry.version(scope))
    fixture.registry.undeclare("default", "pure")
    versions.append(fixture.registry.version(scope))
    assert (fixture.registry.meshes(), len(set(versions))) == ({}, 3)
    assert fixture.registry._versions._there == {}


def test_a_mesh_is_forgotten_with_its_last_cell(fixture: Fixture) -> None:
    """Expect nothing of it to be kept for ever, however many meshes have come and gone."""
    pod = peer_of(CellFacts("default", "pure"), PodFacts("default", "pure-0", "u", "pure", "h", 1))
    fixture.registry.declare("default", "pure")
    fixture.registry.put_pod("default", pod)
    fixture.registry.drop_pod("default", "pure", "pure-0")
    before = fixture.registry.version(MESH)
    fixture.registry.undeclare("default", "pure")
    assert (fixture.registry.version(MESH), fixture.registry._versions._there) == (before, {})


def test_a_scope_that_leaves_late_does_not_make_forgotten_ones_older() -> None:
    """Expect the version of what is forgotten never to go back."""
    versions = Versions("e", remembered=1)
    versions.change(Scope("old"), there=True)
    versions.change(Scope("gone"), there=False)
    versions.change(Scope("gone-too"), there=False)
    forgotten = versions.of(Scope("gone"))
    versions.leave(Scope("old"))
    versions.change(Scope("another"), there=False)
    assert versions.of(Scope("gone")) >= forgotten


def test_how_many_a_cell_should_have_is_told_of_it_alone(fixture: Fixture) -> None:
    """Expect a new number to be a change of the cell, not of its mesh, and the same number to be none."""
    scope = Scope("default", "pure")
    fixture.registry.declare("default", "pure", 2)
    before = fixture.registry.etag(scope, settled=True), fixture.registry.etag(MESH, settled=True)
    fixture.changes.clear()

    assert fixture.registry.declare("default", "pure", 2) == []
    assert fixture.changes == []
    assert fixture.registry.declare("default", "pure", 1) == []

    assert (fixture.registry.members(scope).replicas, fixture.changes) == (1, [scope])
    after = fixture.registry.etag(scope, settled=True), fixture.registry.etag(MESH, settled=True)
    assert (after[0] != before[0], after[1]) == (True, before[1])


def test_the_newest_registration_says_how_many_its_cell_should_have(fixture: Fixture) -> None:
    """Expect what the cell was started with last, whatever older instances say at each sign of life."""
    scope = Scope("default", "pure")
    fixture.add("pure", instance="pure-1", replicas=2)
    fixture.add("pure", instance="pure-0", replicas=1)
    fixture.registry.heartbeat("default", "pure", "pure-1", 1.0, "t")
    fixture.registry.adopt("default", registration("pure", instance="pure-1", replicas=2), 2.0, "t")
    assert fixture.registry.members(scope).replicas == 1
    fixture.registry.deregister("default", "pure", "pure-0", None)
    assert fixture.registry.members(scope).replicas == 1
    fixture.registry.deregister("default", "pure", "pure-1", None)
    assert fixture.registry.members(scope).replicas is None


def test_a_cell_does_not_inherit_what_registrations_said(fixture: Fixture) -> None:
    """Expect the number of the Cell of that name, and none any more once it is gone."""
    scope = Scope("default", "pure")
    fixture.add("pure", replicas=5)
    assert fixture.registry.declare("default", "pure", 0) == [("default", "pure", "pure")]
    assert fixture.registry.members(scope).replicas == 0
    fixture.registry.undeclare("default", "pure")
    assert fixture.registry.members(scope).replicas is None


def test_available_cells_are_distinct_sorted_and_bounded() -> None:
    """Expect each name once, the first hundred of them."""
    fixture = Fixture(limit=1000)
    for number in range(150):
        for instance in ("0", "1"):
            fixture.add(f"cell-{(number * 7) % 150:03d}", instance=instance)
    assert fixture.registry.cell_names("default") == [f"cell-{number:03d}" for number in range(MAX_NAMES)]


def test_a_name_is_available_until_its_last_instance_is_gone(fixture: Fixture) -> None:
    """Expect the name to stay with one of two instances, and to go with the second."""
    fixture.add("pure", instance="a")
    fixture.add("pure", instance="b")
    fixture.registry.deregister("default", "pure", "a", None)
    assert fixture.registry.cell_names("default") == ["pure"]
    fixture.registry.deregister("default", "pure", "b", None)
    assert fixture.registry.cell_names("default") == []
    assert fixture.registry.meshes() == {}


def test_a_forgotten_scope_may_change_twice_but_never_goes_unnoticed() -> None:
    """Expect bounded memory: the version of a scope forgotten long ago is newer, not older."""
    versions = Versions("e", remembered=2)
    first = Scope("m", "cell-0")
    versions.change(first, there=True)
    seen = versions.of(first)
    versions.change(first, there=False)
    for number in range(1, 9):
        versions.change(Scope("m", f"cell-{number}"), there=False)
    assert versions.of(first) != seen
    versions.change(first, there=True)
    assert versions.of(first) not in {seen, "e-0"}
