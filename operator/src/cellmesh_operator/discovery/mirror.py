"""A copy of the objects of one kind, as lists and watches tell them. Pure.

Objects bear the version in which the API server wrote them (``resourceVersion``: one growing counter for all
objects of a kind). So what comes late, or twice, or from a list that is older than the watch, is recognised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")
#: Namespace and name.
ObjectKey = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Snapshot(Generic[T]):
    """A complete list: each object's version and facts, and the version of the whole."""

    version: int
    objects: dict[ObjectKey, tuple[int, T | None]]


class Mirror(Generic[T]):
    """The facts of the objects that are there.

    Args:
        read: returns the facts of an object, None for one of which nothing is needed.
        changed: called with the facts before and after, each None where there are none.

    """

    def __init__(
        self, read: Callable[[dict[str, Any]], T | None], changed: Callable[[T | None, T | None], None]
    ) -> None:
        self._read = read
        self._changed = changed
        self._held: dict[ObjectKey, tuple[int, T | None]] = {}
        self._deleted: dict[ObjectKey, int] = {}
        #: The newest version heard of.
        self.newest = -1

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: ObjectKey) -> T | None:
        """Return the facts of an object, None if it is not there."""
        return self._held.get(key, (0, None))[1]

    def put(self, item: dict[str, Any]) -> None:
        """Take in an object as it is now, unless something newer is known of it."""
        key, version, facts = self.entry(item)
        self.newest = max(self.newest, version)
        if version > max(self._held.get(key, (-1, None))[0], self._deleted.get(key, -1)):
            self._hold(key, version, facts)

    def drop(self, item: dict[str, Any]) -> None:
        """Take in that an object is gone, unless something newer is known of it."""
        key, version = key_of(item), version_of(item)
        self.newest = max(self.newest, version)
        if key not in self._held or self._held[key][0] <= version:
            self._deleted[key] = version
            self._release(key)

    def entry(self, item: dict[str, Any]) -> tuple[ObjectKey, int, T | None]:
        """Return what is kept of an object."""
        return key_of(item), version_of(item), self._read(item)

    def replace(self, snapshot: Snapshot[T]) -> int:
        """Take a complete list for what is there, and return how much of it was news."""
        self.newest = max(self.newest, snapshot.version)
        differing = self.differing(snapshot)
        for key in differing:
            listed = snapshot.objects.get(key)
            if listed is None:
                self._release(key)
            else:
                self._hold(key, *listed)
        return len(differing)

    def differing(self, snapshot: Snapshot[T]) -> list[ObjectKey]:
        """Return the objects of which a list knows something newer than this does."""
        changed = [
            key
            for key, (version, _) in snapshot.objects.items()
            if version > self._held.get(key, (-1, None))[0] and self._deleted.get(key, -1) <= snapshot.version
        ]
        gone = [
            key
            for key, (version, _) in self._held.items()
            if key not in snapshot.objects and version <= snapshot.version
        ]
        return changed + gone

    def lose(self, key: ObjectKey) -> None:
        """Take in that an object is not there any more: the API server just said so, without a version."""
        if key in self._held:
            self._deleted[key] = self._held[key][0]
            self._release(key)

    def forget_deleted(self) -> None:
        """Forget what was deleted so far: no list that is asked for from now on can hold it."""
        self._deleted.clear()

    def forget_versions(self) -> None:
        """Take everything held for older than any list: the API server's counter has begun anew (a backup)."""
        self._deleted.clear()
        self.newest = -1
        self._held = {key: (-1, facts) for key, (_, facts) in self._held.items()}

    def _hold(self, key: ObjectKey, version: int, facts: T | None) -> None:
        old = self.get(key)
        self._held[key] = version, facts
        self._changed(old, facts)

    def _release(self, key: ObjectKey) -> None:
        old = self._held.pop(key, (0, None))[1]
        if old is not None:
            self._changed(old, None)


def snapshot_of(version: str, entries: Iterable[tuple[ObjectKey, int, T | None]]) -> Snapshot[T]:
    """Return a snapshot from the entries of a list."""
    return Snapshot(int(version), {key: (number, facts) for key, number, facts in entries})


def key_of(item: dict[str, Any]) -> ObjectKey:
    """Return an object's namespace and name."""
    metadata = item["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


def version_of(item: dict[str, Any]) -> int:
    """Return an object's version; Kubernetes writes a decimal number."""
    return int(item["metadata"]["resourceVersion"])
