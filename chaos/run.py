"""One run: the mesh, the load, the faults, and the comparison of the books."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import uvloop

from chaos import ledger as ledgers
from chaos.books import Account, compare
from chaos.consumers import Keeper
from chaos.damage import World, done
from chaos.faults import FAULTS
from chaos.ledger import Gone, Ledger
from chaos.mesh import CONSUMERS, Mesh
from chaos.plan import Planned, plan
from chaos.reader import Reader
from chaos.report import failures, render, slowest, write
from chaos.settler import Settler
from chaos.workload import Load

#: Seconds between two lines that say how far a run is.
TELLING = 10.0
#: Seconds within which consumers have to have consumed everything once no more comes.
CATCHING_UP = 120.0
#: Seconds within which outboxes have to have settled everything: in the short form, and in the long one, which waits
#: until a message is given up that an ephemeral instance may have taken with it (``dedupe_window``).
SETTLING, LONG_SETTLING = 120.0, 720.0
#: Faults that may be at once, of different victims.
AT_ONCE = 2


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a run is to do.

    Attributes:
        seed: of the messages and of the faults.
        messages: how many have to be sent.
        faults: how many have to count.
        rate: messages a second.
        gap: mean seconds between two faults.
        settling: seconds within which outboxes have to have settled everything.
        limit: seconds after which no more faults are done, and no more messages begun.
        kinds: names of the faults; empty: all.
        program: what runs cells, instead of the cell itself.

    """

    seed: int
    messages: int
    faults: int
    rate: float
    gap: float
    limit: float
    settling: float = SETTLING
    kinds: tuple[str, ...] = ()
    program: tuple[str, ...] = ()


