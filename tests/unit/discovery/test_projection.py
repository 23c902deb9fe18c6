"""From Cells and pods to peers, in any order."""

import itertools
import json

import pytest

from cellmesh_operator.discovery.members import Key
from cellmesh_operator.discovery.objects import CellFacts, PodFacts
from cellmesh_operator.discovery.projection import Projection
from cellmesh_operator.discovery.registration import parse_registration
from cellmesh_operator.discovery.registry import Registry
from cellmesh_operator.discovery.versions import Scope

PURE = CellFacts("m", "pure", "pure")
ONE = PodFacts("m", "pure-0", "u0", "pure", "10.0.0.1", 8002)
TWO = PodFacts("m", "pure-1", "u1", "pure", "10.0.0.2", 8002)
SCOPE = Scope("m", "pure")


class World:
    """A registry and its projection, and what they told."""

    def __init__(self) -> None:
        self.changes: list[Scope] = []
        self.evicted: list[Key] = []
        self.registry = Registry(epoch="e", expiry=15, limit=10, on_change=self.changes.append)
        self.projection = Projection(self.registry, self.evicted.append)

    def ips(self, scope: Scope = SCOPE) -> list[str]:
        """Return the addresses of the peers of a scope."""
        return sorted(json.loads(text)["ip"] for text in self.registry.members(scope).encoded())


@pytest.fixture
def world() -> World:
    """Return an empty one."""
    return World()


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_pods_and_their_cell_may_come_in_any_order(world: World, order: tuple[int, ...]) -> None:
    """Expect both peers in the end, in their cell and in their mesh."""
    steps = [
        lambda: world.projection.cell_changed(None, PURE),
        lambda: world.projection.pod_changed(None, ONE),
        lambda: world.projection.pod_changed(None, TWO),
    ]
    for number in order:
        steps[number]()
    assert world.ips() == world.ips(Scope("m")) == ["10.0.0.1", "10.0.0.2"]


def test_a_pod_without_its_cell_is_no_peer(world: World) -> None:
    """Expect nobody, and the name to be unknown."""
    world.projection.pod_changed(None, ONE)
    assert world.ips() == []
    assert not world.registry.members(SCOPE).known


def test_a_cell_that_is_deleted_takes_its_pods_with_it(world: World) -> None:
    """Expect nobody while its pods still run, and them back when the Cell is."""
    world.projection.cell_changed(None, PURE)
    world.projection.pod_changed(None, ONE)
    world.projection.cell_changed(PURE, None)
    assert (world.ips(), world.registry.meshes()) == ([], {})
    world.projection.cell_changed(None, PURE)
    assert world.ips() == ["10.0.0.1"]


def test_an_edited_cell_is_told_with_its_pods(world: World) -> None:
    """Expect the new type of each instance, and queries of the cell and the mesh to be woken."""
    world.projection.cell_changed(None, PURE)
    world.projection.pod_changed(None, ONE)
    world.changes.clear()
    world.projection.cell_changed(PURE, CellFacts("m", "pure", "improved"))
    told = json.loads(world.registry.members(SCOPE).encoded()[0])
    assert (told["type"], world.changes) == ("improved", [SCOPE, Scope("m")])


def test_a_scaled_cell_wakes_those_who_ask_for_it(world: World) -> None:
    """Expect the new number, told once, and its pods as they were."""
    world.projection.cell_changed(None, CellFacts("m", "pure", "pure", replicas=2))
    world.projection.pod_changed(None, ONE)
    world.changes.clear()
    world.projection.cell_changed(
        CellFacts("m", "pure", "pure", replicas=2), CellFacts("m", "pure", "pure", replicas=1)
    )
    assert (world.registry.members(SCOPE).replicas, world.changes, world.ips()) == (1, [SCOPE], ["10.0.0.1"])


def test_what_does_not_change_wakes_nobody(world: World) -> None:
    """Expect silence when an object is written without a change that matters here."""
    world.projection.cell_changed(None, PURE)
    world.projection.pod_changed(None, ONE)
    world.changes.clear()
    world.projection.cell_changed(PURE, CellFacts("m", "pure", "pure"))
    world.projection.pod_changed(ONE, PodFacts("m", "pure-0", "u0", "pure", "10.0.0.1", 8002))
    assert world.changes == []


def test_a_pod_that_serves_no_longer_is_gone_and_its_cell_is_known(world: World) -> None:
    """Expect no peer and a known name."""
    world.projection.cell_changed(None, PURE)
    world.projection.pod_changed(None, ONE)
    world.projection.pod_changed(ONE, None)
    assert (world.ips(), world.registry.members(SCOPE).known) == ([], True)


def test_a_pod_whose_label_is_changed_changes_its_cell(world: World) -> None:
    """Expect it with the other Cell only."""
    world.projection.cell_changed(None, PURE)
    world.projection.cell_changed(None, CellFacts("m", "other"))
    world.projection.pod_changed(None, ONE)
    world.projection.pod_changed(ONE, PodFacts("m", "pure-0", "u0", "other", "10.0.0.1", 8002))
    assert (world.ips(), world.ips(Scope("m", "other"))) == ([], ["10.0.0.1"])


def test_a_registration_gives_way_to_a_cell_of_its_name(world: World) -> None:
    """Expect it gone, and told so that its Lease goes too."""
    record = parse_registration(b'{"cell_id":"pure","ip":"h","port":1,"instance":"i"}', "m")
    world.registry.register("m", record, 0, "t")
    world.projection.cell_changed(None, PURE)
    assert (world.ips(), world.evicted) == ([], [("m", "pure", "i")])


def test_meshes_are_namespaces(world: World) -> None:
    """Expect a pod of the same name in another namespace not to be the Cell's."""
    world.projection.cell_changed(None, PURE)
    world.projection.pod_changed(None, PodFacts("n", "pure-0", "u", "pure", "10.0.0.9", 8002))
    assert (world.ips(), world.ips(Scope("n"))) == ([], [])
