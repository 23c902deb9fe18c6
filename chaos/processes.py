"""One process of a chaos run: started, signalled, started again, and never left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

#: The checkout: where processes run.
ROOT = Path(__file__).resolve().parent.parent
#: Seconds a process may take to start, on a busy machine.
START = 60.0
#: Ports that the kernel does not give to outgoing connections: a process that is away finds its port free again.
PORTS = range(20_000, 32_000)


class StartError(Exception):
    """A process did not start."""


class Process:
    """A process that can be started any number of times.

    Args:
        name: for its log and for reports.
        command: its command line.
        environ: variables besides those of this process.
        directory: where its log goes.
        address: where it listens; None: nowhere.

    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environ: Mapping[str, str],
        directory: Path,
        address: tuple[str, int] | None = None,
    ) -> None:
        self.name = name
        self.address = address
        self.log = directory / f"{name}.log"
        self.command = list(command)
        self.environ = dict(environ)
        self.lives = 0
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """Process id of the present life, or the last one; 0: there was none."""
        return self._process.pid if self._process is not None else 0

    @property
    def alive(self) -> bool:
        """Whether it runs, or is stopped."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start it, and wait until it listens.

        Raises:
            StartError: it does not, in time.

        """
        environ = {name: value for name, value in os.environ.items() if not name.startswith("CELLMESH_")}
        self.lives += 1
        with self.log.open("ab") as log:
            # Its standard input ends with this process, upon which it ends too.
            self._process = await asyncio.create_subprocess_exec(
                *self.command,
                env=environ | self.environ,
                cwd=ROOT,
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if self.address is not None:
            await self.wait_listening()

    async def wait_listening(self) -> None:
        """Wait until it takes connections.

        Raises:
            StartError: it does not, in time.

        """
        assert self.address is not None  # noqa: S101 - for the type checker
        deadline = time.monotonic() + START
        while True:
            try:
                _, writer = await asyncio.open_connection(*self.address)
            except OSError:
                if not self.alive or time.monotonic() > deadline:
                    raise StartError(f"{self.name} does not listen: {self.tail()}") from None
                await asyncio.sleep(0.02)
                continue
            writer.close()
            return

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it is alive."""
        if self.alive and self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def wait(self) -> int:
        """Wait for its end; return its exit code."""
        return await self._process.wait() if self._process is not None else 0

    async def kill(self) -> None:
        """Kill it."""
        self.signal(signal.SIGKILL)
        await self.wait()

    def tail(self) -> str:
        """Return the end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:]) if self.log.exists() else ""


def free_port(host: str, taken: set[int]) -> int:
    """Return a port on which nobody listens at an address, and none of those that are taken."""
    for _ in range(1000):
        port = random.SystemRandom().choice(PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            if port not in taken:
                probe.bind((host, port))
                taken.add(port)
                return port
    raise StartError(f"no free port on {host} between {PORTS.start} and {PORTS.stop}")
