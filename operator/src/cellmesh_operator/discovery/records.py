"""A peer as it is told: its JSON text without ``last_seen``, and a hash of its content. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

_encode = msgspec.json.encode


@dataclass(frozen=True, slots=True)
class PeerRecord:
    """One peer, from a registration or from a pod.

    ``key`` tells it from other instances of its cell. ``content`` is its JSON object without ``last_seen``
    and without the closing brace, so that a sign of life costs one concatenation. ``digest`` is a hash of
    the content whatever the order of its fields.
    """

    cell_id: str
    key: str
    uid: str | None
    content: bytes
    digest: int
    replicas: int | None = None
    """How many instances its cell should have, as a registration says it."""

    def encoded(self, last_seen: str) -> bytes:
        """Return the peer as JSON."""
        return b'%b,"last_seen":"%b"}' % (self.content, last_seen.encode())


def record_of(
    cell_id: str, key: str, uid: str | None, fields: Mapping[str, bytes], replicas: int | None = None
) -> PeerRecord:
    """Return the record of a peer from the JSON text of each of its fields."""
    text = join(dict(sorted(fields.items())))
    digest = int.from_bytes(hashlib.blake2b(text, digest_size=16).digest())
    return PeerRecord(cell_id, key, uid, join(fields)[:-1], digest, replicas)


def join(fields: Mapping[str, bytes]) -> bytes:
    """Return a JSON object from the JSON text of each of its fields."""
    return b"{" + b",".join([_encode(name) + b":" + text for name, text in fields.items()]) + b"}"
