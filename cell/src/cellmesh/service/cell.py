"""One cell: its parts put together, its identity, and how it starts and stops."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from typing import Any, cast
from urllib.parse import urlsplit

from cellmesh.discovery.directory import Directory
from cellmesh.discovery.registration import Registration
from cellmesh.inbox import Inbox, InboxLimits
from cellmesh.outbox import Outbox, OutboxLimits
from cellmesh.protocol.messages import Identity
from cellmesh.protocol.peers import PeerRegistration
from cellmesh.protocol.problems import Problem
from cellmesh.protocol.receipts import Durability
from cellmesh.service.answering import Answers
from cellmesh.service.broadcasting import Broadcaster
from cellmesh.service.consuming import Consumers
from cellmesh.service.counters import Counters
from cellmesh.service.delivering import Courier
from cellmesh.service.dispatching import Dispatcher
from cellmesh.service.handing_over import HandingOver
from cellmesh.service.handling import LEASE, Handler, Handling
from cellmesh.service.moving import Mover
from cellmesh.service.outcomes import Backoff
from cellmesh.service.pushing import Push
from cellmesh.service.queueing import Queueing
from cellmesh.service.receiving import Receiver
from cellmesh.service.replies import Replies
from cellmesh.service.reply import Reply
from cellmesh.service.sending import Sender
from cellmesh.service.taking_over import TakingOver
from cellmesh.settings import Settings

log = logging.getLogger(__name__)

SWEEP_INTERVAL = 30.0
#: How long, at the end, answers to queued messages that have been sent are waited for, seconds.
LAST_ANSWERS = 2.0


def open_inbox(settings: Settings) -> Inbox:
    """Open the inbox that the settings describe.

    Raises:
        InboxError: locked, foreign, damaged, or not writable.

    """
    return Inbox(
        settings.data_dir,
        InboxLimits(
            max_messages=settings.max_messages,
            max_bytes=settings.max_bytes,
            history=settings.history,
            history_ms=int(settings.history_seconds * 1000),
            dedupe_window_ms=int(settings.dedupe_window * 1000),
            disk_reserve=settings.disk_reserve,
            max_deliveries=settings.max_deliveries,
        ),
    )


class Cell:
    """A running cell. Made inside the event loop that serves it.

    Args:
        settings: its settings.
        inbox: its inbox, open; ``close`` closes it.

    """

    def __init__(self, settings: Settings, inbox: Inbox) -> None:
        self.settings = settings
        self.inbox = inbox
        self.here = Identity(settings.cell_id, settings.namespace, settings.instance, settings.uid)
        self.counters = Counters()
        self.started = time.monotonic()
        self.directory = Directory(settings.discovery_url)
        self.replies = Replies(inbox, self.here)
        self.mover = Mover(self.here, inbox, self.directory, self.counters)
        self.taking_over = TakingOver(inbox, self.here, self.replies, self.mover.expect, self.counters)
        self.receiver = Receiver(
            inbox,
            self.here,
            self.replies,
            self.mover.expect,
            cast("Durability", settings.durability),
            (settings.max_batch_messages, settings.max_batch_bytes),
            self.counters,
        )
        self.courier = Courier(self.directory, (settings.link_messages, settings.link_bytes), self.counters)
        self.broadcaster = Broadcaster(self.here, self.directory)
        self.outbox = Outbox(inbox, OutboxLimits(settings.outbox_messages))
        self.dispatcher = Dispatcher(self.outbox, self.here, self.directory, inbox.clock)
        self.queueing = Queueing(self.outbox, self.dispatcher, inbox.clock, self.counters)
        self.sender = Sender(
            self.here, self.courier, self.broadcaster, self.queueing, self.replies, inbox.clock, self.counters
        )
        self.handing_over = HandingOver(
            self.here,
            inbox,
            self.outbox,
            self.directory,
            self.mover,
            ephemeral=settings.durability == "ephemeral",
            patient=not settings.register,
        )
        self.consumers = Consumers(inbox, self.here, self.counters)
        self.ready = False
        self.draining = False
        #: Requests with messages that are being answered now.
        self.in_flight = 0
        self._handling: Handling | None = None
        self._push: Push | None = None
        self._registration: Registration | None = None
        self._sweeper: asyncio.Task[None] | None = None
        self._dispatching: asyncio.Task[None] | None = None

    def start(self, port: int) -> None:
        """Become ready on ``port`` and, where wanted, register with discovery."""
        self.ready = True
        loop = asyncio.get_running_loop()
        self._sweeper = loop.create_task(self._sweep())
        self._dispatching = loop.create_task(self.dispatcher.start())
        self.mover.start()
        if self.settings.discovery_url and self.settings.register:
            self._registration = Registration(self.settings.discovery_url, self._peer(port))
            self._registration.start()
        if self.settings.handler_url:
            self._push = Push(
                self.settings.handler_url,
                timeout=self.settings.handler_timeout,
                concurrency=self.settings.handler_concurrency,
                types=self.settings.handler_types,
            )
            self.handle_with(self._push)

    def handle_with(self, handler: Handler, *, lease: float = LEASE, backoff: Backoff | None = None) -> None:
        """Hand the messages of the inbox to a handler from now on.

        Args:
            handler: what takes them.
            lease: length of a lease, seconds; it is renewed while a message is being handled.
            backoff: how long a message waits that was not handled.

        """
        answer = Answers(self.here, self.submit).answer
        self._handling = Handling(self.inbox, handler, answer, self.counters, lease=lease, backoff=backoff or Backoff())
        self._handling.start()

    async def submit(self, body: bytes) -> Reply:
        """Do what ``POST /send`` does for the cell's own code, within the same bounds, also while the cell drains."""
        if len(body) > self.settings.max_body:
            text = f"body: {len(body)} bytes, longer than {self.settings.max_body}; send less at once"
            return self.sender.refuse(Problem("body_too_large", text, field="body"))
        return await self.sender.submit(body)

    @property
    def handling(self) -> int:
        """Messages that are being handled now."""
        return 0 if self._handling is None else self._handling.running

    @property
    def lingering(self) -> int:
        """Handlers that ran out of time and still run."""
        return 0 if self._handling is None else self._handling.lingering

    async def leave(self) -> None:
        """Begin to drain: not ready any more, and no longer in discovery. Messages are still taken, not handled."""
        self.draining = True
        self.ready = False
        self.taking_over.refusing = True
        if self._handling is not None:
            self._handling.stop()
        if self._registration is not None:
            await self._registration.stop()

    def refuse(self) -> None:
        """Take no more messages; those that are being answered are finished."""
        self.receiver.refusing = True
        self.consumers.refuse()
        self.sender.refusing = True

    async def give_up(self) -> None:
        """Answer what is still under way with what is known of it, and hand back what is being handled."""
        if self._handling is not None:
            await self._handling.abandon()
        await self.sender.give_up()

    async def close(self) -> None:
        """Close everything; what was taken is written first."""
        for task in (self._sweeper, self._dispatching):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        if self._handling is not None:
            await self._handling.abandon()
            await self._handling.close()
        if self._push is not None:
            self._push.close()
        await self.dispatcher.close(LAST_ANSWERS)
        await self.mover.close()
        await self.directory.close()
        self.courier.close()
        self.inbox.close()

    async def health(self) -> dict[str, Any]:
        """Return what ``GET /health`` says."""
        settings, gauges = self.settings, self.inbox.gauges
        return {
            "status": "draining" if self.draining else "healthy",
            "cell_id": settings.cell_id,
            "instance": settings.instance,
            "namespace": settings.namespace,
            "type": settings.type,
            "branch": settings.branch,
            "services": list(settings.services),
            "uptime_seconds": round(time.monotonic() - self.started, 3),
            "registered": self._registration.registered if self._registration else None,
            "messages": {
                "received": gauges.received,
                "pending": gauges.pending,
                "leased": gauges.leased,
                "consumed": gauges.consumed,
                "dead": gauges.dead,
                "oldest_pending_seconds": await self.inbox.oldest_pending_seconds(),
                "bytes": self.inbox.file_bytes(),
            },
            "consumers_waiting": self.inbox.writer.consumers_waiting,
            "outbox": {
                **self.outbox.totals,
                "oldest_queued_seconds": await self.outbox.oldest_queued_seconds(),
            },
            "sent": {"delivered": self.counters.delivered, "failed": self.counters.failed},
        }

    def peers(self) -> dict[str, Any]:
        """Return what ``GET /peers`` says: what this cell knows now, and how old it is."""
        now = asyncio.get_running_loop().time()
        known = [
            {
                "cell_id": peer.cell_id,
                "instance": peer.instance,
                "ip": peer.ip,
                "hostname": peer.hostname,
                "port": peer.port,
                "namespace": peer.namespace,
                "uid": peer.uid,
                "type": peer.type,
                "branch": peer.branch,
                "services": peer.services,
                "source": peer.source,
                "durability": peer.durability,
                "last_seen": peer.last_seen,
                "age_seconds": round(now - entry.confirmed_at, 3),
                "stale": bool(entry.problem),
            }
            for entry, peer in self.directory.known()
        ]
        peers = [{name: value for name, value in peer.items() if value is not None} for peer in known]
        return {"peers": peers, "count": len(peers), "cell_id": self.here.cell_id}

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_INTERVAL)
            self.courier.sweep()
            self.mover.sweep()
            self.dispatcher.sweep()

    def _peer(self, port: int) -> PeerRegistration:
        settings = self.settings
        return PeerRegistration(
            cell_id=settings.cell_id,
            ip=settings.advertise_host or _advertised(settings.host, settings.discovery_url),
            port=port,
            hostname=socket.gethostname(),
            type=settings.type or None,
            branch=settings.branch or None,
            services=list(settings.services) or None,
            namespace=settings.namespace,
            instance=settings.instance,
            uid=settings.uid,
            durability=cast("Durability", settings.durability),
            replicas=settings.replicas or None,
        )


def _advertised(host: str, discovery_url: str) -> str:
    """Return the address others reach this machine at, when it listens on all of them.

    The route towards discovery says which one that is; connecting a UDP socket sends nothing.
    """
    if host not in {"0.0.0.0", "::", ""}:  # noqa: S104 - compared, not bound
        return host
    parts = urlsplit(discovery_url)
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((parts.hostname or "", parts.port or 80))
        return str(probe.getsockname()[0])
    return socket.gethostname()
