"""Builds of the cell that break a guarantee, to show that the test of the guarantee notices.

``python mutants.py NAME`` runs a cell, settings from the environment, with one thing changed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from cellmesh.api.server import run
from cellmesh.inbox.store import Outcome, Store, Verdict
from cellmesh.inbox.writer import Stored, Writer
from cellmesh.protocol.messages import Checked
from cellmesh.settings import Settings


def acknowledge_before_commit() -> None:
    """Answer as soon as a message is queued."""
    original = Writer.append

    def append(self: Writer, items: Sequence[Checked], stored: Stored) -> None:
        original(self, items, lambda _: None)
        stored([Outcome(Verdict.STORED, 1, 1) for _ in items])

    Writer.append = append  # type: ignore[method-assign]


def store_without_deduplication() -> None:
    """Forget who sent what: every message is new."""
    original = Store.append

    def append(self: Store, items: Sequence[Checked]) -> list[Outcome]:
        for item in items:
            item.key = os.urandom(24)
        return original(self, items)

    Store.append = append  # type: ignore[method-assign]


if __name__ == "__main__":
    {"early": acknowledge_before_commit, "forgetful": store_without_deduplication}[sys.argv[1]]()
    sys.exit(run(Settings.from_environ(os.environ)))
