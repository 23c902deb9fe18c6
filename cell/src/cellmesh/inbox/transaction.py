"""One transaction of the writer, as the work inside it sees it."""

from __future__ import annotations

from collections.abc import Callable

import apsw


class WorkFailed(Exception):  # noqa: N818 - an outcome as much as an error
    """What was to be written could not be: nothing of it is on disk.

    Args:
        message: why.
        disk_full: whether the disk has no room.

    """

    def __init__(self, message: str, *, disk_full: bool = False) -> None:
        super().__init__(message)
        self.disk_full = disk_full


class Transaction:
    """What a piece of work writes through, in the writer thread.

    Work may run twice: a group that fails is rolled back and repeated piece by piece. So what it changes in
    memory it changes in ``on_commit``, or takes back in ``on_rollback``.
    """

    __slots__ = ("_committed", "_rolled_back", "connection", "execute", "executemany")

    def __init__(self, connection: apsw.Connection) -> None:
        self.connection = connection
        self.execute = connection.execute
        self.executemany = connection.executemany
        self._committed: list[Callable[[], None]] = []
        self._rolled_back: list[Callable[[], None]] = []

    def on_commit(self, effect: Callable[[], None]) -> None:
        """Have ``effect`` called in the writer thread once the transaction is on disk."""
        self._committed.append(effect)

    def on_rollback(self, effect: Callable[[], None]) -> None:
        """Have ``effect`` called in the writer thread if the transaction is rolled back; the last one first."""
        self._rolled_back.append(effect)

    def committed(self) -> None:
        """Carry out what waits for the commit."""
        for effect in self._committed:
            effect()

    def rolled_back(self) -> None:
        """Take back what was done in memory."""
        for effect in reversed(self._rolled_back):
            effect()
