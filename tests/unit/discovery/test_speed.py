"""What a query costs must follow from its answer, not from the size of the mesh."""

import timeit
from typing import Any

from cellmesh_operator.discovery.queries import PeersQuery
from cellmesh_operator.discovery.versions import Scope

ONE = PeersQuery(Scope("default", "c5"), None, 0)
ALL = PeersQuery(Scope("default"), None, 0)


def mesh_of(make_world: Any, cells: int) -> Any:
    """Return a service with so many cells."""
    discovery = make_world(max_registrations=cells).discovery
    for number in range(cells):
        discovery.register("default", b'{"cell_id":"c%d","ip":"10.0.0.1","port":8002,"type":"pure"}' % number)
    return discovery


def cost(discovery: Any, query: PeersQuery, times: int) -> float:
    """Return the seconds of one query: the best of many rounds, so that other load does not count."""
    return min(timeit.repeat(lambda: discovery.peers(query).body(), number=times, repeat=30)) / times


def test_asking_for_one_cell_costs_the_same_in_a_mesh_of_ten_and_of_ten_thousand(make_world: Any) -> None:
    """Expect less than half as much again."""
    small, large = mesh_of(make_world, 10), mesh_of(make_world, 10_000)
    assert cost(large, ONE, 200) < 1.5 * cost(small, ONE, 200)


def test_ten_thousand_peers_are_told_in_milliseconds(make_world: Any) -> None:
    """Expect joining, not encoding: far below 20 ms."""
    large = mesh_of(make_world, 10_000)
    assert cost(large, ALL, 1) < 0.02
