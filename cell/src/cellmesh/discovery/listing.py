"""Everyone in the mesh, for messages to all of them: asked for when needed, and kept for when discovery is away."""

from __future__ import annotations

import asyncio
import logging
from urllib.parse import quote

from cellmesh.discovery.reading import ASK_TIMEOUT, DiscoveryUnavailable, read_answer, read_peers
from cellmesh.protocol.peers import Peer
from cellmesh.transport.http1 import Lost, NotSent, Pool

log = logging.getLogger(__name__)

#: Longest single wait for discovery to have heard from everyone, and the shortest worth a question, seconds.
MAX_WAIT = 30.0
MIN_WAIT = 0.1


class Listing:
    """The peers of the whole mesh as discovery told them last.

    Args:
        pool: connections to discovery.
        base: path of the mesh there.

    """

    def __init__(self, pool: Pool, base: str) -> None:
        self._pool = pool
        self._base = base
        self._peers: list[Peer] = []
        #: Whether any answer has come, and whether one has that named everyone.
        self._answered = self._complete = False
        self._etag = ""
        self._version: str | None = None
        self._asked = self._taken = 0
        self._problem = ""

    async def everyone(self, timeout: float) -> list[Peer]:
        """Return every peer of the mesh, this cell's own among them.

        A discovery that has just started may not have heard from everyone. What was known before is then kept;
        where nothing was, it is waited for, and at the end of ``timeout`` what there is is returned.

        Args:
            timeout: seconds at most.

        Raises:
            DiscoveryUnavailable: it does not answer, and has told nothing before.

        """
        loop = asyncio.get_running_loop()
        deadline, wait, lost = loop.time() + timeout, 0.0, 0
        while True:
            version = self._version
            try:
                await self._ask(timeout, wait)
            except Lost as error:
                lost += 1
                timeout = deadline - loop.time()
                if lost > 1 or timeout <= 0:
                    return self._without(error)
                continue  # a connection that was closed while it was idle, most likely
            except (NotSent, DiscoveryUnavailable) as error:
                return self._without(error)
            # A server that does not wait is not asked in a circle.
            in_vain = wait > 0 and version == self._version
            timeout = deadline - loop.time()
            if self._complete or self._version is None or in_vain or timeout < 2 * MIN_WAIT:
                return list(self._peers)
            if wait:
                # Replicas of discovery whose versions cannot be compared answer each other's at once.
                await asyncio.sleep(MIN_WAIT)
            wait = min(timeout - MIN_WAIT, MAX_WAIT)

    async def _ask(self, timeout: float, wait: float) -> None:
        """Ask once; with ``wait`` for what is newer than what is known, which may take as many seconds."""
        query = f"{self._base}/peers"
        if wait and self._version is not None:
            query += f"?version={quote(self._version)}&wait={wait:.3f}s"
        headers = (("if-none-match", self._etag),) if self._etag else ()
        self._asked += 1
        asked = self._asked
        limit = min(timeout, ASK_TIMEOUT + wait)
        answer = await self._pool.request(
            self._pool.prepare("GET", query, headers), connect_timeout=limit, timeout=limit
        )
        if self._problem:
            log.info("discovery answers again about the whole mesh")
            self._problem = ""
        if answer.status == 304 and self._etag:
            return
        said = read_answer(answer)
        if asked < self._taken:
            return  # overtaken by the answer to a later question
        self._taken = asked
        self._take(read_peers(said), settled=said.settled is not False)
        self._version = said.version
        self._etag = answer.headers.get(b"etag", b"").decode("latin-1")

    def _take(self, peers: list[Peer], *, settled: bool) -> None:
        named = {(peer.cell_id, peer.key) for peer in peers}
        kept = [] if settled else [peer for peer in self._peers if (peer.cell_id, peer.key) not in named]
        self._peers = peers + kept
        self._answered = True
        self._complete = self._complete or settled

    def _without(self, error: Exception) -> list[Peer]:
        if not self._answered:
            raise DiscoveryUnavailable(str(error)) from None
        if not self._problem:
            log.warning("discovery: %s; going on with what is known of the whole mesh", error)
        self._problem = str(error)
        return list(self._peers)
