"""Builds of the cell that break a guarantee, to show that the test of the guarantee notices.

``python mutants.py NAME`` runs a cell, settings from the environment, with one thing changed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import msgspec

from cellmesh.cli.cell import cell
from cellmesh.inbox.leasing import Leasing
from cellmesh.inbox.store import LEASED, PENDING, Outcome, Store, Verdict
from cellmesh.inbox.upkeep import Upkeep
from cellmesh.inbox.writer import Stored, Writer
from cellmesh.protocol.messages import Checked
from cellmesh.protocol.receipts import BatchItem
from cellmesh.service import dispatching, receiving
from cellmesh.service.letters import Letter
from cellmesh.settings import Settings


def acknowledge_before_commit() -> None:
    """Answer as soon as a message is queued."""
    original = Writer.append

    def append(self: Writer, items: Sequence[Checked], stored: Stored, **more: Any) -> None:
        original(self, items, lambda _: None, **more)
        stored([Outcome(Verdict.STORED, 1, 1) for _ in items])

    Writer.append = append  # type: ignore[method-assign]


def store_without_deduplication() -> None:
    """Forget who sent what: every message is new."""
    original = Store.append

    def append(self: Store, items: Sequence[Checked], *more: Any, **named: Any) -> list[Outcome]:
        for item in items:
            item.key = os.urandom(24)
        return original(self, items, *more, **named)

    Store.append = append  # type: ignore[method-assign]


def deduplicate_no_longer_than_history() -> None:
    """Forget who sent what together with the message; and keep no history, so that it does not take hours."""
    original = Upkeep._drop

    def drop(self: Upkeep, *arguments: Any) -> int:
        dropped = original(self, *arguments)
        self._execute("DELETE FROM receipts WHERE seq NOT IN (SELECT seq FROM messages)")
        return dropped

    Upkeep._drop = drop  # type: ignore[method-assign]
    os.environ["CELLMESH_HISTORY"] = "0"


def retry_anywhere() -> None:
    """After an answer that was lost, try any instance: directly, and from the outbox."""
    Letter.pinned = property(lambda _: None, lambda *_: None)  # type: ignore[assignment]
    original = dispatching.lost
    dispatching.lost = lambda why: original(why)._replace(pinned=False)  # type: ignore[attr-defined]


def report_failed_items_as_stored() -> None:
    """Say of every item of a batch that it was received."""
    original = receiving.BatchItem

    def item(status: int, body: msgspec.Raw) -> BatchItem:
        said = msgspec.json.decode(body)
        if status != 200:
            said = {"status": "received", "message_id": "", "acknowledged": True, "instance": here.instance}
        return original(200, msgspec.Raw(msgspec.json.encode(said)))

    here = Settings.from_environ(os.environ)
    receiving.BatchItem = item  # type: ignore[misc,assignment]


def lease_in_memory() -> None:
    """Forget at start who was handed what."""
    original = Leasing._start

    def start(self: Leasing) -> None:
        self._store.connection.execute("UPDATE messages SET state = 0, lease = NULL WHERE state = 1")
        self._moved(LEASED, PENDING, self._store.connection.changes())
        original(self)

    Leasing._start = start  # type: ignore[method-assign]


MUTANTS = {
    "early": acknowledge_before_commit,
    "forgetful": store_without_deduplication,
    "short-memory": deduplicate_no_longer_than_history,
    "unfaithful": retry_anywhere,
    "optimist": report_failed_items_as_stored,
    "absent-minded": lease_in_memory,
}

if __name__ == "__main__":
    MUTANTS[sys.argv[1]]()
    cell.main(["--exit-with-parent"] if "parent" in sys.argv else [])
