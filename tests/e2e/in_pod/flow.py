"""Runs one writer of a chaos run's ledger, in the client pod, with the package `chaos` beside it, until SIGTERM.

load       sends messages, and looks up what became of queued ones; on SIGUSR1 it sends one that kills its consumer, to
           the instances named by --deadly in turn
read       reads inboxes again and again
consume    consumes from the inbox of --instance
keep       keeps consumers alive: --consumers has names and instances; the process id of each is in a file of its name
settled    waits until the instances named by --of have nothing for consumers; prints what they have left
inspect    reads every inbox once, to its end

Where the instances are it asks discovery; what was known stays known while that does not answer.
"""

import argparse
import asyncio
import contextlib
import functools
import itertools
import json
import signal
import sys
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from chaos.consumer import Consumer
from chaos.ledger import Gone, Ledger
from chaos.reader import Reader
from chaos.settler import Settler
from chaos.streams import Stream
from chaos.workload import Load

#: Seconds between two questions to discovery.
INTERVAL = 0.3
#: Seconds within which consumers have to have consumed everything once no more comes.
CATCHING_UP = 90.0
#: Seconds within which outboxes have to have settled everything.
SETTLING = 120.0


@dataclass(frozen=True)
class Role:
    """An instance: its name in the ledger, its cell and namespace, its pod's name, whether it sends."""

    instance: str
    cell: str
    namespace: str
    pod: str
    sends: bool


class Whereabouts:
    """Where the instances are, as discovery tells.

    Args:
        discovery: its base URL.
        roles: the instances.

    """

    def __init__(self, discovery: str, roles: list[Role]) -> None:
        self.roles = {role.instance: role for role in roles}
        self._discovery = discovery
        self._addresses: dict[str, tuple[str, int]] = {}
        self._names: dict[tuple[str, int], str] = {}

    @property
    def namespace(self) -> str:
        """The mesh of those that send."""
        return next(role.namespace for role in self.roles.values() if role.sends)

    @property
    def senders(self) -> list[str]:
        """Names of the instances that send."""
        return [name for name, role in self.roles.items() if role.sends]

    def address(self, name: str) -> tuple[str, int]:
        """Return where an instance was last.

        Raises:
            LookupError: it was never seen.

        """
        return self._addresses[name]

    def instance_at(self, url: str) -> str:
        """Return the name of the instance that has or had a URL; empty: none."""
        parts = urlsplit(url)
        return self._names.get((parts.hostname or "", parts.port or 80), "")

    async def known(self, names: Sequence[str]) -> None:
        """Wait until it was seen where these instances are."""
        while not self._addresses.keys() >= {*names}:  # noqa: ASYNC110 - looking takes turns with asking
            await asyncio.sleep(INTERVAL)

    async def follow(self) -> None:
        """Keep asking."""
        while True:
            for namespace in {role.namespace for role in self.roles.values()}:
                with contextlib.suppress(OSError, ValueError):
                    await asyncio.to_thread(self._ask, namespace)
            await asyncio.sleep(INTERVAL)

    def _ask(self, namespace: str) -> None:
        with urllib.request.urlopen(f"{self._discovery}/meshes/{namespace}/peers", timeout=2) as answer:
            peers = {peer["instance"]: (peer["ip"], peer["port"]) for peer in json.load(answer)["peers"]}
        for role in self.roles.values():
            if role.namespace == namespace and role.pod in peers:
                self._addresses[role.instance] = peers[role.pod]
                self._names[peers[role.pod]] = role.instance


async def run(options: argparse.Namespace) -> None:
    """Do what is asked for."""
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    if options.what == "keep":
        await keep(options, stopping)
        return
    where = Whereabouts(options.discovery, [Role(**role) for role in json.loads(options.roles)])
    following = asyncio.create_task(where.follow())
    needed = {"inspect": [*where.roles], "load": where.senders, "settled": options.of}.get(options.what, [])
    await where.known(needed)
    with Ledger(Path(options.ledger), options.consumer or options.what) as ledger:
        await WRITERS[options.what](options, where, ledger, stopping)
    following.cancel()


