"""Who is where: a cache of discovery's answers for the cells that this cell talks to.

Asked once for a cell, the directory follows its changes by a blocking query for as long as the cell is
talked to. A stale answer is better than none: while discovery is away, or has just started and has not
heard from everyone yet, what was known stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from urllib.parse import quote, urlsplit

from cellmesh.discovery.listing import Listing
from cellmesh.discovery.reading import ASK_TIMEOUT, DiscoveryUnavailable, read_answer, read_peers
from cellmesh.protocol.fields import is_cell_id
from cellmesh.protocol.peers import EXPIRY, Peer, PeersAnswer
from cellmesh.transport.http1 import Lost, NotSent, Pool

log = logging.getLogger(__name__)

#: A cell nobody has talked to for this long is forgotten, seconds.
FORGET_AFTER = 300.0
WAIT_SECONDS = 30
MAX_BACKOFF = 5.0
#: Least time between two questions about one cell asked out of turn.
REFRESH_INTERVAL = 0.1
#: How long an instance that did not answer is passed over where there are others.
DOUBT_SECONDS = 1.0
#: A name that discovery does not know is followed only this long after its last use.
FORGET_UNKNOWN = 5.0
#: How long it is known when an instance was there last, seconds.
REMEMBER_LEFT = 3600.0


class Entry:
    """What is known of one cell."""

    def __init__(self, cell: str) -> None:
        self.cell = cell
        self.peers: list[Peer] = []
        self.known = False
        #: When it was last known and then was not any more.
        self._gone_at = -math.inf
        self.answered = False
        self.settled = True
        self.available: list[str] = []
        #: How many instances the cell should have; None where nobody says.
        self.replicas: int | None = None
        self.version: str | None = None
        self.confirmed_at = 0.0
        #: Whether it was used since the follower last looked; a flag, as it is set for every message.
        self.used = True
        self.asked_at = 0.0
        self.problem = ""
        self.task: asyncio.Task[None] | None = None
        self._waiters: set[asyncio.Future[None]] = set()
        self._doubts: dict[tuple[str, int, str | None], float] = {}
        #: Instances that were there and are not, and since when.
        self._left: dict[str, float] = {}

    @classmethod
    def of(cls, cell: str, peers: list[Peer]) -> Entry:
        """Return what was just learned of a cell that is not followed."""
        entry = cls(cell)
        entry.peers = peers
        entry.known = entry.answered = True
        return entry

    @property
    def expected(self) -> bool:
        """Whether the cell is known, or was a moment ago: one that restarts takes its registration back."""
        return self.known or asyncio.get_running_loop().time() - self._gone_at < EXPIRY

    def set_known(self, *, known: bool) -> None:
        """Note whether discovery knows the cell."""
        if self.known and not known:
            self._gone_at = asyncio.get_running_loop().time()
        self.known = known

    def set_peers(self, peers: list[Peer]) -> None:
        """Note which instances are ready."""
        now = asyncio.get_running_loop().time()
        there = {peer.key for peer in peers}
        left = {key: at for key, at in self._left.items() if key not in there and now - at < REMEMBER_LEFT}
        self._left = {peer.key: now for peer in self.peers if peer.key not in there} | left
        self.peers = peers

    def expects(self, instance: str, within: float = EXPIRY) -> bool:
        """Tell whether an instance is ready or coming back.

        It is coming back if it is one of those the cell should have, or left less than ``within`` seconds ago.
        """
        if any(peer.key == instance for peer in self.peers):
            return True
        number = ordinal(self.cell, instance)
        if number is not None and self.replicas is not None and number < self.replicas:
            return True
        return asyncio.get_running_loop().time() - self._left.get(instance, -math.inf) < within

    def left_lately(self) -> set[str]:
        """Return the instances that are not there and were a moment ago."""
        now = asyncio.get_running_loop().time()
        return {instance for instance, at in self._left.items() if now - at < EXPIRY}

    def doubt(self, peer: Peer) -> None:
        """Note that an instance does not answer where it is said to be."""
        self._doubts[_address(peer)] = asyncio.get_running_loop().time() + DOUBT_SECONDS

    def doubted(self, peer: Peer) -> bool:
        """Tell whether an instance did not answer a moment ago."""
        return self._doubts.get(_address(peer), 0.0) > asyncio.get_running_loop().time()

    def trusted(self, peers: list[Peer]) -> list[Peer]:
        """Return the instances that are not doubted; all of them if that leaves none."""
        if not self._doubts:
            return peers
        return [peer for peer in peers if not self.doubted(peer)] or peers

    def clear_doubts(self) -> None:
        """Give every instance another chance."""
        self._doubts.clear()

    async def changed(self, timeout: float) -> None:
        """Wait until something may have changed, at most ``timeout`` seconds."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            async with asyncio.timeout(timeout):
                await waiter
        except TimeoutError:
            pass
        finally:
            self._waiters.discard(waiter)

    def notify(self) -> None:
        """Wake those who wait."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)


class Directory:
    """The peers of the cells this cell talks to.

    Args:
        url: base URL of the mesh in discovery; empty: there is none and every cell is unknown.

    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._entries: dict[str, Entry] = {}
        self._pool: Pool | None = None
        self._base = ""
        self._listing: Listing | None = None
        if url:
            parts = urlsplit(url)
            self._pool = Pool(parts.hostname or "", parts.port or 80)
            self._base = parts.path.rstrip("/")
            self._listing = Listing(self._pool, self._base)

    def entry(self, cell: str) -> Entry:
        """Return the entry of a cell; the first time, discovery is asked in the background."""
        entry = self._entries.get(cell)
        if entry is None:
            entry = self._entries[cell] = Entry(cell)
            if self._pool is not None and is_cell_id(cell):
                entry.task = asyncio.get_running_loop().create_task(self._follow(entry))
            else:
                entry.answered = True
                self._entries.pop(cell)
        entry.used = True
        return entry

    def followed(self, cell: str) -> Entry | None:
        """Return the entry of a cell that is talked to, if it is."""
        entry = self._entries.get(cell)
        return entry if entry is not None and entry.answered else None

    async def refresh(self, entry: Entry) -> None:
        """Ask about a cell now, out of turn: what is known seems wrong.

        Callers that come at once share one question; failures are left to the follower.
        """
        now = asyncio.get_running_loop().time()
        if now - entry.asked_at < REFRESH_INTERVAL:
            return
        entry.asked_at = now
        with contextlib.suppress(NotSent, Lost, DiscoveryUnavailable):
            await self._ask(entry, wait=False)

    def known(self) -> list[tuple[Entry, Peer]]:
        """Return every peer known, with the entry that says how old the knowledge is."""
        return [(entry, peer) for entry in self._entries.values() for peer in entry.peers]

    async def everyone(self, timeout: float) -> list[Peer]:
        """Return every peer of the mesh, this cell's own among them, as discovery says it now.

        While discovery is away it is what was known last; while it has just started, what was known last and what
        it names, or, where nothing was known, what it names once it has heard from everyone or ``timeout`` is over.

        Args:
            timeout: seconds at most.

        Raises:
            DiscoveryUnavailable: there is none, or it does not answer and has told nothing before.

        """
        if self._listing is None:
            raise DiscoveryUnavailable("this cell has no discovery; set CELLMESH_DISCOVERY_URL")
        return await self._listing.everyone(timeout)

    async def close(self) -> None:
        """End all questions."""
        tasks = [entry.task for entry in self._entries.values() if entry.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._pool is not None:
            self._pool.close()

    async def _follow(self, entry: Entry) -> None:
        """Keep one entry current until nobody uses it any more."""
        loop = asyncio.get_running_loop()
        backoff = 0.2
        used_at = loop.time()
        while loop.time() - used_at < (FORGET_AFTER if entry.expected else FORGET_UNKNOWN):
            if entry.used:
                used_at, entry.used = loop.time(), False
            started = loop.time()
            version = entry.version
            try:
                await self._ask(entry, wait=True)
                backoff = 0.2
                # A server without blocking queries answers at once, and so does one whose version cannot be
                # compared: it is asked once a second, not in a circle.
                if (
                    (version is None or entry.version == version) and loop.time() - started < 1.0 and version
                ) or entry.version is None:
                    await asyncio.sleep(1.0)
            except (NotSent, Lost, DiscoveryUnavailable) as error:
                if not entry.problem:
                    log.warning("discovery at %s: %s; going on with what is known", self.url, error)
                entry.problem = str(error)
                entry.notify()
                await asyncio.sleep(backoff)
                backoff = min(backoff * 2, MAX_BACKOFF)
        self._entries.pop(entry.cell, None)

    async def _ask(self, entry: Entry, *, wait: bool) -> None:
        assert self._pool is not None  # noqa: S101 - entries are followed only where there is a discovery
        query = f"{self._base}/peers?cell_id={quote(entry.cell)}"
        timeout = ASK_TIMEOUT
        if wait and entry.version is not None:
            seconds = WAIT_SECONDS if entry.known else int(FORGET_UNKNOWN)
            query += f"&version={quote(entry.version)}&wait={seconds}s"
            timeout += seconds
        answer = await self._pool.request(
            self._pool.prepare("GET", query), connect_timeout=ASK_TIMEOUT, timeout=timeout
        )
        self._take(entry, read_answer(answer))

    def _take(self, entry: Entry, answer: PeersAnswer) -> None:
        peers = [peer for peer in read_peers(answer) if peer.cell_id == entry.cell]
        if entry.problem:
            log.info("discovery at %s answers again", self.url)
        entry.problem = ""
        entry.version = answer.version
        entry.settled = answer.settled is not False
        entry.available = answer.available_cells or []
        entry.confirmed_at = asyncio.get_running_loop().time()
        entry.answered = True
        if entry.settled or answer.replicas is not None:
            entry.replicas = answer.replicas
        if entry.settled or peers:
            # A discovery that has just started may not have heard from everyone: what it does not name yet
            # is kept, what it names is news.
            named = {peer.key for peer in peers}
            kept = [] if entry.settled else [peer for peer in entry.peers if peer.key not in named]
            entry.set_peers(peers + kept)
            entry.set_known(known=bool(entry.peers) or answer.known is True)
        elif not entry.peers:
            entry.set_known(known=answer.known is True)
        entry.notify()


def ordinal(cell: str, instance: str) -> int | None:
    """Return the number of an instance among those of its cell; None if its name has none."""
    name, _, number = instance.rpartition("-")
    return int(number) if name == cell and number.isascii() and number.isdigit() else None


def _address(peer: Peer) -> tuple[str, int, str | None]:
    return peer.host, peer.port, peer.uid
