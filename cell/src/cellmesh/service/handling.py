"""Messages to handlers of this cell: leased, handed over, answered, and settled by what came of it.

The lease of a handler dies with the process (``Holder.HANDLER``), so it can be long: it is renewed while the
handler runs, and a handler that is slow is never given its message twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from cellmesh.inbox import Holder, Inbox, Leased, LeaseRequest, Settled, Settlement, Verb, WorkFailed
from cellmesh.protocol.receipts import STATES, StoredMessage
from cellmesh.service.counters import Counters
from cellmesh.service.outcomes import MAX_REASON, Backoff, Done, Failed, Later, Outcome, Rejected

log = logging.getLogger(__name__)

#: Length of a lease, seconds; a third of it passes between two renewals.
LEASE = 300.0
#: How long one request for messages waits for some, seconds.
WAIT = 60.0
#: Pause after the disk had no room, seconds.
DISK_PAUSE = 1.0
#: How long handlers may take to end once they are cancelled, seconds.
CANCEL_GRACE = 1.0


class Handler(Protocol):
    """What messages are handed to."""

    @property
    def types(self) -> Sequence[str] | None:
        """The types of the messages it takes; None: all."""

    @property
    def concurrency(self) -> int:
        """How many at the same time at most."""

    async def handle(self, message: StoredMessage) -> Outcome:
        """Handle one message, within the handler's own time-out."""


#: Sends the JSON object that answers a message; returns once that is durable, with the code of a refusal or nothing.
Answering = Callable[[StoredMessage, bytes], Awaitable[str]]


class _Run:
    """One message that is being handled."""

    __slots__ = ("lingering", "lost", "message", "settling", "task", "token")

    def __init__(self, leased: Leased) -> None:
        self.message = leased.message
        self.token = leased.lease_token
        self.task: asyncio.Task[None] | None = None
        self.settling = False
        self.lost = False
        #: Settled, but something of it still runs.
        self.lingering = False


