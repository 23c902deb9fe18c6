"""Events about Cells, as ``kubectl describe cell`` shows them: each once in a while, never too many.

They are a help for people, so that nothing waits for them and nothing fails with them.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cellmesh_operator.decisions.actions import Notice
from cellmesh_operator.errors import ApiError, ConnectionLost
from cellmesh_operator.kube.client import Client, Object
from cellmesh_operator.naming import API_VERSION, EVENTS, FIELD_MANAGER, KIND
from cellmesh_operator.reconciler.metrics import Metrics

#: Seconds within which the same is not said again.
WINDOW: Final = 600.0
#: The same after it was not taken: the right to create Events may come a moment later.
REFUSED_WINDOW: Final = 1.0
#: Notices remembered, so as not to repeat them.
REMEMBERED: Final = 4096
#: Notices that may wait to be sent; the rest is left out.
WAITING: Final = 1000
#: Events a second in the long run.
RATE: Final = 10.0
#: Characters of a message that the API server takes.
MESSAGE_LENGTH: Final = 1024

_log = logging.getLogger("cellmesh_operator.reconciler.looking")


@dataclass(slots=True)
class _Said:
    at: float
    count: int
    first: str


class Notices:
    """Sends notices as Events.

    Args:
        client: sends.
        metrics: counts.
        clock: monotonic seconds.
        sleep: waits.

    """

    def __init__(
        self,
        client: Client,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._client = client
        self._metrics = metrics
        self._clock = clock
        self._sleep = sleep
        self._said: OrderedDict[str, _Said] = OrderedDict()
        self._waiting: asyncio.Queue[Object] = asyncio.Queue(WAITING)

    def tell(self, cell: Object, notice: Notice) -> None:
        """Let a notice about a Cell be sent, unless it was just said or too many wait."""
        now, stamp = self._clock(), _now()
        metadata = cell["metadata"]
        words = f"{metadata['uid']}/{notice.type}/{notice.reason}/{notice.message}"
        name = f"{metadata['name']}.{hashlib.sha256(words.encode()).hexdigest()[:16]}"
        said = self._said.get(name)
        if said is not None and now - said.at < WINDOW:
            self._metrics.noticed("repeated")
            return
        if self._waiting.full():
            self._metrics.noticed("dropped")
            return
        said = self._said[name] = _Said(now, said.count + 1 if said else 1, said.first if said else stamp)
        self._said.move_to_end(name)
        while len(self._said) > REMEMBERED:
            self._said.popitem(last=False)
        self._waiting.put_nowait(_event(cell, notice, name, said, stamp))

    async def run(self) -> None:
        """Send what waits, until cancelled."""
        while True:
            event = await self._waiting.get()
            try:
                await self._send(event)
                self._metrics.noticed("sent")
            except (ApiError, ConnectionLost) as error:
                self._metrics.noticed("dropped")
                self._unsaid(event["metadata"]["name"])
                _log.debug("an Event was not taken: %s", error)
            await self._sleep(1 / RATE)

    def _unsaid(self, name: str) -> None:
        """Note that an Event was not taken, so that its occasion brings it again."""
        said = self._said.get(name)
        if said is not None:
            said.at = self._clock() - WINDOW + REFUSED_WINDOW
            said.count -= 1

    async def _send(self, event: Object) -> None:
        metadata = event["metadata"]
        if event["count"] == 1:
            try:
                await self._client.create(EVENTS, event)
                return
            except ApiError as error:
                if not error.conflict:
                    raise
        # It is there from before, perhaps from before a restart of ours.
        news = {"lastTimestamp": event["lastTimestamp"], "count": event["count"]}
        try:
            await self._client.patch(EVENTS, metadata["namespace"], metadata["name"], news)
        except ApiError as error:
            if not error.not_found:
                raise
            await self._client.create(EVENTS, event)


def _event(cell: Object, notice: Notice, name: str, said: _Said, stamp: str) -> Object:
    metadata = cell["metadata"]
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": metadata["namespace"]},
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
        },
        "type": notice.type,
        "reason": notice.reason,
        "message": notice.message[:MESSAGE_LENGTH],
        "source": {"component": FIELD_MANAGER},
        "reportingComponent": FIELD_MANAGER,
        "firstTimestamp": said.first,
        "lastTimestamp": stamp,
        "count": said.count,
    }


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
