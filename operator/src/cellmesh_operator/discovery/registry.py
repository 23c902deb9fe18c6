"""Who is there: registrations, their expiry and the content hashes of meshes and cells.

Pure: no I/O, no clock. ``now`` is seconds of any monotonic clock, ``seen`` the wall-clock text shown as
``last_seen``. Each mesh and each cell is a ``Members``: looking one cell up costs the same in any mesh.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

from cellmesh.protocol.problems import Problem
from cellmesh_operator.discovery.registration import Registration
from cellmesh_operator.discovery.versions import Scope, Versions

#: Names given as ``available_cells``, and instances named in an error, at most.
MAX_NAMES = 100
_DIGEST_RANGE = 2**128

#: Mesh, cell, and instance name (the cell's own where it registered without).
Key = tuple[str, str, str]


@dataclass(slots=True)
class _Entry:
    registration: Registration
    encoded: bytes
    beat: float


class Members:
    """The peers of one scope, with a hash of their content that does not depend on their order.

    The hash is a sum, so that one change costs the same whatever the number of peers, and replicas that
    learned the same peers in another order have the same one.
    """

    __slots__ = ("_entries", "digest", "names")

    def __init__(self) -> None:
        self._entries: dict[Key, _Entry] = {}
        self.digest = 0
        self.names: list[str] = []

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, key: Key, entry: _Entry) -> None:
        """Add a peer, or replace the one of the same key in its place."""
        old = self._entries.get(key)
        gone = 0 if old is None else old.registration.digest
        self._entries[key] = entry
        self.digest = (self.digest + entry.registration.digest - gone) % _DIGEST_RANGE

    def drop(self, key: Key) -> None:
        """Remove a peer if it is there."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.digest = (self.digest - entry.registration.digest) % _DIGEST_RANGE

    def encoded(self) -> list[bytes]:
        """Return each peer as JSON."""
        return [entry.encoded for entry in self._entries.values()]

    def instances(self) -> list[str]:
        """Return the instance names, at most ``MAX_NAMES``."""
        return [key[2] for key in islice(self._entries, MAX_NAMES)]


