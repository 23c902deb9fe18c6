"""Who is there: pods and registrations, Cells, and the content hashes of meshes and cells.

Pure: no I/O, no clock. ``now`` is seconds of any monotonic clock, ``seen`` the wall-clock text shown as
``last_seen``. Each mesh and each cell is a ``Members``: looking one cell up costs the same in any mesh.

A name belongs to a Cell or to registrations, never to both. Pods are put and dropped as the API server
says and never expire; registrations do, after too long a silence.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Callable

from cellmesh.protocol.problems import Problem
from cellmesh_operator.discovery.members import MAX_NAMES, Entry, Key, Members
from cellmesh_operator.discovery.records import PeerRecord
from cellmesh_operator.discovery.versions import Scope, Versions

_NOBODY = Members()


class Registry:
    """The peers of all meshes.

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
        self._registered: OrderedDict[Key, Entry] = OrderedDict()
        self._scopes: dict[Scope, Members] = {}

    def __len__(self) -> int:
        return sum(len(members) for _, members in self._meshes())

    # -- registrations ---------------------------------------------------------------------------------------------

    def register(self, mesh: str, record: PeerRecord, now: float, seen: str) -> None:
        """Add a registration; one of the same cell and instance is replaced.

        Raises:
            Problem: ``name_taken`` (409) by a Cell; ``too_many_registrations`` (429), never for a renewal.

        """
        if self.declared(mesh, record.cell_id):
            raise Problem(
                "name_taken",
                f"cell_id: {record.cell_id} is a Cell of mesh {mesh}, whose pods need no registration; "
                "choose another name",
                field="cell_id",
            )
        if (mesh, record.cell_id, record.key) not in self._registered and len(self._registered) >= self._limit:
            raise Problem(
                "too_many_registrations",
                f"discovery holds {self._limit} registrations, its limit; deregister cells that are gone, "
                "or raise max_registrations",
                retry_after=5,
            )
        self.adopt(mesh, record, now, seen)

    def adopt(self, mesh: str, record: PeerRecord, now: float, seen: str) -> None:
        """Add a registration that another replica took; its limit was checked there."""
        key = (mesh, record.cell_id, record.key)
        old = self._registered.get(key)
        entry = Entry(record, record.encoded(seen), now)
        self._registered[key] = entry
        self._registered.move_to_end(key)
        self._put(key, entry, old)

    def heartbeat(self, mesh: str, cell_id: str, instance: str | None, now: float, seen: str) -> None:
        """Note a sign of life.

        Raises:
            Problem: ``unknown_registration`` (404); the client should register again.

        """
        key = (mesh, cell_id, instance or cell_id)
        entry = self._registered.get(key)
        if entry is None:
            raise self._unknown(key, instance, "register again")
        entry.beat = now
        entry.encoded = entry.record.encoded(seen)
        self._registered.move_to_end(key)

    def deregister(self, mesh: str, cell_id: str, instance: str | None, uid: str | None) -> None:
        """Remove a registration; with ``uid`` only the one of that life, not its successor's.

        Raises:
            Problem: ``unknown_registration`` (404): there is none, or it has another uid.

        """
        key = (mesh, cell_id, instance or cell_id)
        entry = self._registered.get(key)
        if entry is None:
            raise self._unknown(key, instance, "nothing was removed")
        if uid is not None and uid != entry.record.uid:
            raise Problem(
                "unknown_registration",
                f"uid: the registration of {cell_id} has another uid than {uid[:80]!r}; nothing was removed",
                field="uid",
            )
        self.discard(key)

    def discard(self, key: Key) -> bool:
        """Remove a registration; return whether it was there."""
        if self._registered.pop(key, None) is None:
            return False
        self._drop(key)
        return True

    def registration(self, key: Key) -> Entry | None:
        """Return a registration."""
        return self._registered.get(key)

    def registrations(self) -> int:
        """Return the number of registrations."""
        return len(self._registered)

    def silent(self, now: float) -> list[Key]:
        """Return the registrations that have been silent for too long, the longest first."""
        silent = []
        for key, entry in self._registered.items():
            if entry.beat is not None and now - entry.beat < self._expiry:
                break
            silent.append(key)
        return silent

    def expire(self, now: float) -> int:
        """Remove the registrations that have been silent for too long; return how many there were."""
        return sum(map(self.discard, self.silent(now)))

    # -- Cells and their pods --------------------------------------------------------------------------------------

    def declare(self, mesh: str, cell_id: str, replicas: int | None = None) -> list[Key]:
        """Note that there is a Cell, and how many instances it should have.

        Returns:
            The registrations under its name, which are removed.

        """
        scope = Scope(mesh, cell_id)
        members = self._members_of(scope)
        if (members.declared, members.replicas) == (True, replicas):
            return []
        removed = members.registered()
        members.declared, members.replicas = True, replicas
        for key in removed:
            self.discard(key)
        self._touch(scope)
        return removed

    def undeclare(self, mesh: str, cell_id: str) -> None:
        """Note that a Cell is gone; its pods have been dropped."""
        scope = Scope(mesh, cell_id)
        members = self._scopes.get(scope)
        if members is None or not members.declared:
            return
        members.declared, members.replicas = False, None
        self._touch(scope)
        if not self.members(Scope(mesh)).known:
            # Of the mesh nothing else is told than before, but its last cell is gone.
            self._forget(Scope(mesh))
            self._versions.leave(Scope(mesh))

    def declared(self, mesh: str, cell_id: str) -> bool:
        """Tell whether there is a Cell of this name."""
        return self.members(Scope(mesh, cell_id)).declared

    def put_pod(self, mesh: str, record: PeerRecord) -> None:
        """Add a pod of a Cell, or replace what is told of it."""
        key = (mesh, record.cell_id, record.key)
        self._put(key, Entry(record), self.members(Scope(mesh, record.cell_id)).get(key))

    def drop_pod(self, mesh: str, cell_id: str, instance: str) -> None:
        """Remove a pod if it is there."""
        key = (mesh, cell_id, instance)
        entry = self.members(Scope(mesh, cell_id)).get(key)
        if entry is not None and entry.beat is None:
            self._drop(key)

    # -- questions -------------------------------------------------------------------------------------------------

    def members(self, scope: Scope) -> Members:
        """Return the peers of a scope; empty ones, not to be changed, for a scope that is not there."""
        return self._scopes.get(scope, _NOBODY)

    def cell_names(self, mesh: str) -> list[str]:
        """Return the names of the cells of a mesh, sorted, at most ``MAX_NAMES``."""
        return self.members(Scope(mesh)).names[:MAX_NAMES]

    def meshes(self) -> dict[str, Members]:
        """Return the meshes that hold any cell, by name."""
        return {scope.mesh: members for scope, members in sorted(self._meshes(), key=lambda item: item[0].mesh)}

    def version(self, scope: Scope) -> str:
        """Return the version of a scope; it differs after every change of its content, not after beats."""
        return self._versions.of(scope)

    def etag(self, scope: Scope, *, settled: bool) -> str:
        """Return a hash of what a query of this scope is told, ``last_seen``, ``version`` and ``age`` aside.

        It is the same on all replicas that hold the same peers.
        """
        members = self.members(scope)
        names = self.cell_names(scope.mesh) if scope.cell_id is not None and not members.known else []
        told = (members.digest, len(members), members.declared, members.replicas, settled, names)
        text = repr((tuple(scope), *told))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    # -- changes ---------------------------------------------------------------------------------------------------

    def _meshes(self) -> list[tuple[Scope, Members]]:
        return [(scope, members) for scope, members in self._scopes.items() if scope.cell_id is None]

    def _members_of(self, scope: Scope) -> Members:
        members = self._scopes.get(scope)
        if members is None:
            members = self._scopes[scope] = Members()
            if scope.cell_id is not None:
                insort(self._members_of(Scope(scope.mesh)).names, scope.cell_id)
        return members

    def _put(self, key: Key, entry: Entry, old: Entry | None) -> None:
        for scope in _scopes(key):
            self._members_of(scope).put(key, entry)
        if old is None or old.record.digest != entry.record.digest:
            if entry.beat is not None:
                # Of registrations that differ the newest is right: their cell was started again, or edited.
                self._scopes[Scope(key[0], key[1])].replicas = entry.record.replicas
            self._changed(key)

    def _drop(self, key: Key) -> None:
        for scope in _scopes(key):
            self._scopes[scope].drop(key)
        self._changed(key)

    def _changed(self, key: Key) -> None:
        mesh, cell = _scopes(key)
        self._touch(cell, mesh)

    def _touch(self, *scopes: Scope) -> None:
        """Give scopes a new version, forget those where nobody is any more, and tell; a cell before its mesh."""
        for scope in scopes:
            there = self.members(scope).known
            if not there:
                self._forget(scope)
            self._versions.change(scope, there=there)
        for scope in scopes:
            self._on_change(scope)

    def _forget(self, scope: Scope) -> None:
        self._scopes.pop(scope, None)
        if scope.cell_id is not None:
            names = self._scopes[Scope(scope.mesh)].names
            del names[bisect_left(names, scope.cell_id)]

    def _unknown(self, key: Key, instance: str | None, remedy: str) -> Problem:
        mesh, cell_id, _ = key
        if instance is not None:
            what = f"instance {instance[:80]!r} of cell {cell_id}"
            return Problem("unknown_registration", f"{what} is not registered in mesh {mesh}; {remedy}")
        instances = [name for _, _, name in self.members(Scope(mesh, cell_id)).registered()[:MAX_NAMES]]
        if not instances:
            return Problem("unknown_registration", f"{cell_id} is not registered in mesh {mesh}; {remedy}")
        return Problem(
            "unknown_registration",
            f"{cell_id} is registered in mesh {mesh} by instance only; name one as instance; {remedy}",
            extra={"instances": instances},
        )


def _scopes(key: Key) -> tuple[Scope, Scope]:
    return Scope(key[0]), Scope(key[0], key[1])
