"""Messages that are queued while the file is being read: what was read need not have them."""

from __future__ import annotations

import random
from typing import Any

import pytest
from msgspec import Raw

from cellmesh.outbox import Parcel
from cellmesh.protocol.messages import CellMessage
from cellmesh.protocol.peers import Peer
from cellmesh.service import lines
from cellmesh.service.lines import Line

NOW = 1_000_000
MEMBERS = {
    name: Peer(cell_id="pure", port=1, ip="127.0.0.1", instance=name, uid="uid") for name in ("pure-0", "pure-1")
}


def parcel(position: int) -> Parcel:
    """Return a queued message."""
    message = CellMessage(message_id=f"m-{position}", from_cell="alpha", to_cell="pure", payload=Raw(b"{}"), ttl=0)
    made = Parcel(message, "", NOW)
    made.position = position
    return made


def take(line: Line, name: str = "pure-0") -> list[int]:
    """Take all that a lane may have; they are delivered."""
    taken = [one.position for one in line.take(name, 1000, 10**6, lambda one: one.size, NOW)]
    line.end(taken)
    return taken


def test_a_message_that_is_queued_after_the_file_was_read_is_not_forgotten() -> None:
    """Expect it to be read when what was read before has been taken in."""
    line = Line(None)
    line.add(parcel(1), NOW)  # nobody is ready: left to the file
    line.set_members(MEMBERS, lambda _: False, NOW)
    start = line.wanted()
    assert start == 1
    line.add(parcel(2), NOW)  # after the snapshot, before its rows are here
    line.loaded(start, [parcel(1)], None, NOW)
    assert take(line) == [1]
    start = line.wanted()
    assert start is not None
    line.loaded(start, [parcel(2)], None, NOW)
    assert take(line) == [2]
    assert line.wanted() is None


def test_a_message_that_is_put_back_into_the_file_while_it_is_read_is_not_forgotten() -> None:
    """Expect the same for one that is to be sent again."""
    line = Line(0)
    line.set_members(MEMBERS, lambda _: False, NOW)
    start = line.wanted()
    assert start == 0
    line.behind(7)
    line.loaded(start, [], None, NOW)
    start = line.wanted()
    assert start is not None
    assert start <= 7
    line.loaded(start, [parcel(7)], None, NOW)
    assert take(line) == [7]


@pytest.mark.parametrize("seed", range(30))
def test_each_message_is_taken_once_whatever_comes_between(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Queue, read and take in any order, at first with changing members; a reading arrives later than it was made."""
    monkeypatch.setattr(lines, "WINDOW", 8)
    rng = random.Random(seed)
    line, file, taken = Line(None), [], []
    reading: tuple[int, int, list[Parcel], int | None] | None = None

    def snapshot() -> Any:
        start = line.wanted()
        if start is None:
            return None
        rows = [one for one in file if one >= start][:5]
        return line.epoch, start, [parcel(one) for one in rows], rows[-1] + 1 if len(rows) == 5 else None

    def arrive() -> None:
        if reading is not None and reading[0] == line.epoch:
            line.loaded(*reading[1:], NOW)

    for position in range(1, 400):
        if position == 100 or (position < 100 and rng.random() < 0.1):
            some = rng.sample(sorted(MEMBERS), rng.randrange(3)) if position < 100 else [*MEMBERS]
            line.set_members({name: MEMBERS[name] for name in some}, lambda _: False, NOW)
        for _ in range(rng.randrange(3) if position % 40 < 20 else rng.randrange(8)):
            chance = rng.random()
            if chance < 0.3 and reading is None:
                reading = snapshot()
            elif chance < 0.6:
                arrive()
                reading = None
            else:
                gone = take(line, rng.choice(sorted(MEMBERS)))
                taken += gone
                file[:] = [one for one in file if one not in gone]
        file.append(position)
        line.add(parcel(position), NOW)
    arrive()
    for _ in range(400):
        reading = snapshot()
        arrive()
        for name in MEMBERS:
            gone = take(line, name)
            taken += gone
            file[:] = [one for one in file if one not in gone]
    assert sorted(taken) == list(range(1, 400))
    assert line.idle
