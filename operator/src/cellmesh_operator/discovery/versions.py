"""When each scope changed last, in a form that clients can compare but not misread.

A version is ``<epoch>-<count>``. The epoch is random for each life of a replica, so a version of another
replica, or of an earlier life, never equals one of this. The count is that of the scope's last change.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

#: Scopes that are gone and whose last change is still remembered exactly.
REMEMBERED = 1000


class Scope(NamedTuple):
    """What a query is about: a whole mesh, or one cell of it."""

    mesh: str
    cell_id: str | None = None


class Versions:
    """Counts changes. Memory is bounded by the scopes that exist plus ``REMEMBERED``.

    A scope that nobody remembers has the version of the youngest forgotten one: so a change may be told
    twice, and is never missed.
    """

    def __init__(self, epoch: str, remembered: int = REMEMBERED) -> None:
        self._epoch = epoch
        self._remembered = remembered
        self._count = 0
        self._there: dict[Scope, int] = {}
        self._gone: OrderedDict[Scope, int] = OrderedDict()
        self._forgotten = 0

    def change(self, scope: Scope, *, there: bool) -> None:
        """Note that a scope changed just now; ``there`` says whether it still holds anyone."""
        self._count += 1
        if there:
            self._gone.pop(scope, None)
            self._there[scope] = self._count
            return
        self._there.pop(scope, None)
        self._bury(scope, self._count)

    def leave(self, scope: Scope) -> None:
        """Note that a scope holds nobody any more, which is no change of what is told of it."""
        count = self._there.pop(scope, None)
        if count is not None:
            self._bury(scope, count)

    def of(self, scope: Scope) -> str:
        """Return the version of a scope."""
        count = self._there.get(scope)
        if count is None:
            count = self._gone.get(scope, self._forgotten)
        return f"{self._epoch}-{count}"

    def _bury(self, scope: Scope, count: int) -> None:
        self._gone[scope] = count
        self._gone.move_to_end(scope)
        if len(self._gone) > self._remembered:
            self._forgotten = max(self._forgotten, self._gone.popitem(last=False)[1])
