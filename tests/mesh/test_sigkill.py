"""A receiving cell is killed twenty times under load: what it acknowledged is there, once.

The load comes straight to `POST /message`, as fast as one client after the other can; `make chaos` has all the rest.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cellmesh.protocol.messages import encode
from cellmesh.transport.http1 import Lost, NotSent, Pool
from chaos.books import Account, compare
from chaos.ledger import Attempt, Begun, Found, Inspected, Record, payload
from processes import Cell

pytestmark = pytest.mark.mesh

KILLS = 20
BETWEEN = 500
CLIENTS = 16
SEED = 20261123
RUN = "sigkill"


@dataclass
class Ledger:
    """What was sent, what was answered, and what waits for an answer."""

    records: list[Record] = field(default_factory=list)
    sent: int = 0
    acknowledged: int = 0
    unanswered: set[int] = field(default_factory=set)
    stopping: bool = False


async def client(port: int, ledger: Ledger) -> None:
    """Send one message after the other; send each again, with the same id, until it is answered."""
    pool = Pool("127.0.0.1", port)
    head = pool.prepare("POST", "/message", (("content-type", "application/json"),))
    while not ledger.stopping:
        number = ledger.sent
        ledger.sent += 1
        message_id = f"ledger-{number}"
        content = payload(RUN, number, pad="x" * 300)
        body = encode(
            {"message_id": message_id, "from_cell": "ledger", "to_cell": "pure", "ttl": 0, "payload": content}
        )
        ledger.records.append(Begun(number=number, message_id=message_id, at=time.time(), to_cell="pure"))
        ledger.unanswered.add(number)
        while True:
            began, status = time.time(), 0
            try:
                answer = await pool.request(head, body, connect_timeout=5, timeout=20)
                assert answer.status == 200, answer.body
                assert json.loads(answer.body)["acknowledged"] is True
                status = 200
            except NotSent:
                await asyncio.sleep(0.01)  # the cell is being started again
                continue
            except Lost:
                pass
            ledger.records.append(
                Attempt(
                    number=number,
                    began=began,
                    ended=time.time(),
                    entry="client",
                    status=status,
                    acknowledged=status == 200,
                    instance="pure-0",
                )
            )
            if status:
                break
        ledger.unanswered.discard(number)
        ledger.acknowledged += 1
    pool.close()


async def ordeal(cell: Cell) -> tuple[Ledger, list[int]]:
    """Kill the cell twenty times under load; return the ledger, and how much was in flight at each kill."""
    rng = random.Random(SEED)
    ledger = Ledger()
    clients = [asyncio.create_task(client(cell.port, ledger)) for _ in range(CLIENTS)]
    in_flight = []
    for _ in range(KILLS):
        goal = ledger.acknowledged + BETWEEN + rng.randrange(200)
        async with asyncio.timeout(60):
            while ledger.acknowledged < goal:
                await asyncio.wait(clients, timeout=rng.uniform(0.001, 0.01))
        in_flight.append(len(ledger.unanswered))
        cell.kill()
        await asyncio.to_thread(cell.start)
    ledger.stopping = True
    async with asyncio.timeout(60):
        await asyncio.gather(*clients)
    return ledger, in_flight


def read_back(cell: Cell) -> list[Record]:
    """Read the whole inbox."""
    found: list[Record] = []
    after, at = 0, time.time()
    while page := cell.get(f"/messages?limit=1000&after={after}").json["messages"]:
        found += [
            Found(
                at=at,
                cell="pure",
                instance="pure-0",
                seq=message["seq"],
                number=message["payload"]["number"],
                seal=message["payload"]["seal"],
                state=message["state"],
                final=True,
            )
            for message in page
        ]
        after = page[-1]["seq"]
    return [*found, Inspected(at=at, cell="pure", instance="pure-0")]


def run(tmp_path: Path, mutant: str = "") -> tuple[Account, list[int]]:
    """Put a build of the cell through the ordeal; return what the books say, and what was in flight."""
    cell = Cell("pure", tmp_path)
    if mutant:
        cell._arguments = [sys.executable, str(Path(__file__).with_name("mutants.py")), mutant]
    cell.start()
    try:
        ledger, in_flight = asyncio.run(ordeal(cell))
        account = compare(ledger.records + read_back(cell), RUN)
    finally:
        cell.kill()
    print(f"\n{mutant or 'the cell'}: {dict(account.counts)} {dict(account.rules())} in flight: {in_flight}")
    return account, in_flight


def test_what_a_killed_cell_acknowledged_is_there_once(tmp_path: Path) -> None:
    """Twenty kills under load: nothing acknowledged is lost, nothing is stored twice."""
    account, in_flight = run(tmp_path)
    assert account.violations == []
    assert account.counts["messages acknowledged"] == account.counts["found pending"] >= KILLS * BETWEEN
    assert sum(1 for count in in_flight if count) >= KILLS * 3 // 4


def test_a_build_that_acknowledges_before_the_commit_is_caught(tmp_path: Path) -> None:
    """The same ordeal finds acknowledged messages lost."""
    account, _ = run(tmp_path, "early")
    assert account.rules()["lost"] > 0


def test_a_build_without_deduplication_is_caught(tmp_path: Path) -> None:
    """The same ordeal finds messages stored twice."""
    account, _ = run(tmp_path, "forgetful")
    assert account.rules()["doubled"] > 0
