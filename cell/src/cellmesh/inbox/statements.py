"""Pieces of SQL that several modules put into their statements."""

from __future__ import annotations

import json
from collections.abc import Sequence

from cellmesh.inbox.clock import iso

#: Length of a message's log, in characters, beyond which nothing is added to it.
MAX_LOG = 4000

#: Adds the first value of a statement, a JSON object, to the log of a message.
LOG = (
    f"log = CASE WHEN length(coalesce(log, '')) < {MAX_LOG}"
    " THEN json_insert(coalesce(log, '[]'), '$[#]', json(?1)) ELSE log END"
)


def entry(state: str, at: int, reason: str) -> str:
    """Return an entry of a message's log: when it came to which state, and why."""
    return json.dumps({"state": state, "at": iso(at), "reason": reason[:500]})


def _size(count: int) -> int:
    """Return a power of two, so that few different statements are ever prepared."""
    return 1 << (count - 1).bit_length()


def marks(seqs: Sequence[int]) -> str:
    """Return the question marks of an IN list for ``filled(seqs)``."""
    return ",".join("?" * _size(len(seqs)))


def filled(seqs: Sequence[int]) -> list[int]:
    """Return positions, the last one repeated, as the values of an IN list; there must be one at least."""
    return [*seqs, *[seqs[-1]] * (_size(len(seqs)) - len(seqs))]
