"""A consumer, as a process of its own: leases messages, writes them down, works on them, and gives them back.

    python -m chaos.consumer --consumer NAME --instance NAME --port N --ledger DIRECTORY --run NAME --seed N

Mostly it acks. Now and then it nacks, rejects, hands back, extends, or forgets a message until its lease has run out;
a deadly one kills it. Ends in good order on SIGTERM, or when its standard input ends.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvloop

from cellmesh.transport.http1 import Answer, Lost, NotSent, Pool
from chaos.ledger import Handed, Ledger, Return

#: Messages leased at once, at most, and the least and greatest length of a lease in seconds.
MOST = 10
LEASE = (6.0, 15.0)
#: Seconds that a request for messages waits for one.
WAIT = 2.0
#: Greatest number of seconds that work on a message takes.
WORK = 0.01
#: What is done with a message, and how often.
ACTIONS = {"ack": 180, "nack": 8, "extend": 4, "forget": 3, "release": 3, "reject": 2}
#: An action, and where it is asked for.
PATHS = {"ack": "ack", "nack": "nack", "reject": "nack", "release": "nack", "extend": "extend"}


class Consumer:
    """One life of a consumer.

    Args:
        name: of this life.
        instance: whose inbox.
        where: tells where that instance listens now; a LookupError says that this is not known.
        ledger: where it writes.
        run: name of the run; other messages are left alone.
        seed: for what it does with messages.

    """

    def __init__(
        self,
        name: str,
        instance: str,
        where: Callable[[], tuple[str, int]],
        ledger: Ledger,
        *,
        run: str,
        seed: str,
    ) -> None:
        self._name = name
        self._instance = instance
        self._ledger = ledger
        self._run = run
        self._rng = random.Random(seed)
        self._where = where
        self._pools: dict[tuple[str, int], Pool] = {}
        self._late: list[tuple[float, Handed]] = []
        self.stopping = asyncio.Event()

    async def consume(self) -> None:
        """Lease, work, give back, until told to stop."""
        while not self.stopping.is_set():
            handed = await self._lease()
            actions: dict[str, list[Handed]] = {}
            for message, deadly in handed:
                if deadly:
                    os.kill(os.getpid(), signal.SIGKILL)
                await asyncio.sleep(self._rng.uniform(0, WORK))
                action = self._rng.choices(list(ACTIONS), list(ACTIONS.values()))[0]
                actions.setdefault(action, []).append(message)
            for message in actions.pop("forget", []):
                self._late.append((message.ended + message.lease + 0.2, message))
            extended = actions.get("extend", [])
            for action, messages in actions.items():
                await self._give(action, messages)
            if extended:
                await self._give("ack", extended)
            await self._ack_too_late()

    async def _lease(self) -> list[tuple[Handed, bool]]:
        """Ask for messages; write down what came, before anything else is done with it."""
        lease = round(self._rng.uniform(*LEASE), 1)
        asked: dict[str, Any] = {"max": self._rng.randint(1, MOST), "lease_seconds": lease, "wait_seconds": WAIT}
        began = time.time()
        answer = await self._ask("lease", asked)
        if answer is None or answer.status != 200:
            await asyncio.sleep(0.2)
            return []
        ended = time.time()
        handed = []
        for message in json.loads(answer.body)["messages"]:
            said = message["payload"]
            if said.get("run") != self._run:
                continue
            record = Handed(
                consumer=self._name,
                instance=self._instance,
                seq=message["seq"],
                number=said["number"],
                seal=said["seal"],
                began=began,
                ended=ended,
                token=message["lease_token"],
                lease=lease,
                deliveries=message["delivery_count"],
            )
            handed.append((record, bool(said.get("deadly"))))
        self._ledger.write(*[record for record, _ in handed])
        return handed

    async def _give(self, action: str, messages: list[Handed]) -> None:
        """Ask for one thing for some messages; written down before and after."""
        more: dict[str, Any] = {"reject": {"reject": True}, "release": {"release": True}}.get(action, {})
        delay = lease = 0.0
        if action == "nack":
            delay = more["delay"] = round(self._rng.uniform(0, 1), 2)
        if action == "extend":
            lease = more["lease_seconds"] = round(self._rng.uniform(*LEASE), 1)
        began = time.time()

        def returned(message: Handed, **outcome: Any) -> Return:
            return Return(
                action=action, instance=message.instance, seq=message.seq, token=message.token, began=began,
                delay=delay, lease=lease, **outcome,
            )  # fmt: skip

        self._ledger.write(*[returned(message) for message in messages])
        items = [{"seq": message.seq, "lease_token": message.token} | more for message in messages]
        answer = await self._ask(PATHS[action], {"items": items})
        ended = time.time()
        if answer is None:
            outcomes: list[dict[str, Any]] = [{"ended": ended, "status": 0}] * len(messages)
        elif answer.status == 200:
            results = json.loads(answer.body)["results"]
            outcomes = [
                {"ended": ended, "status": result["http_status"], "code": result.get("code") or ""}
                for result in results
            ]
        else:
            code = json.loads(answer.body).get("code", "")
            outcomes = [{"ended": ended, "status": answer.status, "code": code}] * len(messages)
        pairs = zip(messages, outcomes, strict=True)
        self._ledger.write(*[returned(message, **outcome) for message, outcome in pairs])

    async def _ack_too_late(self) -> None:
        """Ack what was forgotten, now that its lease has run out: it must not be taken."""
        now = time.time()
        due = [message for at, message in self._late if at <= now]
        self._late = [(at, message) for at, message in self._late if at > now]
        if due:
            await self._give("ack", due)

    async def _ask(self, path: str, body: dict[str, Any]) -> Answer | None:
        try:
            address = self._where()
            pool = self._pools.get(address)
            if pool is None:
                pool = self._pools[address] = Pool(*address)
            head = pool.prepare("POST", f"/messages/{path}", (("content-type", "application/json"),))
            return await pool.request(head, json.dumps(body).encode(), connect_timeout=1.0, timeout=10.0)
        except (LookupError, NotSent, Lost):
            return None


async def _main(given: argparse.Namespace) -> None:
    with Ledger(Path(given.ledger), given.consumer) as ledger:
        address = "127.0.0.1", given.port
        seed = f"{given.seed} {given.consumer}"
        consumer = Consumer(given.consumer, given.instance, lambda: address, ledger, run=given.run, seed=seed)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, consumer.stopping.set)

        def parent() -> None:
            if not os.read(0, 1000):
                consumer.stopping.set()

        loop.add_reader(0, parent)
        await consumer.consume()


def main() -> int:
    """Read the command line and consume."""
    parser = argparse.ArgumentParser(prog="python -m chaos.consumer")
    for name in ("consumer", "instance", "ledger", "run", "seed"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--port", required=True, type=int)
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(_main(parser.parse_args()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
