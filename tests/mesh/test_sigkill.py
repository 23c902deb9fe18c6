"""A receiving cell is killed twenty times under load: what it acknowledged is there, once.

Identity is judged by a ledger number and a hash inside the payload, never by the message's id: an id that
is unique in a table proves nothing about what was stored under it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cellmesh.protocol.messages import encode
from cellmesh.transport.http1 import Lost, NotSent, Pool
from processes import Cell

pytestmark = pytest.mark.mesh

KILLS = 20
BETWEEN = 500
CLIENTS = 16
SEED = 20261123


def seal(number: int) -> str:
    """Return the hash that a message of this ledger number carries."""
    return hashlib.sha256(f"ledger {number}".encode()).hexdigest()


@dataclass
class Ledger:
    """What was sent, what was answered, and what waits for an answer."""

    sent: int = 0
    acknowledged: set[int] = field(default_factory=set)
    unanswered: set[int] = field(default_factory=set)
    stopping: bool = False


@dataclass
class Result:
    """What one run found."""

    ledger: Ledger
    found: Counter[int]
    in_flight: list[int]

    @property
    def lost(self) -> int:
        """Messages that were acknowledged and are not there."""
        return len(self.ledger.acknowledged - self.found.keys())

    @property
    def doubled(self) -> int:
        """Messages that are there more than once."""
        return sum(1 for count in self.found.values() if count > 1)

    def __str__(self) -> str:
        return (
            f"sent={self.ledger.sent} acknowledged={len(self.ledger.acknowledged)} found={len(self.found)} "
            f"lost={self.lost} doubled={self.doubled} in flight at each kill={self.in_flight}"
        )


async def client(port: int, ledger: Ledger) -> None:
    """Send one message after the other; send each again, with the same id, until it is answered."""
    pool = Pool("127.0.0.1", port)
    head = pool.prepare("POST", "/message", (("content-type", "application/json"),))
    while not ledger.stopping:
        number = ledger.sent
        ledger.sent += 1
        body = encode(
            {
                "message_id": f"ledger-{number}",
                "from_cell": "ledger",
                "to_cell": "pure",
                "ttl": 0,
                "payload": {"number": number, "seal": seal(number), "pad": "x" * 300},
            }
        )
        ledger.unanswered.add(number)
        while True:
            try:
                answer = await pool.request(head, body, connect_timeout=5, timeout=20)
            except NotSent:
                await asyncio.sleep(0.01)  # the cell is being started again
                continue
            except Lost:
                continue
            assert answer.status == 200, answer.body
            assert json.loads(answer.body)["acknowledged"] is True
            break
        ledger.unanswered.discard(number)
        ledger.acknowledged.add(number)
    pool.close()


async def ordeal(cell: Cell) -> Result:
    """Kill the cell twenty times under load, then count what it has."""
    rng = random.Random(SEED)
    ledger = Ledger()
    clients = [asyncio.create_task(client(cell.port, ledger)) for _ in range(CLIENTS)]
    in_flight = []
    for _ in range(KILLS):
        goal = len(ledger.acknowledged) + BETWEEN + rng.randrange(200)
        async with asyncio.timeout(60):
            while len(ledger.acknowledged) < goal:
                await asyncio.wait(clients, timeout=rng.uniform(0.001, 0.01))
        in_flight.append(len(ledger.unanswered))
        cell.kill()
        await asyncio.to_thread(cell.start)
    ledger.stopping = True
    async with asyncio.timeout(60):
        await asyncio.gather(*clients)
    return Result(ledger, read_back(cell), in_flight)


def read_back(cell: Cell) -> Counter[int]:
    """Count every message in the inbox by its ledger number; its seal must be intact."""
    found: Counter[int] = Counter()
    after = 0
    while page := cell.get(f"/messages?limit=1000&after={after}").json["messages"]:
        for message in page:
            payload = message["payload"]
            assert payload["seal"] == seal(payload["number"])
            found[payload["number"]] += 1
        after = page[-1]["seq"]
    return found


def run(tmp_path: Path, mutant: str = "") -> Result:
    """Put a build of the cell through the ordeal."""
    cell = Cell("pure", tmp_path)
    if mutant:
        cell._arguments = [sys.executable, str(Path(__file__).with_name("mutants.py")), mutant]
    cell.start()
    try:
        result = asyncio.run(ordeal(cell))
    finally:
        cell.kill()
    print(f"\n{mutant or 'the cell'}: {result}")
    return result


def test_what_a_killed_cell_acknowledged_is_there_once(tmp_path: Path) -> None:
    """Twenty kills under load: nothing acknowledged is lost, nothing is stored twice."""
    result = run(tmp_path)
    assert (result.lost, result.doubled) == (0, 0)
    assert result.ledger.acknowledged == result.found.keys()
    assert sum(1 for count in result.in_flight if count) >= KILLS * 3 // 4


def test_a_build_that_acknowledges_before_the_commit_is_caught(tmp_path: Path) -> None:
    """The same ordeal finds acknowledged messages lost."""
    assert run(tmp_path, "early").lost > 0


def test_a_build_without_deduplication_is_caught(tmp_path: Path) -> None:
    """The same ordeal finds messages stored twice."""
    assert run(tmp_path, "forgetful").doubled > 0
