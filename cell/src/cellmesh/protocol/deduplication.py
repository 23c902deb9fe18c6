"""How a message is recognised when it comes again: the key it is known by, and what it must not differ in."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any

from cellmesh.protocol.decoding import canonical


def dedupe_key(namespace: str, cell: str, message_id: str) -> bytes:
    """Return the key under which a message is known: its id, then who sent it.

    The id comes first, as it is: ids that grow with time, as those of cells do, stay neighbours in an
    index, and one index answers both "seen before?" and "where is the message with this id?".
    """
    return message_id.encode() + b"\0" + _sender(namespace, cell)


def id_range(message_id: str) -> tuple[bytes, bytes]:
    """Return the bounds, second exclusive, of the deduplication keys of a message id, whoever sent it."""
    return message_id.encode() + b"\0", message_id.encode() + b"\1"


@lru_cache(maxsize=1024)
def _sender(namespace: str, cell: str) -> bytes:
    return hashlib.blake2b(f"{namespace}\0{cell}".encode(), digest_size=16).digest()


def fingerprint(to_cell: str, message_type: str, payload: Any) -> bytes:
    """Return 16 bytes that tell whether two messages of one id are the same: receiver, type and payload."""
    digest = hashlib.blake2b(f"{to_cell}\0{message_type}\0".encode(), digest_size=16)
    digest.update(canonical(payload))
    return digest.digest()