async def load(options: argparse.Namespace, where: Whereabouts, ledger: Ledger, stopping: asyncio.Event) -> None:
    """Send messages."""
    streams = [Stream(**stream) for stream in json.loads(options.streams)]
    sending = Load(where, ledger, run=options.run, seed=int(options.seed), rate=options.rate, streams=streams)
    settler = Settler(sending.progress, Reader(where, ledger, options.run), ledger)
    victims = itertools.cycle(options.deadly)

    def deadly() -> None:
        victim = next(victims)
        sending.send_deadly(where.roles[victim].cell, victim)

    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, deadly)
    sending.start()
    settler.start()
    while not stopping.is_set():
        sending.check()
        await asyncio.sleep(INTERVAL)
    await sending.stop()
    sending.check()
    await settler.settle(SETTLING)


async def read(options: argparse.Namespace, where: Whereabouts, ledger: Ledger, stopping: asyncio.Event) -> None:
    """Read inboxes."""
    reader = Reader(where, ledger, options.run)
    reader.start()
    await stopping.wait()
    await reader.stop()


async def consume(options: argparse.Namespace, where: Whereabouts, ledger: Ledger, stopping: asyncio.Event) -> None:
    """Consume from one inbox."""
    seed = f"{options.seed} {options.consumer}"
    address = functools.partial(where.address, options.instance)
    consumer = Consumer(options.consumer, options.instance, address, ledger, run=options.run, seed=seed)
    consumer.stopping = stopping
    await consumer.consume()


async def settled(options: argparse.Namespace, where: Whereabouts, ledger: Ledger, _: asyncio.Event) -> None:
    """Wait until all is consumed."""
    print(json.dumps(await Reader(where, ledger, options.run).consumed(options.of, CATCHING_UP)))


async def inspect(options: argparse.Namespace, where: Whereabouts, ledger: Ledger, _: asyncio.Event) -> None:
    """Read inboxes for the last time."""
    await Reader(where, ledger, options.run).inspect()


WRITERS = {"load": load, "read": read, "consume": consume, "settled": settled, "inspect": inspect}


async def keep(options: argparse.Namespace, stopping: asyncio.Event) -> None:
    """Keep consumers alive."""
    consumers = json.loads(options.consumers)
    with Ledger(Path(options.ledger), "keeper") as ledger:
        await asyncio.gather(*[alive(name, of, ledger, options, stopping) for name, of in consumers.items()])


async def alive(name: str, instance: str, ledger: Ledger, options: argparse.Namespace, stopping: asyncio.Event) -> None:
    """Keep one consumer alive: when it was killed, write it down and start it again."""
    for life in itertools.count():
        arguments = [word for word in sys.argv[2:] if not word.startswith("--consumers=")]
        command = ["consume", *arguments, f"--consumer={name}.{life}", f"--instance={instance}"]
        process = await asyncio.create_subprocess_exec(sys.executable, __file__, *command)
        Path(options.ledger, f"{name}.pid").write_text(str(process.pid))  # noqa: ASYNC240 - it takes no time
        ended = asyncio.create_task(process.wait())
        await asyncio.wait([ended, asyncio.create_task(stopping.wait())], return_when=asyncio.FIRST_COMPLETED)
        if stopping.is_set():
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        code = await ended
        ledger.write(Gone(consumer=f"{name}.{life}", at=time.time()))
        if stopping.is_set():
            return
        if code != -signal.SIGKILL:
            raise RuntimeError(f"{name}.{life} ended by itself with {code}")


def main() -> int:
    """Read the command line and run it."""
    parser = argparse.ArgumentParser()
    add = parser.add_argument
    add("what", choices=[*WRITERS, "keep"])
    add("--run", required=True, help="name of the run")
    add("--ledger", required=True, help="directory of the ledger")
    add("--discovery", required=True, help="its base URL")
    add("--roles", required=True, help="the instances, as JSON")
    add("--streams", default="[]", help="what is sent, as JSON")
    add("--deadly", nargs="*", default=[], help="instances with one consumer each")
    add("--consumers", default="{}", help="names of consumers, and the instance of each, as JSON")
    add("--consumer", default="", help="name of this life of a consumer")
    add("--instance", default="", help="whose inbox it consumes")
    add("--of", nargs="*", default=[], help="instances")
    add("--seed", default="0")
    add("--rate", type=float, default=10.0)
    asyncio.run(run(parser.parse_args()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
