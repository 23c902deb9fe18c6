"""The registry against a model: any history, any order."""

import json
import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cellmesh.protocol.problems import Problem
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
        self.before = self.contents()
        self.versions = {scope: self.registry.version(scope) for scope in SCOPES}

    def contents(self) -> dict[Scope, dict[Key, bytes]]:
        """Return what the model holds in each scope."""
        return {
            scope: {
                key: text
                for key, (text, _) in self.model.items()
                if key[0] == scope.mesh and scope.cell_id in {None, key[1]}
            }
            for scope in SCOPES
        }

    @rule(mesh=meshes, cell=cells, instance=instances, port=st.sampled_from([1, 2]))
    def register(self, mesh: str, cell: str, instance: str | None, port: int) -> None:
        """Register, or be refused at the limit."""
        key = (mesh, cell, instance or cell)
        text = body(cell, instance, port)
        registration = parse_registration(text, mesh)
        if key not in self.model and len(self.model) == LIMIT:
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
        for scope in SCOPES:
            assert replica.etag(scope, settled=True) == self.registry.etag(scope, settled=True)
            assert len(self.registry.members(scope)) == len(self.contents()[scope])


TestRegistry = RegistryMachine.TestCase
TestRegistry.settings = settings(max_examples=60, stateful_step_count=30, deadline=None, derandomize=True)
