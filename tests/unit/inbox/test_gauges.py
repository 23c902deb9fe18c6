"""Totals are kept, not counted; so they are held against a count."""

import random
from pathlib import Path

import apsw
import pytest

from cellmesh.inbox import Inbox
from inboxes import HandClock, limits, message, opened, put, spoil
from support import eventually

STATES = ("pending", "leased", "consumed", "dead")


def counted(directory: Path) -> dict[str, int]:
    """Return what is in the file."""
    connection = apsw.Connection(str(directory / "inbox.db"), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        rows = dict(connection.execute("SELECT state, count(*) FROM messages GROUP BY state"))
        last = connection.execute("SELECT max(seq) FROM sqlite_sequence").get or 0
    finally:
        connection.close()
    return {"received": last} | {name: rows.get(number, 0) for number, name in enumerate(STATES)}


def gauged(inbox: Inbox) -> dict[str, int]:
    """Return what the inbox says."""
    return {name: getattr(inbox.gauges, name) for name in ("received", *STATES)}


@pytest.mark.parametrize("seed", range(6))
def test_the_totals_are_what_is_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """After any mix of new ones, repeats, refusals, failures, expiry, trimming and restarts."""
    rng = random.Random(seed)
    clock = HandClock()
    bounds = limits(max_messages=150, history=20, history_ms=100_000, dedupe_window_ms=20_000)
    spoil(monkeypatch, "bad%")
    number = 0
    for _ in range(4):
        with opened(tmp_path, bounds, clock=clock.steady()) as inbox:
            for _ in range(30):
                items = []
                for _ in range(rng.randrange(1, 20)):
                    number += 1
                    name = rng.choice(["new", "new", "new", "old", "bad"])
                    identity = f"new{rng.randrange(number)}" if name == "old" else f"{name}{number}"
                    items.append(message(identity, {"n": rng.randrange(2)}, ttl=rng.choice([0.5, 3, 30])))
                put(inbox, *items)
                clock.advance(rng.random() * 3)
            eventually(lambda: gauged(inbox) == counted(tmp_path), within=10)
            # How many are pending depends on when the writer found time to expire them; that there were some does not.
            assert inbox.gauges.pending <= 150
            assert inbox.gauges.received > 0
        with opened(tmp_path, bounds, clock=clock.steady()) as inbox:
            eventually(lambda: gauged(inbox) == counted(tmp_path), within=10)
