"""Replies: who waits for one, and which instance one goes to.

A message is a reply if it says so (``reply_to``). One that somebody waits for ends as it arrives: it is stored as
consumed, in the commit that makes it durable, and given to whoever waits after that. A late one is pending, as any.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import msgspec
from msgspec import Raw

from cellmesh.inbox import Inbox, Outcome, Verdict, WorkFailed
from cellmesh.inbox.clock import iso
from cellmesh.inbox.rows import decode_extra
from cellmesh.protocol.messages import CellMessage, Checked, Extra, Identity, Special
from cellmesh.protocol.receipts import StoredMessage
from cellmesh.protocol.sends import SendRequest

log = logging.getLogger(__name__)


class Waiter:
    """A program that waits for the reply to one message.

    While a reply is being written for it (``claimed``) it does not end: it gets that reply, or waits on if the
    reply could not be stored.
    """

    __slots__ = ("_future", "_over", "claimed")

    def __init__(self) -> None:
        self._future: asyncio.Future[StoredMessage | None] = asyncio.get_running_loop().create_future()
        self._over = False
        #: Whether a reply is being written for it now.
        self.claimed = False

    @property
    def free(self) -> bool:
        """Whether it waits, and no reply is on its way to it."""
        return not self.claimed and not self._over and not self._future.done()

    async def reply(self, within: float) -> StoredMessage | None:
        """Return the reply, or None if there is none in so many seconds."""
        timer = asyncio.get_running_loop().call_later(within, self.end)
        try:
            return await asyncio.shield(self._future)
        finally:
            timer.cancel()

    async def last(self) -> StoredMessage | None:
        """End, and return the reply if there is one by now."""
        self.end()
        return await asyncio.shield(self._future)

    def end(self) -> None:
        """Wait no longer than for a reply that is being written."""
        self._over = True
        if not self.claimed and not self._future.done():
            self._future.set_result(None)

    def settle(self, message: StoredMessage | None) -> None:
        """Take the reply that was written, or None if it could not be."""
        self.claimed = False
        if not self._future.done() and (message is not None or self._over):
            self._future.set_result(message)


class Claim:
    """A reply on its way into the inbox, and those who get it once it is there."""

    __slots__ = ("_checked", "_waiters")

    def __init__(self, checked: Checked, waiters: Sequence[Waiter]) -> None:
        self._checked = checked
        self._waiters = waiters
        for waiter in waiters:
            waiter.claimed = True

    def settle(self, outcome: Outcome | None) -> None:
        """Give the reply to those who wait if it has been stored; None: it has not even been tried."""
        stored = outcome is not None and outcome.verdict is Verdict.STORED
        message = _consumed(self._checked, outcome) if stored and outcome is not None else None
        for waiter in self._waiters:
            waiter.settle(message)


class Replies:
    """The replies that programs wait for, and the instances that replies are for.

    Args:
        inbox: where the messages are that are replied to.
        here: who this instance is.

    """

    def __init__(self, inbox: Inbox, here: Identity) -> None:
        self._inbox = inbox
        self._here = here
        #: By the id of the message and the cell that was asked.
        self._waiting: dict[tuple[str, str], list[Waiter]] = {}

    def __bool__(self) -> bool:
        """Tell whether anybody waits."""
        return bool(self._waiting)

    def expect(self, message_id: str, cell: str) -> Waiter:
        """Begin to wait for the reply of a cell to a message; ``forget`` ends it."""
        waiter = Waiter()
        self._waiting.setdefault((message_id, cell), []).append(waiter)
        return waiter

    def forget(self, message_id: str, cell: str, waiter: Waiter) -> None:
        """Wait no more."""
        waiters = self._waiting.get((message_id, cell), [])
        if waiter in waiters:
            waiters.remove(waiter)
        if not waiters:
            self._waiting.pop((message_id, cell), None)

    async def known(self, message_id: str, cell: str) -> StoredMessage | None:
        """Return the reply to a message that has come already; it is consumed. None if there is none."""
        try:
            return await self._inbox.reply(message_id, cell, self._here.namespace)
        except WorkFailed as error:
            log.warning("a reply that is pending could not be given: %s", error)
            return None

    def awaits(self, message: CellMessage) -> bool:
        """Tell whether somebody waits for this message."""
        return message.reply_to is not None and bool(self._waiters(message))

    def claim(self, message: CellMessage, checked: Checked) -> Claim | None:
        """Have a message end as it arrives if somebody waits for it; the caller settles what is returned.

        Args:
            message: the message.
            checked: what will be stored of it; is changed.

        """
        waiters = self._waiters(message) if message.reply_to is not None else []
        special = checked.special
        if not waiters or (special is not None and (special.delay or special.moving_to is not None)):
            return None
        checked.special = Special(consumed=True) if special is None else msgspec.structs.replace(special, consumed=True)
        return Claim(checked, waiters)

    async def home(self, request: SendRequest) -> str | None:
        """Return the instance that a reply is for: the one that sent the message which it answers.

        None where it answers none, where that message is not (or no longer) here, or did not say its instance.
        """
        if request.reply_to is None or request.to_instance is not None or not isinstance(request.to_cell, str):
            return None
        return await self._inbox.sent_from(request.reply_to, request.to_cell, self._here.namespace)

    def _waiters(self, message: CellMessage) -> list[Waiter]:
        if message.from_namespace is not None and message.from_namespace != self._here.namespace:
            return []
        waiters = self._waiting.get((message.reply_to or "", message.from_cell), ())
        return [waiter for waiter in waiters if waiter.free]


def _consumed(checked: Checked, outcome: Outcome) -> StoredMessage:
    """Return a message as an inbox shows it that was consumed as it arrived."""
    received_at = iso(outcome.received_at)
    extra = decode_extra(checked.extra) if checked.extra is not None else Extra()
    return StoredMessage(
        message_id=checked.message_id,
        from_cell=checked.from_cell,
        to_cell=checked.to_cell,
        message_type=checked.message_type,
        payload=Raw(checked.payload),
        timestamp=checked.timestamp or received_at,
        priority=checked.priority,
        ttl=checked.ttl,
        acknowledged=True,
        seq=outcome.seq,
        received_at=received_at,
        state="consumed",
        **msgspec.structs.asdict(extra),
    )
