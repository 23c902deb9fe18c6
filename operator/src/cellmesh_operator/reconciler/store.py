"""What is known of the cluster: the newest state seen of each Cell and of what belongs to it.

Filled by complete lists, by watches and by the answers to our own writes; the newest resource version wins,
whatever comes first, until ``rewind`` says that the cluster itself has gone back. Of what is gone nothing is kept but
pods that have left last words, until these are reported. Objects are kept as JSON
text, a tenth of what they take as dicts, without ``managedFields``, which are half of them and which nobody here
reads.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from cellmesh_operator.decisions.left_behind import speaks
from cellmesh_operator.kube.client import number
from cellmesh_operator.naming import CELL_LABEL, CELLS, CHILDREN, CLAIMS, PODS, Resource

#: Namespace and name of a Cell, or of any object.
Key = tuple[str, str]
Object = dict[str, Any]
#: What the text of a pod with a container that has ended holds somewhere.
_TERMINATED: Final = b'"terminated"'

#: The kinds that are watched and remembered.
KINDS: Final = (CELLS, *CHILDREN, PODS, CLAIMS)


@dataclass(frozen=True, slots=True)
class Entry:
    """One object as it was last seen."""

    uid: str
    version: int
    cell: Key | None
    """The Cell it belongs to by its label; None if it has none."""
    generation: int
    text: bytes


class Store:
    """The objects of ``KINDS`` by namespace and name, and by Cell."""

    def __init__(self) -> None:
        self._entries: dict[Resource, dict[Key, Entry]] = {kind: {} for kind in KINDS}
        self._members: dict[Resource, dict[Key, set[Key]]] = {kind: defaultdict(set) for kind in (PODS, CLAIMS)}
        # Deletions outlive their object for a moment, so that an older state that comes late does not revive it.
        self._deleted: dict[Resource, dict[str, int]] = {kind: {} for kind in KINDS}
        self._departed: dict[Key, dict[str, bytes]] = defaultdict(dict)

    def put(self, resource: Resource, item: Mapping[str, Any]) -> Key | None:
        """Remember a state of an object; return the Cell to look at if it was news, else None."""
        metadata = item["metadata"]
        key, uid, version = (metadata.get("namespace", ""), metadata["name"]), metadata["uid"], version_of(item)
        if not self.misses(resource, key, uid, version):
            return None
        known = self._entries[resource].get(key)
        cell = _cell_of(resource, key, metadata)
        if known is not None:
            self._forget(resource, key, known)
            if known.uid != uid:
                self._depart(resource, known)
        self._entries[resource][key] = Entry(uid, version, cell, metadata.get("generation", 0), _text(item))
        if cell is not None and resource in self._members:
            self._members[resource][cell].add(key)
        return cell or (known.cell if known else None)

    def misses(self, resource: Resource, key: Key, uid: str, version: int) -> bool:
        """Tell whether a state of an object is newer than what is known of it."""
        known = self._entries[resource].get(key)
        if known is not None and known.version >= version:
            return False
        return self._deleted[resource].get(uid, -1) < version

    def drop(self, resource: Resource, key: Key, *, uid: str = "", version: int = 0) -> Key | None:
        """Forget an object that is gone; return the Cell to look at, or None if that was known.

        Args:
            resource: the kind.
            key: namespace and name.
            uid: only this object, not a later one of that name; empty: whatever is there.
            version: resource version of its deletion; 0: unknown.

        """
        if uid:
            self._remember_deletion(resource, uid, version)
        known = self._entries[resource].get(key)
        if known is None or (uid and known.uid != uid):
            return None
        self._forget(resource, key, known)
        self._depart(resource, known)
        if resource == CELLS:
            self._departed.pop(key, None)
        return known.cell

    def departed(self, cell: Key) -> tuple[Object, ...]:
        """Return the pods of a Cell that have gone and have left last words, as they were last."""
        return tuple(msgspec.json.decode(text) for text in self._departed.get(cell, {}).values())

    def forget_departed(self, cell: Key, pods: Iterable[Mapping[str, Any]]) -> None:
        """Forget pods that have gone: their last words have been reported."""
        known = self._departed.get(cell, {})
        for pod in pods:
            known.pop(pod["metadata"]["uid"], None)
        if not known:
            self._departed.pop(cell, None)

    def newest(self, resource: Resource, namespace: str | None) -> int:
        """Return the greatest version known of a kind in a namespace, or in all (None); 0 if nothing is known."""
        entries = self._entries[resource].items()
        return max((entry.version for key, entry in entries if namespace in {None, key[0]}), default=0)

    def rewind(self, resource: Resource, namespace: str | None) -> None:
        """Let any state of a kind, in a namespace or in all (None), be newer than what is known."""
        entries = self._entries[resource]
        for key, entry in entries.items():
            if namespace in {None, key[0]}:
                entries[key] = replace(entry, version=-1)
        self._deleted[resource].clear()

    def get(self, resource: Resource, key: Key) -> Object | None:
        """Return an object, or None."""
        entry = self._entries[resource].get(key)
        return None if entry is None else msgspec.json.decode(entry.text)

    def entry(self, resource: Resource, key: Key) -> Entry | None:
        """Return what is known of an object, undecoded."""
        return self._entries[resource].get(key)

    def of_cell(self, resource: Resource, cell: Key) -> tuple[Object, ...]:
        """Return the pods or volume claims of a Cell by name."""
        found = sorted(self._members[resource].get(cell, ()))
        return tuple(msgspec.json.decode(self._entries[resource][key].text) for key in found)

    def count_of_cell(self, resource: Resource, cell: Key) -> int:
        """Return the number of pods or volume claims of a Cell."""
        return len(self._members[resource].get(cell, ()))

    def keys(self, resource: Resource) -> Collection[Key]:
        """Return the namespaces and names of all objects of a kind."""
        return self._entries[resource].keys()

    def items(self, resource: Resource) -> Iterator[tuple[Key, Entry]]:
        """Yield all objects of a kind, undecoded."""
        yield from self._entries[resource].items()

    def forget_deletions(self, resource: Resource) -> None:
        """Forget which objects of a kind are gone; for after a complete list, when nothing older is under way."""
        self._deleted[resource].clear()

    def _forget(self, resource: Resource, key: Key, entry: Entry) -> None:
        del self._entries[resource][key]
        members = self._members.get(resource)
        if members is not None and entry.cell is not None:
            members[entry.cell].discard(key)
            if not members[entry.cell]:
                del members[entry.cell]

    def _depart(self, resource: Resource, entry: Entry) -> None:
        """Keep a pod that is gone if it has left last words and there is a Cell to tell them of."""
        if resource != PODS or entry.cell is None or entry.cell not in self._entries[CELLS]:
            return
        if _TERMINATED in entry.text and speaks(msgspec.json.decode(entry.text)):
            self._departed[entry.cell][entry.uid] = entry.text

    def _remember_deletion(self, resource: Resource, uid: str, version: int) -> None:
        deleted = self._deleted[resource]
        deleted[uid] = max(version, deleted.get(uid, 0))


def version_of(item: Mapping[str, Any]) -> int:
    """Return an object's resource version as a number; greater is newer."""
    return number(str(item["metadata"].get("resourceVersion", "")))


def _cell_of(resource: Resource, key: Key, metadata: Mapping[str, Any]) -> Key | None:
    if resource == CELLS:
        return key
    name = (metadata.get("labels") or {}).get(CELL_LABEL)
    return (key[0], name) if name else None


def _text(item: Mapping[str, Any]) -> bytes:
    metadata = {name: value for name, value in item["metadata"].items() if name != "managedFields"}
    return msgspec.json.encode({**item, "metadata": metadata})
