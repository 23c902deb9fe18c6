"""Reads inboxes, again and again, so that what history drops was seen before."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Sequence
from typing import Any

from cellmesh.transport.http1 import Lost, NotSent, Pool
from chaos.ledger import Found, Inspected, Ledger
from chaos.parties import Parties

INTERVAL = 1.0
PAGE = 1000


class Unreadable(Exception):  # noqa: N818 - the state it is in
    """An inbox cannot be read now."""


class Unknown(Unreadable):
    """What is asked for is not there (404)."""


class Reader:
    """Reads the inboxes of all instances.

    Args:
        mesh: whose.
        ledger: where it writes.
        run: only messages of this run are written down.

    """

    def __init__(self, mesh: Parties, ledger: Ledger, run: str) -> None:
        self._mesh = mesh
        self._ledger = ledger
        self._run = run
        self._after: dict[str, int] = {}
        self._pools: dict[tuple[str, int], Pool] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, in the background."""
        self._task = asyncio.create_task(self._follow())

    def begin_anew(self, name: str) -> None:
        """Read the inbox of an instance from its beginning: it is a new one."""
        self._after.pop(name, None)

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def consumed(self, names: Sequence[str], within: float) -> dict[str, int]:
        """Wait until nothing waits for consumers any more; return what does, by instance, when it takes too long.

        Args:
            names: of the instances.
            within: seconds.

        """
        deadline = time.monotonic() + within
        while True:
            left: dict[str, int] = {}
            for name in names:
                with contextlib.suppress(Unreadable):
                    counts = (await self.get(name, "/health"))["messages"]
                    left[name] = counts["pending"] + counts["leased"]
            if len(left) == len(names) and not any(left.values()):
                return {}
            if time.monotonic() > deadline:
                return {name: count for name, count in left.items() if count}
            await asyncio.sleep(0.2)

    async def inspect(self) -> None:
        """Read every inbox from its beginning to its end, for the last time.

        Raises:
            Unreadable: one cannot be read.

        """
        for name, role in self._mesh.roles.items():
            began, after = time.time(), 0
            while (last := await self._page(name, after, final=True)) is not None:
                after = last
            self._ledger.write(Inspected(at=began, namespace=role.namespace, cell=role.cell, instance=name))

    async def _follow(self) -> None:
        while True:
            await asyncio.gather(*[self._new(name) for name in self._mesh.roles])
            await asyncio.sleep(INTERVAL)

    async def _new(self, name: str) -> None:
        try:
            while (last := await self._page(name, self._after.get(name, 0))) is not None:
                self._after[name] = last
        except Unreadable:
            return  # it is away; what it has does not change meanwhile

    async def _page(self, name: str, after: int, *, final: bool = False) -> int | None:
        """Write down one page of an inbox; return its last position, None if there was nothing more."""
        at = time.time()
        messages = (await self.get(name, f"/messages?limit={PAGE}&after={after}"))["messages"]
        role, ended = self._mesh.roles[name], time.time()
        found = []
        for message in messages:
            said = message["payload"]
            if said.get("run") == self._run:
                found.append(
                    Found(
                        at=at,
                        ended=ended,
                        namespace=role.namespace,
                        cell=role.cell,
                        instance=name,
                        seq=message["seq"],
                        number=said["number"],
                        seal=said["seal"],
                        state=message["state"],
                        reason=message.get("reason") or "",
                        final=final,
                    )
                )
        self._ledger.write(*found)
        return messages[-1]["seq"] if messages else None

    async def get(self, name: str, path: str) -> Any:
        """Ask an instance for something.

        Raises:
            Unreadable: it does not answer, or with an error.

        """
        try:
            address = self._mesh.address(name)
        except LookupError:
            raise Unreadable(f"{name}: nobody knows where it is") from None
        pool = self._pools.get(address)
        if pool is None:
            pool = self._pools[address] = Pool(*address)
        try:
            answer = await pool.request(pool.prepare("GET", path), connect_timeout=1.0, timeout=10.0)
        except (NotSent, Lost) as error:
            raise Unreadable(f"{name}: {error}") from None
        if answer.status == 404:
            raise Unknown(f"{name}: {path} is not there")
        if answer.status != 200:
            raise Unreadable(f"{name}: {path} answered {answer.status}")
        return json.loads(answer.body)
