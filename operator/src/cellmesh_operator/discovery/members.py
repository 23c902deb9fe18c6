"""The peers of one scope: a mesh, or one cell of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from cellmesh_operator.discovery.records import PeerRecord

#: Names given as ``available_cells``, and instances named in an error, at most.
MAX_NAMES = 100
_DIGEST_RANGE = 2**128

#: Mesh, cell, and instance name (the cell's own where it registered without).
Key = tuple[str, str, str]


@dataclass(slots=True)
class Entry:
    """One peer. A pod has neither ``encoded`` nor ``beat``: it is told with the time at which it is asked for."""

    record: PeerRecord
    encoded: bytes | None = None
    beat: float | None = None


class Members:
    """The peers of one scope, with a hash of their content that does not depend on their order.

    The hash is a sum, so that one change costs the same whatever the number of peers, and replicas that
    learned the same peers in another order have the same one.

    Attributes:
        digest: the hash.
        pods: how many of the peers are pods.
        names: of a mesh: its cells, sorted.
        declared: of a cell: there is a Cell of this name, with instances or without.
        replicas: of a cell: how many instances it should have; None where nobody says.

    """

    __slots__ = ("_entries", "declared", "digest", "names", "pods", "replicas")

    def __init__(self) -> None:
        self._entries: dict[Key, Entry] = {}
        self.digest = 0
        self.pods = 0
        self.names: list[str] = []
        self.declared = False
        self.replicas: int | None = None

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def known(self) -> bool:
        """Whether there is such a cell, or any cell in such a mesh."""
        return bool(self._entries or self.names) or self.declared

    def put(self, key: Key, entry: Entry) -> None:
        """Add a peer, or replace the one of the same key in its place."""
        self._count(self._entries.get(key), -1)
        self._entries[key] = entry
        self._count(entry, 1)

    def drop(self, key: Key) -> None:
        """Remove a peer if it is there."""
        self._count(self._entries.pop(key, None), -1)

    def get(self, key: Key) -> Entry | None:
        """Return a peer."""
        return self._entries.get(key)

    def encoded(self, pods_seen: str = "") -> list[bytes]:
        """Return each peer as JSON; ``pods_seen`` is the ``last_seen`` of pods."""
        return [entry.encoded or entry.record.encoded(pods_seen) for entry in self._entries.values()]

    def registered(self) -> list[Key]:
        """Return the keys of the peers that are no pods."""
        return [key for key, entry in self._entries.items() if entry.beat is not None]

    def _count(self, entry: Entry | None, sign: int) -> None:
        if entry is not None:
            self.digest = (self.digest + sign * entry.record.digest) % _DIGEST_RANGE
            self.pods += sign * (entry.beat is None)
