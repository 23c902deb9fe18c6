"""The registry against a model: any history, any order."""

import json
import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cellmesh.protocol.problems import Problem
from cellmesh_operator.discovery.objects import CellFacts, PodFacts, peer_of
from cellmesh_operator.discovery.records import PeerRecord
from cellmesh_operator.discovery.registration import parse_registration
from cellmesh_operator.discovery.registry import Registry
from cellmesh_operator.discovery.versions import Scope

MESHES = ["one", "two"]
CELLS = ["alpha", "beta", "gamma"]
SCOPES = [Scope(mesh, cell) for mesh in MESHES for cell in [None, *CELLS]]
LIMIT = 8

meshes = st.sampled_from(MESHES)
cells = st.sampled_from(CELLS)
instances = st.sampled_from([None, "i0", "i1"])
Key = tuple[str, str, str]


def body(cell: str, instance: str | None, port: int) -> bytes:
    """Return the body of a registration."""
    fields: dict[str, object] = {"cell_id": cell, "ip": "h", "port": port}
    if instance is not None:
        fields["instance"] = instance
    return json.dumps(fields).encode()


def pod_record(mesh: str, cell: str, instance: str, port: int) -> PeerRecord:
    """Return what is told of a pod."""
    return peer_of(CellFacts(mesh, cell), PodFacts(mesh, instance, "u", cell, "h", port))


def new_registry() -> Registry:
    """Return an empty registry."""
    return Registry(epoch="e", expiry=15, limit=LIMIT, on_change=lambda _scope: None)