class Run:
    """A run.

    Args:
        options: what it is to do.
        directory: where everything goes.

    """

    def __init__(self, options: Options, directory: Path) -> None:
        self.options = options
        self.name = f"run-{options.seed}-{time.time_ns() // 1_000_000:x}"
        self._books = directory / "ledger"
        self._books.mkdir()
        epoch = time.time() - time.monotonic()
        handlers = {"CHAOS_LEDGER": str(self._books), "CHAOS_RUN": self.name, "CHAOS_EPOCH": str(epoch)}
        self._mesh = Mesh(directory, handlers, options.program)
        self._counted = 0
        self._done = 0
        self._now: dict[str, Planned] = {}
        self._began = time.monotonic()
        #: Messages that consumers could still have, by instance, when they should have consumed all.
        self.left_over: dict[str, int] = {}

    async def run(self) -> Account:
        """Do it; return what the books say."""
        seed = self.options.seed
        async with contextlib.AsyncExitStack() as stack:
            of_load, of_reader, of_faults = (
                stack.enter_context(Ledger(self._books, writer)) for writer in ("load", "reader", "faults")
            )
            stack.push_async_callback(self._mesh.close)
            self._mesh.on_death = lambda name, pid, at: of_faults.write(Gone(consumer=f"{name}.{pid}", at=at))
            await self._mesh.start()
            reader = Reader(self._mesh, of_reader, self.name)
            reader.start()
            stack.push_async_callback(reader.stop)
            consumers = {
                name: Keeper(name, instance, self._mesh, self._books, of_faults, run=self.name, seed=seed)
                for name, instance in CONSUMERS.items()
            }
            for consumer in consumers.values():
                consumer.start()
                stack.push_async_callback(consumer.stop)
            load = Load(self._mesh, of_load, run=self.name, seed=seed, rate=self.options.rate)
            load.start()
            settler = Settler(load.progress, reader, of_reader)
            settler.start()
            stack.push_async_callback(settler.stop)
            stack.push_async_callback(load.close)
            self._began = time.monotonic()
            telling = asyncio.create_task(self._tell(load))
            stack.callback(telling.cancel)
            world = World(self._mesh, load, reader, consumers, of_faults)
            world.harmed = lambda: [name for planned in self._now.values() for name in planned.victims]
            await self._harm(world, of_faults)
            while load.progress.begun < self.options.messages and not self._late:
                load.check()
                self._mesh.check()
                await asyncio.sleep(0.1)
            telling.cancel()
            print("no more messages are begun; what is unanswered is sent again, the rest consumed", flush=True)
            await load.stop()
            load.check()
            await settler.settle(self.options.settling)
            self.left_over = await reader.consumed(self._mesh.receivers, CATCHING_UP)
            for consumer in consumers.values():
                consumer.check()
                await consumer.stop()
            await reader.stop()
            await reader.inspect()
        return compare(ledgers.read(self._books), self.name)

    @property
    def ended_by_themselves(self) -> list[str]:
        """Cells that have ended though nothing has killed them, and how."""
        return self._mesh.failures

    @property
    def _late(self) -> bool:
        return time.monotonic() - self._began > self.options.limit

    async def _harm(self, world: World, ledger: Ledger) -> None:
        """Do faults, at most two at once and never two to one victim, until enough of them count."""
        wanted = [FAULTS[name] for name in self.options.kinds or FAULTS]
        faults = plan(
            self.options.seed,
            [damage.kind for damage in wanted],
            {damage.kind.name: damage.victims(self._mesh) for damage in wanted},
            self.options.gap,
        )
        for damage in wanted:
            if not damage.victims(self._mesh):
                print(f"not done, for this machine or account cannot: {damage.kind.name}", flush=True)
        running: set[asyncio.Task[None]] = set()
        try:
            for planned in faults:
                while self._counted + len(running) >= self.options.faults and running:
                    await self._one(running)
                if self._counted >= self.options.faults or self._late:
                    break
                await asyncio.sleep(planned.gap)
                while len(running) >= AT_ONCE or self._busy(planned):
                    await self._one(running)
                self._now[planned.victim] = planned
                running.add(asyncio.create_task(self._fault(planned, world, ledger)))
            while running:
                await self._one(running)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    def _busy(self, planned: Planned) -> bool:
        return any({*planned.victims} & {*other.victims} for other in self._now.values())

    async def _one(self, running: set[asyncio.Task[None]]) -> None:
        """Wait for the end of one of the faults."""
        ended, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        running -= ended
        for task in ended:
            task.result()

    async def _fault(self, planned: Planned, world: World, ledger: Ledger) -> None:
        fault = await done(FAULTS[planned.kind](world, planned))
        ledger.write(fault)
        self._done += 1
        self._counted += fault.counts
        del self._now[planned.victim]

    async def _tell(self, load: Load) -> None:
        while True:
            await asyncio.sleep(TELLING)
            progress = load.progress
            now = ", ".join(f"{planned.kind} ({planned.victim})" for planned in self._now.values())
            print(
                f"{time.monotonic() - self._began:5.0f} s: {progress.acknowledged:,} of {progress.begun:,} messages "
                f"acknowledged, {self._counted} of {self._done} faults count; now: {now or 'none'}",
                flush=True,
            )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; return the exit code: 0 where no promise was broken."""
    given = _parse(arguments)
    directory = Path(tempfile.mkdtemp(prefix="cellmesh-chaos-"))
    options = Options(
        seed=given.seed if given.seed is not None else time.time_ns() % 1_000_000,
        messages=given.messages or (6_000 if given.short else 100_000),
        faults=given.faults or (20 if given.short else 200),
        rate=given.rate or (100.0 if given.short else 60.0),
        gap=given.gap if given.gap is not None else (0.5 if given.short else 7.0),
        limit=60 * (given.minutes or (4.0 if given.short else 42.0)),
        settling=SETTLING if given.short else LONG_SETTLING,
        kinds=tuple(given.kind or ()),
        program=tuple(given.program or ()),
    )
    print(f"seed {options.seed}; logs and ledger: {directory}", flush=True)
    began = time.monotonic()
    run = Run(options, directory)
    account = uvloop.run(run.run())
    failed = failures(account, messages=options.messages, faults=options.faults)
    failed += run.ended_by_themselves
    failed += [f"{count} messages at {name} were not consumed" for name, count in run.left_over.items()]
    facts = {
        "when": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "how": f"`make chaos{' ARGS=--short' if given.short else ''}`, seed {options.seed}",
        "how long": f"{(time.monotonic() - began) / 60:.1f} minutes",
        "messages, faults that count": f"{account.counts['messages']:,}, {len(account.counted)}",
        "on": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
    }
    text = render(account, failed, facts)
    print(f"\n{text}", flush=True)
    if given.write:
        write("Local processes", text)
    if failed:
        print(f"failed; logs and ledger: {directory}", file=sys.stderr)
        return 1
    longest = slowest(account)
    print(f"passed; longest time to recovery {longest.recovery:.1f} s" if longest else "passed")
    if not given.keep:
        shutil.rmtree(directory, ignore_errors=True)
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m chaos",
        allow_abbrev=False,
        description="Kill, stop and cut off cells, consumers and discovery on this machine while messages flow, and "
        "compare what was acknowledged with what is there. Linux; full disks need root, moved clocks a C compiler.",
    )
    add = parser.add_argument
    add("--short", action="store_true", help="a few minutes: 20 faults, 6,000 messages (else 200 and 100,000)")
    add("--seed", type=int, help="of messages and faults: the same seed, the same plan (default: another each time)")
    add("--messages", type=int, metavar="N", help="how many messages have to be sent")
    add("--faults", type=int, metavar="N", help="how many faults have to count")
    add("--rate", type=float, metavar="N", help="messages a second (default 60, short 100)")
    add("--gap", type=float, metavar="SECONDS", help="mean pause between two faults (default 7, short 0.5)")
    add("--minutes", type=float, metavar="N", help="no fault and no message begins later (default 42, short 4)")
    add("--kind", action="append", choices=sorted(FAULTS), help="only faults of this kind; may be given again")
    add("--write", action="store_true", help="put the report into docs/reliability.md")
    add("--keep", action="store_true", help="keep logs, data and ledger also where nothing was broken")
    add("--program", nargs="+", metavar="WORD", help="Python program, and its arguments, that runs cells instead")
    return parser.parse_args(arguments)
