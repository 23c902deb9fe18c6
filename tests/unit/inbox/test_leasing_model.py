"""Leases against a plain model: whatever happens to an inbox, nothing is handed out twice, lost or miscounted."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import apsw
import pytest

from cellmesh.inbox import Inbox, Leased, LeaseRequest, Settlement, Verb, WorkFailed
from cellmesh.inbox.dead import Named
from cellmesh.protocol.fields import Priority
from inboxes import HandClock, everything, limits, message, opened, put
from leases import written
from support import eventually

STATES = ("pending", "leased", "consumed", "dead")
BOUNDS = limits(max_messages=120, history=40, max_deliveries=3)
KINDS = ("query", "event", "sync")
SETTLED = ("ack", "nack", "delay", "release", "reject", "extend")


class World:
    """An inbox that much happens to, and what its consumers were told."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.directory = directory
        self.rng = random.Random(seed)
        self.clock = HandClock()
        self.number = 0
        #: By position: the lease that was given out, and when it ends.
        self.held: dict[int, tuple[Leased, float]] = {}
        self.acked: set[int] = set()

    def store(self, inbox: Inbox) -> None:
        """Have messages arrive."""
        items = []
        for _ in range(self.rng.randrange(1, 15)):
            self.number += 1
            ttl = self.rng.choice([0, 0, 3, 30])
            items.append(
                message(
                    f"m-{self.number}",
                    ttl=ttl,
                    message_type=self.rng.choice(KINDS),
                    priority=self.rng.choice(list(Priority)),
                    not_before=self.rng.choice([None, None, None, 1, 2]),
                )
            )
        put(inbox, *items)

    def take(self, inbox: Inbox) -> None:
        """Have a consumer take some; sometimes beside work that fails, so that the group is repeated."""
        request = LeaseRequest(
            self.rng.randrange(1, 12),
            self.rng.choice([2000, 10_000, 3_600_000]),
            types=self.rng.choice([None, ["query"], ["event", "sync"]]),
        )

        async def beside_broken_work() -> list[Leased]:
            def broken(_: Any) -> None:
                raise RuntimeError

            failed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            inbox.writer.submit(lambda _: asyncio.run(asyncio.sleep(0.01)), lambda _: None)
            taken = asyncio.ensure_future(written(lambda done: inbox.lease(request, done)))
            await asyncio.sleep(0)
            inbox.writer.submit(broken, failed.set_result)
            assert isinstance(await failed, WorkFailed)
            return list(await taken)

        async def alone() -> list[Leased]:
            return list(await written(lambda done: inbox.lease(request, done)))

        taken = asyncio.run(beside_broken_work() if self.rng.random() < 0.2 else alone())
        seqs = [one.message.seq for one in taken]
        assert len(seqs) == len(set(seqs)), "twice in one lease"
        assert not self.acked & set(seqs), "an acked message came again"
        for one in taken:
            if one.message.seq in self.held:
                assert self.held[one.message.seq][1] <= self.clock.monotonic, "handed out while its lease ran"
            assert request.types is None or one.message.message_type in request.types
            self.held[one.message.seq] = (one, self.clock.monotonic + request.lease_ms / 1000)

    def settle(self, inbox: Inbox) -> None:
        """Have a consumer settle some of those it has, some of them too late."""
        if not self.held:
            return
        chosen = self.rng.sample(sorted(self.held), min(len(self.held), self.rng.randrange(1, 8)))
        items, ways = [], []
        for seq in chosen:
            one, _ = self.held[seq]
            way = self.rng.choice(SETTLED)
            more: dict[str, Any] = {
                "delay": {"delay_ms": self.rng.choice([500, 3000, 86_400_000])},
                "release": {"release": True},
                "reject": {"reject": True},
                "extend": {"lease_ms": 5000},
            }.get(way, {})
            verb = {"ack": Verb.ACK, "extend": Verb.EXTEND}.get(way, Verb.NACK)
            items.append(Settlement(verb=verb, lease_token=one.lease_token, seq=seq, **more))
            ways.append(way)
        results = asyncio.run(written(lambda done: inbox.settle(items, done)))
        for seq, way, result in zip(chosen, ways, results, strict=True):
            one, until = self.held[seq]
            assert (result.code == "") is (until > self.clock.monotonic), (way, result)
            if way == "extend" and not result.code:
                self.held[seq] = (one, self.clock.monotonic + 5)
                continue
            del self.held[seq]
            if way == "ack" and not result.code:
                self.acked.add(seq)

    def revive(self, inbox: Inbox) -> None:
        """Put dead letters back, or purge some."""
        dead = [one.seq for one in everything(inbox) if one.state == "dead"]
        if not dead:
            return
        some = [Named(seq=seq) for seq in self.rng.sample(dead, min(len(dead), 5))]
        if self.rng.random() < 0.7:
            asyncio.run(inbox.put_back(some))
        else:
            asyncio.run(inbox.purge(some))

    def wait(self, inbox: Inbox) -> None:
        """Let time pass."""
        self.clock.advance(self.rng.choice([0.125, 1, 3, 8]))

    def restart(self) -> None:
        """Note that leases run their full length anew; of one that was over it depends on who saw that first."""
        for seq, (one, until) in list(self.held.items()):
            if until > self.clock.monotonic:
                length = self.length(seq)
                self.held[seq] = (one, self.clock.monotonic + length)
            else:
                del self.held[seq]

    def length(self, seq: int) -> float:
        """Return the length of a lease as it is on disk, seconds."""
        connection = apsw.Connection(str(self.directory / "inbox.db"), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            found = connection.execute("SELECT lease_until - leased_at FROM messages WHERE seq = ?", (seq,)).get
            return int(found or 0) / 1000
        finally:
            connection.close()


def counted(directory: Path) -> dict[str, int]:
    """Return what is in the file."""
    connection = apsw.Connection(str(directory / "inbox.db"), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        rows = dict(connection.execute("SELECT state, count(*) FROM messages GROUP BY state"))
    finally:
        connection.close()
    return {name: rows.get(number, 0) for number, name in enumerate(STATES)}


def gauged(inbox: Inbox) -> dict[str, int]:
    """Return what the inbox says."""
    return {name: getattr(inbox.gauges, name) for name in STATES}


def handable(directory: Path, now: int) -> set[int]:
    """Return the positions that must be handed out to whoever asks, by the rows alone."""
    connection = apsw.Connection(str(directory / "inbox.db"), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        rows = connection.execute(
            "SELECT seq FROM messages WHERE state <= 1 AND coalesce(available_at, 0) <= ?1"
            " AND (expires_at IS NULL OR expires_at > ?1) AND (state = 0 OR (lease_until <= ?1 AND deliveries < ?2))",
            (now, BOUNDS.max_deliveries),
        )
        return {int(str(row[0])) for row in rows}
    finally:
        connection.close()


@pytest.mark.parametrize("seed", range(6))
def test_nothing_is_handed_out_twice_lost_or_miscounted(tmp_path: Path, seed: int) -> None:
    """Expect that of any mix of arrivals, leases, settlements, time, dead letters, failures and restarts."""
    world = World(tmp_path, seed)
    steps = [world.store, world.take, world.take, world.settle, world.settle, world.revive, world.wait]
    for _ in range(3):
        with opened(tmp_path, BOUNDS, clock=world.clock.steady()) as inbox:
            world.restart()
            for _ in range(40):
                world.rng.choice(steps)(inbox)
            eventually(lambda inbox=inbox: gauged(inbox) == counted(tmp_path), within=10)
    with opened(tmp_path, BOUNDS, clock=world.clock.steady()) as inbox:
        world.clock.advance(20)
        expected = handable(tmp_path, inbox.clock.now_ms())
        assert expected
        taken: set[int] = set()

        def everything_is_taken() -> bool:
            request = LeaseRequest(1000, 3_600_000)
            taken.update(one.message.seq for one in asyncio.run(written(lambda done: inbox.lease(request, done))))
            return taken >= expected

        eventually(everything_is_taken, within=10)
        assert taken == expected
        eventually(lambda: gauged(inbox) == counted(tmp_path), within=10)
