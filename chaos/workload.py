"""The load: clients that have cells send messages, write down each attempt, and send again what was not acknowledged.

Which messages there are follows from the seed alone; which are under way when, does not.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from cellmesh.transport.http1 import Answer, Lost, NotSent, Pool
from chaos.ledger import Attempt, Begun, Ledger
from chaos.parties import Parties
from chaos.streams import DEADLY, REUSING, STREAMS, Stream, message

#: Seconds that a client waits for an answer.
PATIENCE = 15.0
#: Pauses before a message is sent again, seconds.
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0
#: Share of messages that are sent once more though they were acknowledged, and after how many seconds; and of those,
#: the share whose id is given to another message instead.
REPEATED, REPEAT_AFTER, REUSED = 0.04, (1.0, 40.0), 0.25
#: Share of the queued messages that are taken back.
CANCELLED = 0.02
#: Seconds after the load has ended in which unacknowledged messages are still sent again.
LAST = 90.0


class LoadError(Exception):
    """What is sent is wrong: the run would prove nothing."""


class Pace:
    """Gives turns, so many a second; who was held up does not make up for it by more than a burst."""

    BURST = 0.5

    def __init__(self, rate: float) -> None:
        self._interval = 1 / rate
        self._next = 0.0

    async def turn(self) -> None:
        """Wait for the next turn."""
        now = time.monotonic()
        self._next = max(self._next + self._interval, now - self.BURST)
        if self._next > now:
            await asyncio.sleep(self._next - now)


#: Called with what was acknowledged: by whom it was sent, by whom it was acknowledged, when it was begun.
Watch = Callable[[str, str, float], None]


@dataclass
class Progress:
    """What the load has done so far.

    Attributes:
        begun, acknowledged: messages.
        attempts, good: attempts, and those that were acknowledged.
        under_way: attempts under way, by the instance that was asked.
        queued: messages that an outbox may have and that are not known to be settled: whose, and their ids.
        watches: who wants to know of acknowledgements.

    """

    begun: int = 0
    acknowledged: int = 0
    attempts: int = 0
    good: int = 0
    under_way: Counter[str] = field(default_factory=Counter)
    queued: dict[int, tuple[str, str]] = field(default_factory=dict)
    watches: list[Watch] = field(default_factory=list)


class Load:
    """All clients.

    Args:
        mesh: whom they talk to.
        ledger: where they write.
        run: name of the run.
        seed: of the messages.
        rate: messages a second.
        streams: what is sent.

    """

    def __init__(
        self, mesh: Parties, ledger: Ledger, *, run: str, seed: int, rate: float, streams: Sequence[Stream] = STREAMS
    ) -> None:
        self.progress = Progress()
        self._mesh = mesh
        self._ledger = ledger
        self._run = run
        self._seed = seed
        self._pace = Pace(rate)
        self._stopping = asyncio.Event()
        self._give_up = float("inf")
        self._pools: dict[tuple[str, int], Pool] = {}
        self._clients: list[asyncio.Task[None]] = []
        self._streams = streams
        self._besides_numbers = itertools.count()
        self._besides: set[asyncio.Task[None]] = set()
        self._total = sum(stream.clients for stream in streams)

    def start(self) -> None:
        """Begin."""
        number = 0
        for stream in self._streams:
            for _ in range(stream.clients):
                self._clients.append(asyncio.create_task(self._client(stream, number)))
                number += 1

    async def stop(self) -> None:
        """Begin no more messages; return when each has been acknowledged or given up."""
        self._give_up = time.monotonic() + LAST
        self._stopping.set()
        await asyncio.gather(*self._clients, *self._besides)

    async def close(self) -> None:
        """End all at once, whatever is under way."""
        for task in (*self._clients, *self._besides):
            task.cancel()
        await asyncio.gather(*self._clients, *self._besides, return_exceptions=True)

    def send_deadly(self, to_cell: str, to_instance: str, avoid: Collection[str] = ()) -> None:
        """Send a message whose handling kills whoever handles it.

        Args:
            to_cell: the receiver.
            to_instance: the instance of it.
            avoid: senders that it should not be sent by, if there are others.

        """
        number = DEADLY + next(self._besides_numbers)
        stream = Stream(1, to_cell, to_instance, deadly=True)
        senders = [name for name in self._mesh.senders if name not in avoid] or self._mesh.senders
        self._beside(self._message(stream, number, senders[number % len(senders)]))

    def _beside(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._besides.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or task.exception() is None:
            self._besides.discard(task)  # one that failed stays, for ``check``

    def check(self) -> None:
        """Raise what has ended a client, if one has ended."""
        for client in (*self._clients, *self._besides):
            if client.done():
                client.result()

    async def _client(self, stream: Stream, position: int) -> None:
        """Send one message after the other."""
        # Always at the same sender: one that is stopped holds up its own clients only.
        entry = self._mesh.senders[position % len(self._mesh.senders)]
        for turn in itertools.count():
            await self._pace.turn()
            if self._stopping.is_set():
                return
            self.progress.begun += 1
            await self._message(stream, position + turn * self._total, entry)

    async def _message(self, stream: Stream, number: int, entry: str, message_id: str = "") -> None:
        """Send one message until it is acknowledged."""
        rng = random.Random(f"{self._seed} {number}")
        fields = message(stream, self._run, number, rng)
        fields["message_id"] = message_id or fields["message_id"]
        begun = Begun(
            number=number,
            message_id=fields["message_id"],
            at=time.time(),
            to_cell=stream.to_cell,
            to_namespace=self._mesh.namespace,
            to_instance=stream.to_instance,
            queued=stream.queued,
            priority=fields["priority"],
            ttl=fields["ttl"],
            not_before=fields.get("not_before", 0.0),
            conversation=fields.get("conversation_id", ""),
            deadly=stream.deadly,
        )
        self._ledger.write(begun)
        pause = FIRST_PAUSE
        while time.monotonic() < self._give_up:
            if stream.queued:
                self.progress.queued[number] = (entry, fields["message_id"])
            attempt, retry_after = await self._attempt(entry, number, fields)
            if attempt.acknowledged:
                self.progress.acknowledged += 1
                if not message_id and not stream.deadly:
                    self._afterwards(stream, entry, fields, attempt, rng)
                return
            if attempt.unclear and attempt.instance and not stream.queued:
                # It may be there; only that instance would recognise it.
                fields["to_instance"] = attempt.instance
            await asyncio.sleep(max(pause * rng.uniform(0.5, 1.5), retry_after))
            pause = min(pause * 2, LONGEST_PAUSE)

    def _afterwards(
        self, stream: Stream, entry: str, fields: dict[str, Any], attempt: Attempt, rng: random.Random
    ) -> None:
        """Do something more with a message that was acknowledged, now and then."""
        after = rng.uniform(*REPEAT_AFTER)
        if rng.random() < REPEATED:
            if not stream.queued:
                fields["to_instance"] = attempt.instance
            if not stream.queued and rng.random() < REUSED:
                other = Stream(1, stream.to_cell, attempt.instance, queued=True)
                number = REUSING + next(self._besides_numbers)
                self._beside(self._later(after, lambda: self._message(other, number, entry, fields["message_id"])))
            else:
                self._beside(self._later(after, lambda: self._again(entry, attempt.number, fields)))
        elif stream.queued and rng.random() < CANCELLED:
            self._beside(self._cancel(entry, fields["message_id"]))

    async def _later(self, after: float, work: Callable[[], Awaitable[None]]) -> None:
        """Do something after some seconds, or when the load ends."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(after):
                await self._stopping.wait()
        await work()

    async def _again(self, entry: str, number: int, fields: dict[str, Any]) -> None:
        """Send a message once more that was acknowledged, as a program that does not remember what it has done."""
        await self._attempt(entry, number, fields)

    async def _cancel(self, entry: str, message_id: str) -> None:
        """Take a queued message back; what came of it is looked up later, as for every queued message."""
        with contextlib.suppress(NotSent, Lost):
            await self._ask(entry, "DELETE", f"/sent/{message_id}")

    async def _attempt(self, entry: str, number: int, fields: dict[str, Any]) -> tuple[Attempt, float]:
        """Ask an instance to send a message; return what came of it, and the seconds after which to come again."""
        progress = self.progress
        progress.attempts += 1
        progress.under_way[entry] += 1
        began, answer, failure = time.time(), None, ""
        try:
            answer = await self._ask(entry, "POST", "/send", json.dumps(fields).encode())
        except (NotSent, Lost) as error:
            failure = type(error).__name__
        finally:
            progress.under_way[entry] -= 1
        attempt = self._read(Attempt(number=number, began=began, ended=time.time(), entry=entry, status=0), answer)
        if answer is None:
            attempt = self._changed(attempt, code=failure, maybe_delivered=False if failure == "NotSent" else None)
        self._ledger.write(attempt)
        if attempt.acknowledged:
            progress.good += 1
            for watch in list(progress.watches):
                watch(entry, attempt.instance, began)
        retry_after = answer.headers.get(b"retry-after", b"0") if answer else b"0"
        return attempt, float(retry_after) * random.uniform(1.0, 1.2)

    def _read(self, attempt: Attempt, answer: Answer | None) -> Attempt:
        if answer is None:
            return attempt
        said = json.loads(answer.body)
        if answer.status in {400, 413, 415, 422}:
            raise LoadError(f"{attempt.entry} takes this message for a wrong one: {answer.body[:300]!r}")
        response = said.get("response") or {}
        instance = response.get("instance", "") if answer.status == 200 else ""
        return self._changed(
            attempt,
            status=answer.status,
            code=said.get("code", ""),
            acknowledged=answer.status == 202 or (answer.status == 200 and response.get("acknowledged") is True),
            instance=instance or self._mesh.instance_at(said.get("target_url") or ""),
            maybe_delivered=said.get("maybe_delivered"),
            duplicate=bool(response.get("duplicate") or said.get("duplicate")),
        )

    @staticmethod
    def _changed(attempt: Attempt, **changes: Any) -> Attempt:
        return Attempt(**(vars(attempt) | changes))

    async def _ask(self, entry: str, method: str, path: str, body: bytes = b"") -> Answer:
        try:
            address = self._mesh.address(entry)
        except LookupError:
            raise NotSent("nobody knows where it is") from None
        pool = self._pools.get(address)
        if pool is None:
            pool = self._pools[address] = Pool(*address)
        head = pool.prepare(method, path, (("content-type", "application/json"),) if body else ())
        return await pool.request(head, body, connect_timeout=2.0, timeout=PATIENCE)