class RegistryMachine(RuleBasedStateMachine):
    """Registers, beats, leaves and expires; after each step compares with a plain dict."""

    @initialize()
    def start(self) -> None:
        """Begin empty."""
        self.now = 0.0
        self.registry = new_registry()
        self.model: dict[Key, tuple[bytes, float]] = {}
        self.cells: set[tuple[str, str]] = set()
        self.pods: dict[Key, int] = {}
        self.before = self.contents()
        self.versions = {scope: self.registry.version(scope) for scope in SCOPES}

    def contents(self) -> dict[Scope, tuple[bool, dict[Key, object]]]:
        """Return what the model tells of each scope: whether it is a Cell, and its peers."""
        peers = {key: text for key, (text, _) in self.model.items()} | self.pods
        return {
            scope: (
                (scope.mesh, scope.cell_id) in self.cells,
                {key: it for key, it in peers.items() if key[0] == scope.mesh and scope.cell_id in {None, key[1]}},
            )
            for scope in SCOPES
        }

    @rule(mesh=meshes, cell=cells, instance=instances, port=st.sampled_from([1, 2]))
    def register(self, mesh: str, cell: str, instance: str | None, port: int) -> None:
        """Register, or be refused at the limit."""
        key = (mesh, cell, instance or cell)
        text = body(cell, instance, port)
        registration = parse_registration(text, mesh)
        if (mesh, cell) in self.cells:
            with pytest.raises(Problem, match="is a Cell"):
                self.registry.register(mesh, registration, self.now, "t")
        elif key not in self.model and len(self.model) == LIMIT:
            with pytest.raises(Problem, match="limit"):
                self.registry.register(mesh, registration, self.now, "t")
        else:
            self.registry.register(mesh, registration, self.now, "t")
            self.model[key] = (text, self.now)

    @rule(mesh=meshes, cell=cells, instance=instances)
    def heartbeat(self, mesh: str, cell: str, instance: str | None) -> None:
        """Beat, or be unknown."""
        key = (mesh, cell, instance or cell)
        try:
            self.registry.heartbeat(mesh, cell, instance, self.now, "t")
        except Problem:
            assert key not in self.model
        else:
            self.model[key] = (self.model[key][0], self.now)

    @rule(mesh=meshes, cell=cells, instance=instances)
    def deregister(self, mesh: str, cell: str, instance: str | None) -> None:
        """Leave, or be unknown."""
        key = (mesh, cell, instance or cell)
        try:
            self.registry.deregister(mesh, cell, instance, None)
        except Problem:
            assert key not in self.model
        else:
            del self.model[key]

    @rule(mesh=meshes, cell=cells)
    def declare(self, mesh: str, cell: str) -> None:
        """Let a Cell come; registrations under its name give way."""
        taken = {key for key in self.model if key[:2] == (mesh, cell)}
        assert set(self.registry.declare(mesh, cell)) == taken
        for key in taken:
            del self.model[key]
        self.cells.add((mesh, cell))

    @rule(mesh=meshes, cell=cells)
    def undeclare(self, mesh: str, cell: str) -> None:
        """Let a Cell go, if it is there, and its pods before."""
        for key in [key for key in self.pods if key[:2] == (mesh, cell)]:
            self.registry.drop_pod(*key)
            del self.pods[key]
        self.registry.undeclare(mesh, cell)
        self.cells.discard((mesh, cell))

    @rule(mesh=meshes, cell=cells, instance=st.sampled_from(["i0", "i1"]), port=st.sampled_from([1, 2]))
    def put_pod(self, mesh: str, cell: str, instance: str, port: int) -> None:
        """Let a pod of a Cell serve."""
        if (mesh, cell) in self.cells:
            self.registry.put_pod(mesh, pod_record(mesh, cell, instance, port))
            self.pods[mesh, cell, instance] = port

    @rule(mesh=meshes, cell=cells, instance=st.sampled_from(["i0", "i1"]))
    def drop_pod(self, mesh: str, cell: str, instance: str) -> None:
        """Let a pod serve no longer, if it did."""
        self.registry.drop_pod(mesh, cell, instance)
        self.pods.pop((mesh, cell, instance), None)

    @rule(seconds=st.sampled_from([1.0, 7.0, 15.0]))
    def pass_time(self, seconds: float) -> None:
        """Let time pass, and expire."""
        self.now += seconds
        silent = [key for key, (_, beat) in self.model.items() if self.now - beat >= 15]
        assert self.registry.expire(self.now) == len(silent)
        for key in silent:
            del self.model[key]

    @invariant()
    def versions_differ_exactly_where_content_did(self) -> None:
        """Compare with the step before."""
        after = self.contents()
        versions = {scope: self.registry.version(scope) for scope in SCOPES}
        for scope in SCOPES:
            assert (versions[scope] != self.versions[scope]) == (after[scope] != self.before[scope]), scope
        self.before, self.versions = after, versions

    @invariant()
    def a_replica_that_learned_it_in_another_order_has_the_same_etags(self) -> None:
        """Build another registry from the model, shuffled."""
        replica = new_registry()
        items = list(self.model.items())
        random.Random(len(items)).shuffle(items)
        for key, (text, _) in items:
            replica.register(key[0], parse_registration(text, key[0]), 0.0, "another time")
        for mesh, cell in self.cells:
            replica.declare(mesh, cell)
        for key, port in self.pods.items():
            replica.put_pod(key[0], pod_record(*key, port))
        contents = self.contents()
        for scope in SCOPES:
            assert replica.etag(scope, settled=True) == self.registry.etag(scope, settled=True)
            declared, peers = contents[scope]
            members = self.registry.members(scope)
            assert (len(members), members.pods) == (len(peers), sum(key in self.pods for key in peers))
            if scope.cell_id is not None:
                assert members.known == (declared or bool(peers))

    @invariant()
    def names_and_meshes_are_those_of_the_model(self) -> None:
        """Compare with the names that the model has."""
        names = sorted({key[:2] for key in self.model} | self.cells)
        for mesh in MESHES:
            assert self.registry.cell_names(mesh) == [cell for where, cell in names if where == mesh]
        assert list(self.registry.meshes()) == sorted({mesh for mesh, _ in names})
        assert len(self.registry) == len(self.model) + len(self.pods)
        assert self.registry.registrations() == len(self.model)


TestRegistry = RegistryMachine.TestCase
TestRegistry.settings = settings(max_examples=60, stateful_step_count=30, deadline=None, derandomize=True)