class Handling:
    """Hands the messages of an inbox to one handler.

    Args:
        inbox: where the messages are.
        handler: what takes them.
        answering: sends what the handler answers.
        counters: where outcomes are counted.
        lease: length of a lease, seconds.
        backoff: how long a message waits that was not handled.

    """

    def __init__(
        self,
        inbox: Inbox,
        handler: Handler,
        answering: Answering,
        counters: Counters,
        *,
        lease: float = LEASE,
        backoff: Backoff = Backoff(),  # noqa: B008 - it is frozen
    ) -> None:
        self._inbox = inbox
        self._handler = handler
        self._answering = answering
        self._counters = counters
        self._lease_ms = max(1, int(lease * 1000))
        self._backoff = backoff
        self._loop = asyncio.get_running_loop()
        #: By position, what is being handled or lingers.
        self._runs: dict[int, _Run] = {}
        self._changed = asyncio.Event()
        self._asked: LeaseRequest | None = None
        self._paused_until = 0.0
        #: After a pause one message goes first: it shows whether the handler is back.
        self._probing = False
        #: One at a time: what is handed out now may kill this process, as it may have killed one before.
        self._alone = False
        self._stopping = False
        self._due: list[tuple[Settlement, asyncio.Future[Settled]]] = []
        self._settling = False
        #: What hands messages back that cannot be handled now.
        self._returning: set[asyncio.Task[None]] = set()
        self._feeder: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def running(self) -> int:
        """Messages that are being handled and not settled yet."""
        return sum(not run.lingering for run in self._runs.values())

    @property
    def lingering(self) -> int:
        """Handlers that ran out of time and still run."""
        return len(self._runs) - self.running

    def start(self) -> None:
        """Begin to take messages."""
        self._feeder = self._loop.create_task(self._feed())
        self._renew_later()

    def stop(self) -> None:
        """Take no more messages; what is being handled goes on."""
        self._stopping = True
        self._ask_no_more()
        self._changed.set()

    async def abandon(self) -> None:
        """Cancel what is still being handled and hand its messages back, which counts as no delivery."""
        self.stop()
        tasks = [run.task for run in self._runs.values() if run.task is not None and not run.task.done()]
        for run in self._runs.values():
            if run.task is not None and not run.settling:
                run.task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CANCEL_GRACE)
        stubborn = [run for run in self._runs.values() if not (run.settling or run.lingering)]
        if stubborn:
            log.warning("%d handlers do not end; their messages are handed back", len(stubborn))
            back = [self._settle(run, Later(0.0, "the cell stops")) for run in stubborn]
            await asyncio.wait([self._loop.create_task(one) for one in back], timeout=CANCEL_GRACE)

    async def close(self) -> None:
        """End the work in the background."""
        self.stop()
        if self._timer is not None:
            self._timer.cancel()
        if self._feeder is not None:
            # Not cancelled: what it is being given now is handed back by it.
            await asyncio.wait([self._feeder], timeout=CANCEL_GRACE)
        if self._returning:
            await asyncio.wait(self._returning, timeout=CANCEL_GRACE)

    # Taking messages

    async def _feed(self) -> None:
        while not self._stopping:
            try:
                await self._take()
            except Exception as error:
                log.error("no messages could be taken: %s", type(error).__name__)  # noqa: TRY400 - no payload in a log
                self._pause(DISK_PAUSE)

    async def _take(self) -> None:
        """Wait for room, then for messages, and begin with them."""
        while not self._stopping:
            pause = self._paused_until - self._loop.time()
            # What is being settled has no place any more, so that its ack and the next lease are one commit.
            taken = sum(run.lingering or not run.settling for run in self._runs.values())
            if not taken:
                self._alone = self._inbox.suspicious
            free = (1 if self._probing or self._alone else self._handler.concurrency) - taken
            if pause > 0 or free <= 0:
                self._changed.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(pause, 0.01) if pause > 0 else None):
                        await self._changed.wait()
                continue
            leased = await self._lease(free)
            if isinstance(leased, WorkFailed):
                self._pause(DISK_PAUSE)
                return
            for one in leased:
                self._begin(one)

    async def _lease(self, most: int) -> list[Leased] | WorkFailed:
        asked = self._asked = LeaseRequest(
            most=most,
            lease_ms=self._lease_ms,
            types=self._handler.types,
            holder=Holder.HANDLER,
            wait_until=self._inbox.clock.now_ms() + int(WAIT * 1000),
        )
        given: asyncio.Future[list[Leased] | WorkFailed] = self._loop.create_future()

        def done(result: list[Leased] | WorkFailed) -> None:
            if not given.done():
                given.set_result(result)

        try:
            self._inbox.lease(asked, done)
            return await given
        finally:
            self._asked = None
            asked.cancelled = True

    def _begin(self, leased: Leased) -> None:
        run = self._runs.get(leased.message.seq)
        if run is not None and not run.lingering and not run.settling:
            # The lease ran out while the handler ran, as happens when the whole process was stopped for long.
            run.token, run.lost = leased.lease_token, False
            return
        if run is not None or self._stopping:
            after = self._backoff.after(leased.message.delivery_count) if run is not None else 0.0
            back = _Run(leased)
            task = self._loop.create_task(self._settle(back, Later(after, "handed back")))
            self._returning.add(task)
            task.add_done_callback(self._returning.discard)
            return
        run = self._runs[leased.message.seq] = _Run(leased)
        run.task = self._loop.create_task(self._run(run))

    def _pause(self, seconds: float) -> None:
        self._paused_until = max(self._paused_until, self._loop.time() + seconds)
        self._ask_no_more()

    def _ask_no_more(self) -> None:
        """End the request for messages that is under way."""
        if self._asked is not None:
            self._asked.cancelled = True
            self._inbox.poke()

    # Handling one

    async def _run(self, run: _Run) -> None:
        outcome: Outcome
        try:
            outcome = await self._outcome(run.message)
        except asyncio.CancelledError:
            outcome = Later(0.0, "the cell stops")
        if run.settling:
            self._free(run)  # it did not let itself be cancelled, and its message was handed back meanwhile
            return
        if isinstance(outcome, Later) and outcome.all:
            self._probing = True
            self._pause(outcome.after)
        else:
            self._probing = False
        still = outcome.still if isinstance(outcome, Failed) else None
        try:
            await self._settle(run, outcome)
        finally:
            if still is None or still.done():
                self._free(run)
            else:
                run.lingering = True
                still.add_done_callback(lambda _: self._free(run))

    def _free(self, run: _Run) -> None:
        self._runs.pop(run.message.seq, None)
        self._changed.set()

    async def _outcome(self, message: StoredMessage) -> Outcome:
        try:
            outcome = await self._handler.handle(message)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return Failed("CancelledError")
        except Exception as error:
            log.error("a handler cannot be run: %s", type(error).__name__)  # noqa: TRY400 - no payload in a log
            return Failed(type(error).__name__)
        # No ping-pong: a reply is not answered.
        if isinstance(outcome, Done) and outcome.reply is not None and message.reply_to is None:
            code = await self._answering(message, outcome.reply)
            if code:
                return Failed(f"reply: {code}")
        return outcome

    async def _settle(self, run: _Run, outcome: Outcome) -> None:
        """Settle a message on disk, and say what came of it."""
        run.settling = True
        settlement = self._settlement(run, outcome)
        done: asyncio.Future[Settled] = self._loop.create_future()
        self._due.append((settlement, done))
        if len(self._due) == 1:
            # What ends in the same moment is settled together.
            self._loop.call_soon(self._flush)
        self._changed.set()
        self._tell(run, outcome, settlement, await done)

    def _settlement(self, run: _Run, outcome: Outcome) -> Settlement:
        seq, token = run.message.seq, run.token
        if isinstance(outcome, Done):
            return Settlement(verb=Verb.ACK, seq=seq, lease_token=token)
        reason = outcome.reason[:MAX_REASON]
        if isinstance(outcome, Rejected):
            return Settlement(verb=Verb.NACK, seq=seq, lease_token=token, reject=True, reason=reason)
        release = isinstance(outcome, Later)
        after = outcome.after if isinstance(outcome, Later) else self._backoff.after(run.message.delivery_count)
        return Settlement(
            verb=Verb.NACK, seq=seq, lease_token=token, release=release, reason=reason, delay_ms=int(after * 1000)
        )

    def _flush(self) -> None:
        if self._settling or not self._due:
            return
        batch, self._due = self._due, []
        self._settling = True

        def settled(results: list[Settled] | WorkFailed) -> None:
            self._settling = False
            if isinstance(results, WorkFailed):
                # Until there is room on the disk; the leases run on meanwhile, or out.
                self._due = batch + self._due
                self._loop.call_later(DISK_PAUSE, self._flush)
                return
            for (_, done), result in zip(batch, results, strict=True):
                if not done.done():
                    done.set_result(result)
            self._flush()

        self._inbox.settle([settlement for settlement, _ in batch], settled)

    def _tell(self, run: _Run, outcome: Outcome, settlement: Settlement, settled: Settled) -> None:
        message = run.message
        name = (
            f"message {message.message_id[:80]!r} of type {message.message_type[:80]!r} from {message.from_cell[:80]!r}"
        )
        if settled.code:
            self._counters.handled[settled.code] += 1
            log.warning("%s: the lease was over before it was settled (%s)", name, settled.code)
            return
        self._counters.handled[_NAMES[type(outcome)]] += 1
        if isinstance(outcome, Done):
            return
        if isinstance(outcome, Later):
            log.debug("%s: %s; again in %.1f s", name, outcome.reason, outcome.after)
            return
        why = (
            f"{outcome.reason} at {outcome.place}" if isinstance(outcome, Failed) and outcome.place else outcome.reason
        )
        if STATES[settled.state] == "dead":
            log.warning("%s is a dead letter after %d deliveries: %s", name, message.delivery_count, why)
        else:
            again = settlement.delay_ms / 1000
            log.warning("%s: %s (delivery %d); again in %.1f s", name, why, message.delivery_count, again)

    # Renewing leases

    def _renew_later(self) -> None:
        self._timer = self._loop.call_later(self._lease_ms / 3000, self._renew)

    def _renew(self) -> None:
        self._renew_later()
        runs = [run for run in self._runs.values() if not (run.settling or run.lingering or run.lost)]
        if not runs:
            return

        def renewed(results: list[Settled] | WorkFailed) -> None:
            if isinstance(results, WorkFailed):
                return
            for run, token, result in zip(runs, tokens, results, strict=True):
                run.lost = bool(result.code) and run.token == token and not run.settling

        tokens = [run.token for run in runs]
        self._inbox.settle(
            [
                Settlement(verb=Verb.EXTEND, seq=run.message.seq, lease_token=run.token, lease_ms=self._lease_ms)
                for run in runs
            ],
            renewed,
        )


_NAMES: dict[type[Any], str] = {Done: "handled", Failed: "failed", Rejected: "rejected", Later: "deferred"}
