"""Queries that wait until what they ask about changes."""

from __future__ import annotations

import asyncio

from cellmesh_operator.discovery.versions import Scope

Waiter = asyncio.Future[None]


class Waiters:
    """Futures by scope. Whoever adds one must discard it, however its query ends."""

    def __init__(self) -> None:
        self._waiters: dict[Scope, set[Waiter]] = {}
        self._closed = False

    def __len__(self) -> int:
        return sum(len(waiters) for waiters in self._waiters.values())

    @property
    def closed(self) -> bool:
        """Whether the server is shutting down, so that nobody waits any more."""
        return self._closed

    def add(self, scope: Scope) -> Waiter:
        """Return a future that is done at the next change of the scope; at shutdown it is done already."""
        waiter = asyncio.get_running_loop().create_future()
        if self._closed:
            waiter.set_result(None)
        else:
            self._waiters.setdefault(scope, set()).add(waiter)
        return waiter

    def discard(self, scope: Scope, waiter: Waiter) -> None:
        """Forget a waiter."""
        waiter.cancel()
        waiters = self._waiters.get(scope)
        if waiters is not None:
            waiters.discard(waiter)
            if not waiters:
                del self._waiters[scope]

    def wake(self, scope: Scope) -> None:
        """Wake those that wait for this very scope."""
        for waiter in self._waiters.get(scope, ()):
            if not waiter.done():
                waiter.set_result(None)

    def wake_all(self) -> None:
        """Wake everyone."""
        for scope in self._waiters:
            self.wake(scope)

    def open(self) -> None:
        """Let queries wait: the server starts."""
        self._closed = False

    def close(self) -> None:
        """Wake everyone, and let nobody wait any more: the server is shutting down."""
        self._closed = True
        self.wake_all()
