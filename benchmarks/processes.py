"""The processes that are measured: start and wait, CPU and memory, and none left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
import psutil

#: The checkout: modules of ``benchmarks`` are found from here.
ROOT = Path(__file__).resolve().parent.parent
#: How long a program may take to start, and to stop when asked to.
START = 45.0
STOP = 10.0


class StartError(Exception):
    """A program did not start, or died while it was measured."""


class Memory(msgspec.Struct):
    """Memory of one process in MB (10^6 bytes); PSS shares out pages that processes have in common."""

    rss: float
    pss: float | None


@dataclass
class Server:
    """One running program."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def check(self) -> None:
        """Raise with the end of its log when the program is no more."""
        if self.process.poll() is not None:
            raise StartError(f"{self.name} ended with code {self.process.returncode}:\n{self.tail()}")

    def tail(self) -> str:
        """Return the last lines of what the program printed."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-25:])

    def wait_until(self, ready: Callable[[], bool], what: str, timeout: float = START) -> None:
        """Wait until a condition holds, while the program lives."""
        deadline = time.monotonic() + timeout
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise StartError(f"{self.name}: not {what} within {timeout:.0f} s:\n{self.tail()}")
            time.sleep(0.02)

    def cpu(self) -> float:
        """Return the CPU seconds used so far, user and system."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    def memory(self) -> Memory:
        rss = psutil.Process(self.process.pid).memory_info().rss / 1e6
        return Memory(round(rss, 1), self._pss())

    def _pss(self) -> float | None:
        try:
            text = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
        except OSError:
            return None
        for line in text.splitlines():
            if line.startswith("Pss:"):
                return round(int(line.split()[1]) * 1024 / 1e6, 1)
        return None


class Servers:
    """The running programs of one part of the run; leaving the context ends them all."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.running: list[Server] = []

    def start(self, name: str, arguments: list[str], environment: Mapping[str, str]) -> Server:
        """Start a Python program; it is no child of the terminal, so that only we get its Ctrl-C."""
        log = self.directory / f"{name}.log"
        clean = {key: value for key, value in os.environ.items() if not key.startswith("CELLMESH_")}
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=ROOT,
                env={**clean, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        server = Server(name, process, log)
        self.running.append(server)
        return server

    def stop(self, server: Server) -> None:
        """Stop one program in good order."""
        self.running.remove(server)
        _stop([server], signal.SIGTERM)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What they stored is thrown away next, and some wait long for connections to close: no ceremony.
        _stop(self.running, signal.SIGKILL)
        self.running = []


def _stop(servers: list[Server], number: signal.Signals) -> None:
    for server in servers:
        if server.process.poll() is None:
            server.process.send_signal(number)
    deadline = time.monotonic() + STOP
    for server in servers:
        try:
            server.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            server.process.kill()
            server.process.wait()
