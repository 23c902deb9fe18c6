"""One message to several receivers: each gets a copy of its own, with the same id, and has an outcome of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw

from cellmesh.discovery.directory import Directory, Entry
from cellmesh.discovery.reading import DiscoveryUnavailable
from cellmesh.protocol.messages import CellMessage, Identity, encode
from cellmesh.protocol.peers import Peer
from cellmesh.protocol.problems import Problem
from cellmesh.protocol.receipts import BroadcastAnswer, BroadcastResult, BroadcastStatus
from cellmesh.protocol.sends import DEFAULT_TIMEOUT, EVERYONE, SendRequest
from cellmesh.service.letters import Letter, failed, stopping
from cellmesh.service.reply import Reply


class Receiver(NamedTuple):
    """One that gets a copy: any instance of a cell, or the one named; and where it was found, if it was looked up."""

    cell: str
    instance: str | None = None
    entry: Entry | None = None


class Broadcaster:
    """Sends one message to several receivers.

    Args:
        here: who this instance is.
        directory: who is where.

    """

    def __init__(self, here: Identity, directory: Directory) -> None:
        self._here = here
        self._directory = directory
        self._loop = asyncio.get_running_loop()

    async def send(
        self, request: SendRequest, message: CellMessage, carry: Callable[[Letter], Coroutine[Any, Any, Reply]]
    ) -> Reply:
        """Send a message to all its receivers at once; ``timeout`` bounds the whole.

        Args:
            request: what was asked.
            message: the message, without a receiver.
            carry: takes one copy to its receiver and returns what ``/send`` would have answered.

        Raises:
            Problem: ``no_receivers``, or discovery cannot be asked who there is.

        """
        started = self._loop.time()
        timeout = request.timeout or DEFAULT_TIMEOUT
        # Half of the time at most goes into looking; the rest is for the messages.
        receivers = await self.receivers(request, timeout / 2)
        copies = []
        for receiver in receivers:
            letter = Letter(request, msgspec.structs.replace(message, to_cell=receiver.cell), started)
            letter.to_instance = receiver.instance
            letter.entry = receiver.entry
            copies.append((letter, self._loop.create_task(carry(letter))))
        tasks = [task for _, task in copies]
        try:
            await asyncio.wait(tasks)
        except asyncio.CancelledError:
            # This instance has to stop: each copy says what is known of it.
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        return _answer(message.message_id, [(letter, _reply(letter, task)) for letter, task in copies])

    async def receivers(self, request: SendRequest, within: float) -> list[Receiver]:
        """Return the receivers of a message, each once.

        Args:
            request: what was asked.
            within: seconds that finding out may take.

        Raises:
            Problem: ``no_receivers``, or discovery cannot be asked who there is.

        """
        to_cell, each = request.to_cell, request.instances == "all"
        if to_cell == EVERYONE:
            found = await self._everyone(within, each=each)
        elif not each:
            found = [Receiver(name) for name in _names(to_cell)]
        else:
            several = await asyncio.gather(*[self._instances(name, within) for name in _names(to_cell)])
            found = [receiver for some in several for receiver in some]
        if not found:
            raise Problem("no_receivers", "to_cell: there is no other cell in this mesh", field="to_cell")
        return found

    async def _everyone(self, within: float, *, each: bool) -> list[Receiver]:
        try:
            peers = await self._directory.everyone(within)
        except DiscoveryUnavailable as error:
            raise Problem("discovery_unavailable", f"discovery: {error}", retry_after=1) from None
        by_cell: dict[str, dict[str, Peer]] = {}
        for peer in peers:
            if peer.cell_id != self._here.cell_id:
                by_cell.setdefault(peer.cell_id, {})[peer.key] = peer
        receivers = []
        for cell, instances in sorted(by_cell.items()):
            # What was just found is enough for a first attempt: not every cell that ever got a message that was
            # for all is followed from then on.
            entry = self._directory.followed(cell) or Entry.of(cell, list(instances.values()))
            receivers += (
                [Receiver(cell, key, entry) for key in sorted(instances)] if each else [Receiver(cell, None, entry)]
            )
        return receivers

    async def _instances(self, cell: str, within: float) -> list[Receiver]:
        """Return the instances of a cell that are ready; where none is, the cell itself, which then says why."""
        entry = self._directory.entry(cell)
        deadline = self._loop.time() + within
        while not entry.answered and not entry.problem and (left := deadline - self._loop.time()) > 0:
            await entry.changed(left)
        return [Receiver(cell, peer.key) for peer in entry.peers] or [Receiver(cell)]


def _names(to_cell: str | list[str]) -> list[str]:
    return [to_cell] if isinstance(to_cell, str) else list(dict.fromkeys(to_cell))


def _answer(message_id: str, replies: list[tuple[Letter, Reply]]) -> Reply:
    results = [
        BroadcastResult(letter.to_cell, reply.status, Raw(reply.body), _instance(letter)) for letter, reply in replies
    ]
    delivered = sum(result.status == 200 for result in results)
    if delivered == len(results):
        status, said = 200, BroadcastStatus.DELIVERED
    elif delivered:
        status, said = 207, BroadcastStatus.PARTIAL
    else:
        status, said = 502, BroadcastStatus.FAILED
    return Reply(status, encode(BroadcastAnswer(said, message_id, results, len(results), delivered)))


def _reply(letter: Letter, task: asyncio.Task[Reply]) -> Reply:
    return failed(letter, stopping(letter)) if task.cancelled() else task.result()


def _instance(letter: Letter) -> str | None:
    return letter.to_instance or (letter.peer.instance if letter.peer is not None else None)
