"""Looks at the processes of a mesh from outside: who serves, where, and what waits in each inbox."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

from cellmesh.cli import http
from cellmesh.cli.lookup import addressable
from cellmesh.cli.supervisor import Child

#: Seconds between two looks: at processes that start, and at those that run.
SOON = 0.1
LATER = 1.0


class Watcher:
    """Tells children when they serve.

    Args:
        children: all children of the mesh, in a list that may grow.
        keep_looking: ask those that serve for their health as well, for who wants to show it.

    """

    def __init__(self, children: Sequence[Child], *, keep_looking: bool) -> None:
        self._children = children
        self._keep_looking = keep_looking
        # A hanging process holds up one thread, not the look at all the others.
        self._pool = ThreadPoolExecutor(16, thread_name_prefix="watch")

    async def run(self) -> None:
        """Look, until cancelled."""
        loop = asyncio.get_running_loop()
        looked_at_all = 0.0
        looks: dict[str, asyncio.Task[None]] = {}
        try:
            while True:
                due = [child for child in self._children if child.state == "starting" and child.pid]
                if self._keep_looking and loop.time() - looked_at_all >= LATER:
                    looked_at_all = loop.time()
                    due += [child for child in self._children if child.state == "ready"]
                # One that hangs is left to its own look, the others go on.
                looks |= {child.name: loop.create_task(self._look(child)) for child in due if child.name not in looks}
                await asyncio.sleep(SOON)
                for name in [name for name, task in looks.items() if task.done()]:
                    looks.pop(name).result()
        finally:
            for task in looks.values():
                task.cancel()
            self._pool.shutdown(wait=False, cancel_futures=True)

    async def _look(self, child: Child) -> None:
        life = child.pid
        url, health = await asyncio.get_running_loop().run_in_executor(self._pool, look, child)
        if child.pid != life:
            return  # it has died meanwhile, and perhaps another life of it begun
        child.silent = health is None and child.state == "ready"
        if health is not None:
            child.health = health
            child.became_ready(url)


def look(child: Child) -> tuple[str, dict[str, Any] | None]:
    """Return where a child serves and its health; None if it does not serve, or another program does there."""
    process = child.process
    url = child.url or _registered(process.mesh, process.instance)
    ready = http.probe(f"{url}/readyz") if url else None
    if ready is None or ready.status != 200:
        return url, None
    health = http.probe(f"{url}/health")
    body = health.body if health is not None and isinstance(health.body, dict) else {}
    if process.instance and body.get("instance") != process.instance:
        return url, None
    return url, body


def _registered(mesh: str, instance: str) -> str:
    """Return the URL under which an instance has registered with discovery; empty if it has not."""
    cell = instance.rpartition("-")[0]
    answer = http.probe(f"{mesh}/peers?cell_id={quote(cell)}")
    if answer is None or answer.status != 200 or not isinstance(answer.body, dict):
        return ""
    return next((peer.url for peer in addressable(answer.body.get("peers") or []) if peer.key == instance), "")


async def until_ready(children: Sequence[Child], within: float) -> list[Child]:
    """Wait until each child serves or has been given up; return those that do not serve in the end."""
    deadline = asyncio.get_running_loop().time() + within
    while asyncio.get_running_loop().time() < deadline:
        if all(child.state in {"ready", "failed", "stopped"} for child in children):
            break
        await asyncio.sleep(0.05)
    return [child for child in children if child.state != "ready"]
