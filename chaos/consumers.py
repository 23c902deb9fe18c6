"""Keeps the consumers of a run alive: each that dies is started again, and its death is written down."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from chaos.ledger import Gone, Ledger
from chaos.mesh import Mesh
from chaos.processes import Process

#: Seconds from a consumer's death to its next life.
PAUSE = 0.3
#: Bytes at the end of a consumer's ledger within which its last words are looked for.
TAIL = 64 * 1024


class Keeper:
    """One consumer, through all its lives.

    Args:
        name: of the consumer.
        instance: whose inbox it consumes.
        mesh: where that is.
        books: directory of the ledger.
        ledger: where its deaths are written down.
        run: name of the run.
        seed: of what it does.

    """

    def __init__(
        self, name: str, instance: str, mesh: Mesh, books: Path, ledger: Ledger, *, run: str, seed: int
    ) -> None:
        self.name = name
        self.instance = instance
        self._books = books
        self._ledger = ledger
        self._arguments = ["--instance", instance, "--port", str(mesh.address(instance)[1]), "--ledger", str(books)]
        self._arguments += ["--run", run, "--seed", str(seed)]
        self._process = Process(name, [], {}, mesh.directory)
        self._task: asyncio.Task[None] | None = None
        #: Set whenever a life has ended by a signal.
        self.died = asyncio.Event()

    def start(self) -> None:
        """Begin its first life."""
        self._task = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """End it in good order, for good."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._process.signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(30):
                await self._process.wait()
        await self.kill()

    async def kill(self) -> None:
        """Kill its present life."""
        await self._process.kill()

    @property
    def holding(self) -> bool:
        """Whether it holds messages, or asks for something to be done with them, at this moment."""
        last = self._tail()[-1:]
        return bool(last) and (last[0]["record"] == "handed" or last[0].get("status", -1) == -1)

    def acked_since(self, at: float) -> bool:
        """Tell whether an ack was taken that was asked for since a moment."""
        return any(
            line["record"] == "return" and line["action"] == "ack" and line.get("status") == 200 and line["began"] >= at
            for line in self._tail()
        )

    async def _keep(self) -> None:
        while True:
            life = f"{self.name}.{self._process.lives}"
            self._process.command = [sys.executable, "-m", "chaos.consumer", "--consumer", life, *self._arguments]
            await self._process.start()
            code = await self._process.wait()
            self._ledger.write(Gone(consumer=life, at=time.time()))
            if code != -signal.SIGKILL:
                raise RuntimeError(f"{life} ended by itself with {code}: {self._process.tail()}")
            self.died.set()
            await asyncio.sleep(PAUSE)

    def check(self) -> None:
        """Raise what has ended it, if it has ended by itself."""
        if self._task is not None and self._task.done():
            self._task.result()

    def _tail(self) -> list[dict[str, Any]]:
        """Return the last lines that its present life, or its last one, has written."""
        pid = self._process.pid
        for path in self._books.glob(f"{self.name}.*.{pid}.*{Ledger.SUFFIX}") if pid else ():
            with path.open("rb") as file:
                start = file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
                lines = file.read().split(b"\n")[:-1]
            return [json.loads(line) for line in (lines[1:] if start else lines)]
        return []
