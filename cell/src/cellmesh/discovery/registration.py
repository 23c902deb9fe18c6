"""Registers this cell with discovery and keeps the registration alive."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from urllib.parse import quote, urlsplit

from cellmesh.protocol.messages import encode
from cellmesh.protocol.peers import HEARTBEAT_INTERVAL, Heartbeat, PeerRegistration
from cellmesh.transport.http1 import Answer, Lost, NotSent, Pool

log = logging.getLogger(__name__)

_RETRY = 0.5
_TIMEOUT = 5.0
_JSON = (("content-type", "application/json"),)


class Registration:
    """One registration: made, renewed every five seconds, made again when discovery has forgotten it.

    Args:
        url: base URL of the mesh in discovery.
        peer: what is registered.

    """

    def __init__(self, url: str, peer: PeerRegistration) -> None:
        parts = urlsplit(url)
        self._url = url
        self._pool = Pool(parts.hostname or "", parts.port or 80)
        self._base = parts.path.rstrip("/")
        self._peer = peer
        self._task: asyncio.Task[None] | None = None
        self.registered = False

    def start(self) -> None:
        """Begin, in the background; discovery may be away as long as it likes."""
        self._task = asyncio.get_running_loop().create_task(self._keep())

    async def stop(self) -> None:
        """Take the registration back, if discovery answers soon."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._task = None
        if self.registered:
            peer = self._peer
            path = f"/peer/{quote(peer.cell_id)}?instance={quote(peer.instance or '')}&uid={quote(peer.uid or '')}"
            with contextlib.suppress(NotSent, Lost):
                await self._call("DELETE", path, b"", timeout=1.0)
        self._pool.close()

    async def _keep(self) -> None:
        said = ""
        while True:
            try:
                problem = await self._once()
            except (NotSent, Lost) as error:
                problem = str(error)
            if problem and problem != said:
                log.warning("not registered with discovery at %s: %s; trying again", self._url, problem)
            elif said and not problem:
                log.info("registered with discovery at %s", self._url)
            said = problem
            await asyncio.sleep(_RETRY if problem else HEARTBEAT_INTERVAL)

    async def _once(self) -> str:
        """Beat, or register; return what went wrong, or nothing."""
        if self.registered:
            answer = await self._call(
                "POST", "/heartbeat", encode(Heartbeat(cell_id=self._peer.cell_id, instance=self._peer.instance))
            )
            if answer.status == 200:
                return ""
            self.registered = False
            if answer.status != 404:
                return _said(answer)
        answer = await self._call("POST", "/register", encode(self._peer))
        self.registered = answer.status == 200
        return "" if self.registered else _said(answer)

    async def _call(self, method: str, path: str, body: bytes, timeout: float = _TIMEOUT) -> Answer:
        head = self._pool.prepare(method, self._base + path, _JSON)
        return await self._pool.request(head, body, connect_timeout=timeout, timeout=timeout)


def _said(answer: Answer) -> str:
    return f"it answered {answer.status} {answer.body[:200].decode(errors='replace')}"
