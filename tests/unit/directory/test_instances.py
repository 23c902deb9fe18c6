"""Which instances of a cell are expected, though they are not there."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cellmesh.discovery import directory
from cellmesh.discovery.directory import Entry, ordinal
from cellmesh.protocol.peers import Peer


def peer(instance: str) -> Peer:
    """Return an instance of pure."""
    return Peer(cell_id="pure", ip="127.0.0.1", port=1, instance=instance)


def asked(monkeypatch: pytest.MonkeyPatch, *steps: tuple[float, list[str]], replicas: int | None) -> Any:
    """Return a function that tells what is expected after these instances were ready at these times."""
    now = [0.0]

    class Clock:
        def time(self) -> float:
            return now[0]

    monkeypatch.setattr(asyncio, "get_running_loop", Clock)
    entry = Entry("pure")
    entry.replicas = replicas
    for at, ready in steps:
        now[0] = at
        entry.set_peers([peer(name) for name in ready])

    def expects(instance: str, at: float, **how: float) -> bool:
        now[0] = at
        return entry.expects(instance, **how)

    return expects


def test_what_is_ready_is_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect an instance that is there, whatever its name and number."""
    expects = asked(monkeypatch, (0, ["pure-7", "odd"]), replicas=1)
    assert expects("pure-7", 100)
    assert expects("odd", 100)


def test_what_the_cell_should_have_is_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect the ordinals below the number of replicas, however long they are away."""
    expects = asked(monkeypatch, (0, []), replicas=2)
    assert [expects(f"pure-{number}", 1e6) for number in range(4)] == [True, True, False, False]
    assert not expects("alpha-0", 0)
    assert not expects("pure", 0)


def test_what_left_a_moment_ago_is_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect one that left to be expected for fifteen seconds, or as long as is asked, from when it left last."""
    expects = asked(monkeypatch, (0, ["pure-0"]), (10, []), (20, ["pure-0"]), (30, ["pure-1"]), (40, []), replicas=None)
    assert expects("pure-0", 44)
    assert not expects("pure-0", 45)
    assert expects("pure-0", 89, within=60)
    assert expects("pure-1", 54)
    assert not expects("pure-2", 30)


def test_what_left_long_ago_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect instances whose names never come again not to be kept."""
    monkeypatch.setattr(directory, "REMEMBER_LEFT", 100.0)
    expects = asked(monkeypatch, (0, ["a"]), (1, ["b"]), (200, []), replicas=None)
    assert not expects("a", 200, within=1e9)
    assert expects("b", 200, within=1e9)


@pytest.mark.parametrize(
    ("cell", "instance", "number"),
    [
        ("pure", "pure-0", 0),
        ("pure", "pure-12", 12),
        ("a-1", "a-1-2", 2),
        ("a", "a-1-2", None),
        ("pure", "pure", None),
        ("pure", "pure-", None),
        ("pure", "pure-x", None),
        ("pure", "pure-²", None),
        ("pure", "alpha-0", None),
    ],
)
def test_the_number_of_an_instance(cell: str, instance: str, number: int | None) -> None:
    """Expect the ordinal that follows the cell's name."""
    assert ordinal(cell, instance) == number