class Registry:
    """The registrations of all meshes.

    Args:
        epoch: random for each life of the replica; part of every version.
        expiry: seconds of silence after which a registration is gone.
        limit: registrations at most, over all meshes.
        on_change: called with each scope that changed, when the registry is consistent again.

    """

    def __init__(self, *, epoch: str, expiry: float, limit: int, on_change: Callable[[Scope], None]) -> None:
        self._expiry = expiry
        self._limit = limit
        self._on_change = on_change
        self._versions = Versions(epoch)
        # Ordered by last beat, the most silent first.
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        self._scopes: dict[Scope, Members] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def register(self, mesh: str, registration: Registration, now: float, seen: str) -> None:
        """Add a registration; one of the same cell and instance is replaced.

        Raises:
            Problem: ``too_many_registrations`` (429); never for a renewal.

        """
        key = (mesh, registration.cell_id, registration.key)
        old = self._entries.get(key)
        if old is None and len(self._entries) >= self._limit:
            raise Problem(
                "too_many_registrations",
                f"discovery holds {self._limit} registrations, its limit; deregister cells that are gone, "
                "or raise max_registrations",
                retry_after=5,
            )
        entry = _Entry(registration, registration.encoded(seen), now)
        self._entries[key] = entry
        self._entries.move_to_end(key)
        for scope in _scopes(key):
            self._members_of(scope).put(key, entry)
        if old is None or old.registration.digest != registration.digest:
            self._changed(key)

    def heartbeat(self, mesh: str, cell_id: str, instance: str | None, now: float, seen: str) -> None:
        """Note a sign of life.

        Raises:
            Problem: ``unknown_registration`` (404); the client should register again.

        """
        key = (mesh, cell_id, instance or cell_id)
        entry = self._entries.get(key)
        if entry is None:
            raise self._unknown(key, instance, "register again")
        entry.beat = now
        entry.encoded = entry.registration.encoded(seen)
        self._entries.move_to_end(key)

    def deregister(self, mesh: str, cell_id: str, instance: str | None, uid: str | None) -> None:
        """Remove a registration; with ``uid`` only the one of that life, not its successor's.

        Raises:
            Problem: ``unknown_registration`` (404): there is none, or it has another uid.

        """
        key = (mesh, cell_id, instance or cell_id)
        entry = self._entries.get(key)
        if entry is None:
            raise self._unknown(key, instance, "nothing was removed")
        if uid is not None and uid != entry.registration.uid:
            raise Problem(
                "unknown_registration",
                f"uid: the registration of {cell_id} has another uid than {uid[:80]!r}; nothing was removed",
                field="uid",
            )
        self._drop(key)

    def expire(self, now: float) -> int:
        """Remove the registrations that have been silent for too long; return how many there were."""
        expired = 0
        while self._entries:
            key, entry = next(iter(self._entries.items()))
            if now - entry.beat < self._expiry:
                break
            self._drop(key)
            expired += 1
        return expired

    def members(self, scope: Scope) -> Members:
        """Return the peers of a scope; empty ones for a scope that is not there."""
        return self._scopes.get(scope) or Members()

    def cell_names(self, mesh: str) -> list[str]:
        """Return the names of the cells of a mesh, sorted, at most ``MAX_NAMES``."""
        return self.members(Scope(mesh)).names[:MAX_NAMES]

    def meshes(self) -> dict[str, Members]:
        """Return the meshes that hold anyone, by name."""
        return {scope.mesh: members for scope, members in sorted(self._meshes())}

    def version(self, scope: Scope) -> str:
        """Return the version of a scope; it differs after every change of its content, not after beats."""
        return self._versions.of(scope)

    def etag(self, scope: Scope, *, settled: bool) -> str:
        """Return a hash of what a query of this scope is told, ``last_seen`` and ``version`` aside.

        It is the same on all replicas that hold the same registrations.
        """
        members = self.members(scope)
        names = self.cell_names(scope.mesh) if scope.cell_id is not None and not members else []
        text = repr((tuple(scope), members.digest, len(members), settled, names))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def _meshes(self) -> list[tuple[Scope, Members]]:
        return [(scope, members) for scope, members in self._scopes.items() if scope.cell_id is None]

    def _members_of(self, scope: Scope) -> Members:
        members = self._scopes.get(scope)
        if members is None:
            members = self._scopes[scope] = Members()
            if scope.cell_id is not None:
                insort(self._members_of(Scope(scope.mesh)).names, scope.cell_id)
        return members

    def _drop(self, key: Key) -> None:
        del self._entries[key]
        for scope in _scopes(key):
            self._scopes[scope].drop(key)
        self._changed(key)

    def _changed(self, key: Key) -> None:
        mesh, cell = _scopes(key)
        for scope in (cell, mesh):
            there = bool(self._scopes[scope])
            if not there:
                self._forget(scope)
            self._versions.change(scope, there=there)
        self._on_change(cell)
        self._on_change(mesh)

    def _forget(self, scope: Scope) -> None:
        del self._scopes[scope]
        if scope.cell_id is not None:
            names = self._scopes[Scope(scope.mesh)].names
            del names[bisect_left(names, scope.cell_id)]

    def _unknown(self, key: Key, instance: str | None, remedy: str) -> Problem:
        mesh, cell_id, _ = key
        if instance is not None:
            what = f"instance {instance[:80]!r} of cell {cell_id}"
            return Problem("unknown_registration", f"{what} is not registered in mesh {mesh}; {remedy}")
        instances = self.members(Scope(mesh, cell_id)).instances()
        if not instances:
            return Problem("unknown_registration", f"{cell_id} is not registered in mesh {mesh}; {remedy}")
        return Problem(
            "unknown_registration",
            f"{cell_id} is registered in mesh {mesh} by instance only; name one as instance; {remedy}",
            extra={"instances": instances},
        )


def _scopes(key: Key) -> tuple[Scope, Scope]:
    return Scope(key[0]), Scope(key[0], key[1])
