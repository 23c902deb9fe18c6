"""Which messages can be handed out, highest priority first and oldest first within one: kept in memory.

An index for this would cost every message that is stored another page to write, also in cells without a
consumer. Here consecutive positions of one priority and type take one entry together. What is said to be
ready may have ended meanwhile: whoever takes a position looks at its row.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from sys import intern
from typing import NamedTuple

#: Types of message with a queue of their own; those beyond share one, in which a type is searched for.
MAX_TYPES = 256
#: Entries of the shared queue that one search passes over at most.
MAX_SEARCH = 10_000
#: Positions in one run at most.
_RUN = 1 << 20


class Position(NamedTuple):
    """Where a message is, and in which queue it belongs."""

    seq: int
    priority: int
    message_type: str


class _Queue:
    """Positions in ascending order: runs of arrivals, and a heap of those that came back.

    A run of consecutive positions is one number, its first position times ``_RUN`` plus how many follow: where
    kinds of messages alternate there are as many runs as messages, and a number takes little memory.
    """

    __slots__ = ("returned", "runs", "size")

    def __init__(self) -> None:
        self.runs: deque[int] = deque()
        self.returned: list[int] = []
        self.size = 0

    def add(self, seq: int) -> None:
        self.size += 1
        runs = self.runs
        if runs:
            first, more = divmod(runs[-1], _RUN)
            if first + more == seq - 1 and more < _RUN - 1:
                runs[-1] += 1
                return
        runs.append(seq * _RUN)

    def give_back(self, seq: int) -> None:
        self.size += 1
        heapq.heappush(self.returned, seq)

    def first(self) -> int:
        if not self.returned:
            return self.runs[0] // _RUN
        return min(self.returned[0], self.runs[0] // _RUN) if self.runs else self.returned[0]

    def pop(self) -> int:
        self.size -= 1
        runs, returned = self.runs, self.returned
        if returned and (not runs or returned[0] < runs[0] // _RUN):
            return heapq.heappop(returned)
        seq, more = divmod(runs[0], _RUN)
        if more:
            runs[0] += _RUN - 1
        else:
            runs.popleft()
        return seq


class Ready:
    """The positions of the messages that can be handed out now."""

    def __init__(self) -> None:
        #: By priority, then by type; those of too many types are under ``None``.
        self._queues: tuple[dict[str | None, _Queue], ...] = ({}, {}, {}, {})
        #: Types of the positions in the shared queues.
        self._shared: dict[int, str] = {}
        self.size = 0

    def add(self, seq: int, priority: int, message_type: str) -> None:
        """Take in a message that has just arrived: its position is the highest so far."""
        queue = self._queues[priority].get(message_type)
        if queue is None:
            queue = self._queue(seq, priority, message_type)
        queue.add(seq)
        self.size += 1

    def give_back(self, position: Position) -> None:
        """Take in a message that was handed out or held back before."""
        self._queue(*position).give_back(position.seq)
        self.size += 1

    def has(self, types: Sequence[str] | None) -> bool:
        """Tell whether there may be a message of these types; None: of any."""
        if types is None:
            return self.size > 0
        return any(queues.get(name) for queues in self._queues for name in (*types, None))

    def take(self, most: int, types: Sequence[str] | None = None) -> list[Position]:
        """Remove and return up to ``most`` positions, in the order in which they are to be handed out."""
        taken: list[Position] = []
        for priority in range(len(self._queues) - 1, -1, -1):
            if len(taken) >= most:
                break
            queues = self._queues[priority]
            wanted = queues if types is None else {name: queues[name] for name in (*types, None) if name in queues}
            if wanted:
                self._take_from(priority, wanted, most, types, taken)
        self.size -= len(taken)
        return taken

    def _take_from(
        self,
        priority: int,
        wanted: dict[str | None, _Queue],
        most: int,
        types: Sequence[str] | None,
        taken: list[Position],
    ) -> None:
        # By number: a position may stand in two queues, and names that are None cannot be compared.
        names = list(wanted)
        heads = [(wanted[name].first(), number) for number, name in enumerate(names)]
        heapq.heapify(heads)
        passed: list[int] = []
        while heads and len(taken) < most:
            number = heads[0][1]
            name = names[number]
            if name is None and len(passed) >= MAX_SEARCH:
                heapq.heappop(heads)  # the others have not been searched yet
                continue
            queue = wanted[name]
            seq = queue.pop()
            found = self._shared.get(seq, "") if name is None else name
            if name is None and types is not None and found not in types:
                passed.append(seq)
            else:
                taken.append(Position(seq, priority, found))
                self._shared.pop(seq, None)
            if queue.size:
                heapq.heapreplace(heads, (queue.first(), number))
            else:
                heapq.heappop(heads)
                if not passed or name is not None:
                    del self._queues[priority][name]
        for seq in passed:
            self._queues[priority][None].give_back(seq)

    def _queue(self, seq: int, priority: int, message_type: str) -> _Queue:
        queues = self._queues[priority]
        queue = queues.get(message_type)
        if queue is None:
            if len(queues) < MAX_TYPES:
                queue = queues[message_type] = _Queue()
            else:
                queue = queues.setdefault(None, _Queue())
                self._shared[seq] = intern(message_type)
        return queue
