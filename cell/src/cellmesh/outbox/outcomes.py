"""What the statements of the outbox are given and return."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cellmesh.inbox.store import Verdict
from cellmesh.outbox.parcels import Loaded


class Outcome(NamedTuple):
    """What became of a message that was to be queued; of a repeat, the state of the first (None: forgotten)."""

    verdict: Verdict
    state: int | None = None
    queued_at: int = 0


class Refused(NamedTuple):
    """Messages that were not acknowledged, and what is known of them from now on.

    ``state`` is ``QUEUED`` where they will be tried again; ``pinned`` whether their instance may have them.
    """

    state: int
    pinned: bool
    code: str
    error: str
    positions: Sequence[int]


class Queued(NamedTuple):
    """A part of what is queued to a cell: messages and where the rest of them begins (None: that is all)."""

    messages: list[Loaded]
    rest: int | None
