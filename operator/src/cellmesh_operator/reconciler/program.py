"""The reconciler as a program: its parts, put together, from the start to SIGTERM."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final

from prometheus_client import disable_created_metrics

from cellmesh_operator.errors import ApiError, ConnectionLost, OperatorError
from cellmesh_operator.kube.client import Client
from cellmesh_operator.naming import CELLS, GROUP, PLURAL, PODS, STATEFUL_SETS, Resource
from cellmesh_operator.reconciler.handlers import Watcher
from cellmesh_operator.reconciler.health import serving
from cellmesh_operator.reconciler.looking import Reconciler
from cellmesh_operator.reconciler.metrics import Metrics
from cellmesh_operator.reconciler.noticing import Notices
from cellmesh_operator.reconciler.observing import Observer
from cellmesh_operator.reconciler.relisting import Relisting
from cellmesh_operator.reconciler.rollout import Rollout
from cellmesh_operator.reconciler.settings import Settings
from cellmesh_operator.reconciler.store import KINDS, Key, Store, version_of
from cellmesh_operator.reconciler.streams import Stream, Streams
from cellmesh_operator.reconciler.working import Workers

#: Seconds between attempts to begin: without the definition of Cells, or without an API server.
RETRY: Final = (1.0, 2.0, 3.0, 5.0)
#: Seconds that watching must have gone on for its end to count as the first one again.
STEADY: Final = 60.0
#: Seconds after which something must have been heard of each watch.
UNHEARD: Final = 15.0
#: Seconds by which a look at a Cell waits for more news of its children: they come in bursts.
SETTLE: Final = 0.2

_log = logging.getLogger("cellmesh_operator.reconciler.looking")
_DEFINITION: Final = f"the definition of Cells, {PLURAL}.{GROUP}: install the chart cellmesh-crds"
_drop_created: Callable[[], None] = disable_created_metrics


def run(settings: Settings, announce: Callable[[str], None]) -> None:
    """Run until SIGTERM or SIGINT.

    Args:
        settings: the settings.
        announce: called once with one line when the health checks are served.

    Raises:
        OperatorError: it cannot start, or not go on; in one line.

    """
    _keep_kopf_short()
    _drop_created()  # each counter twice would be a third of /metrics
    with asyncio.Runner() as runner:
        runner.run(_main(settings, announce))


async def _main(settings: Settings, announce: Callable[[str], None]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    metrics = Metrics()
    async with Client.connect() as client:
        program = Program(settings, client, metrics)
        checks = {"alive": program.wrong, "ready": program.not_ready}
        async with serving(settings.host, settings.port, metrics, **checks) as port:
            announce(f"reconciler serves /healthz, /readyz and /metrics on port {port}")
            await program.run(stop)


class Program:
    """The parts of the reconciler.

    Args:
        settings: the settings.
        client: the API server.
        metrics: counts.

    """

    def __init__(self, settings: Settings, client: Client, metrics: Metrics) -> None:
        self._settings = settings
        self._client = client
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._store = Store()
        self._rollout = Rollout(settings.max_concurrent)
        self._notices = Notices(client, metrics)
        self._observer = Observer(client, self._store, time.monotonic)
        self._reconciler = Reconciler(
            client,
            self._store,
            self._observer,
            self._rollout,
            self._notices,
            metrics,
            settings.build,
            wake=self._wake,
        )
        self._workers = Workers(
            self._reconciler.reconcile, metrics, count=settings.workers, max_backoff=settings.max_backoff
        )
        self._last = dict.fromkeys(KINDS, 0)
        self._relisting = Relisting(
            client,
            self._store,
            metrics,
            scopes=settings.scopes,
            interval=settings.resync,
            progress=lambda kind: self._last[kind],
            repaired=self._workers.add,
        )
        self._streams = Streams(settings.scopes, self._listed)
        self._watcher = Watcher(settings.namespaces, self._hand_over, self._streams)
        self._handed: deque[tuple[Resource, str | None, dict[str, Any]]] = deque()
        self._woken = False
        self._waiting_for = "the cluster to be read"
        self._begun = False
        metrics.watch(
            [
                ("queue_depth", "Cells that are due and wait for a worker.", lambda: self._workers.depth),
                ("failing_cells", "Cells whose last attempt failed.", lambda: self._workers.failing),
                ("rollout_cells", "Cells that a change of the operator is being rolled out to.", self._holders),
                ("rollout_waiting_cells", "Cells that wait for such a change.", lambda: self._rollout.waiting),
                ("lost_watches", "Watches that are not connected.", lambda: len(self._streams.faults)),
            ],
            self._reconciler.counts,
        )

    def wrong(self) -> str:
        """Return why this process should be started anew; empty: no reason."""
        broken = self._relisting.broken
        return f"the watches of {', '.join(broken)} miss changes again and again" if broken else ""

    def not_ready(self) -> str:
        """Return what keeps it from its work; empty: nothing."""
        if self._waiting_for:
            return f"waiting for {self._waiting_for}"
        if self._streams.undefined:
            return f"waiting for {_DEFINITION}"
        return self.wrong() if self._streams.all_watched else "waiting for the watches to be connected"

    async def run(self, stop: asyncio.Event) -> None:
        """Work until ``stop``, then end in good order.

        Raises:
            OperatorError: a part has ended by itself.

        """
        parts: list[Coroutine[Any, Any, None]] = [self._keep_watching(), self._notices.run()]
        tasks = [asyncio.create_task(part) for part in parts]
        stopping = asyncio.create_task(_wait(stop))
        try:
            done, _ = await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (*tasks, stopping):
                task.cancel()
            await asyncio.gather(*tasks, stopping, return_exceptions=True)
        if stopping in done:
            _log.info("ended")
            return
        error = next(iter(done)).exception()
        _log.error("a part of the reconciler ended by itself", exc_info=error)
        raise OperatorError(f"cannot go on: {error}")

    async def _keep_watching(self) -> None:
        """Read everything, then watch and work; begin anew if watching ends."""
        ends = 0
        async with asyncio.TaskGroup() as group:
            while True:
                await self._read_all()
                if not self._begun:
                    self._reconciler.prepare()
                    self._begun = True
                    group.create_task(self._workers.run())
                    group.create_task(self._relisting.run())
                began = time.monotonic()
                cause = await self._watch()
                self._metrics.restarted()
                ends = 0 if time.monotonic() - began > STEADY else ends + 1
                _log.warning("watching ended and begins anew: %s", cause)
                await asyncio.sleep(RETRY[min(ends, len(RETRY) - 1)])

    async def _watch(self) -> str:
        """Watch until it ends; return why it did."""
        self._streams.begin()
        watching = asyncio.create_task(self._watcher.run())
        try:
            await asyncio.wait([watching], timeout=UNHEARD)
            if not watching.done() and (silent := self._streams.silent):
                # A definition that was made a moment ago can be listed before it can be discovered, and kopf
                # discovers once.
                return f"nothing is heard of {', '.join(sorted(kind.plural for kind, _ in silent))}"
            await watching
            return "kopf stopped"
        except Exception as error:
            return str(error) or type(error).__name__
        finally:
            watching.cancel()
            await asyncio.wait([watching])

    async def _read_all(self) -> None:
        """Fill the store and let every Cell be looked at; try until it works."""
        said = ""
        for attempt in range(10**9):
            try:
                cells = await self._relisting.fill()
            except ApiError as error:
                self._waiting_for = _missing(error)
            except ConnectionLost as error:
                self._waiting_for = f"the API server: {error}"
            else:
                self._waiting_for = ""
                for key in cells:
                    self._workers.add(key)
                _log.info("%d Cells and %d StatefulSets are there", len(cells), len(self._store.keys(STATEFUL_SETS)))
                return
            if self._waiting_for != said:
                said = self._waiting_for
                _log.warning("waiting for %s", said)
            await asyncio.sleep(RETRY[min(attempt, len(RETRY) - 1)])

    def _wake(self, key: Key) -> None:
        self._workers.add(key)

    def _holders(self) -> int:
        return self._rollout.holders

    def _listed(self, stream: Stream) -> None:
        """Take note, in kopf's thread, that kopf has listed a kind anew."""
        self._loop.call_soon_threadsafe(self._relisting.request, stream[0])

    def _hand_over(self, kind: Resource, event: str | None, item: dict[str, Any]) -> None:
        """Take a change from another thread to ours, whichever that is; one wake-up for many."""
        self._handed.append((kind, event, item))
        # Seen as set, it is before the wake-up that takes what was just appended.
        if not self._woken:
            self._woken = True
            self._loop.call_soon_threadsafe(self._take_over)

    def _take_over(self) -> None:
        self._woken = False
        while self._handed:
            kind, event, item = self._handed.popleft()
            try:
                self._changed(kind, event, item)
            except Exception:
                _log.exception("an object of %s could not be read", kind.plural)

    def _changed(self, kind: Resource, event: str | None, item: dict[str, Any]) -> None:
        metadata = item["metadata"]
        self._metrics.changed(kind.plural)
        self._last[kind] = version_of(item)
        key = (metadata.get("namespace", ""), metadata["name"])
        before = self._store.entry(kind, key)
        if event == "DELETED":
            if kind == PODS:
                self._store.put(kind, item)  # its last state, which may hold its last words
            cell = self._store.drop(kind, key, uid=metadata["uid"], version=version_of(item))
        else:
            cell = self._store.put(kind, item)
        if cell is None:
            return
        if kind != CELLS:
            self._workers.add(cell, delay=SETTLE)
            return
        # A Cell that its author has changed does not wait until its backoff is over: that may have mended it.
        generation = metadata.get("generation", 0)
        same = before is not None and (before.uid, before.generation) == (metadata["uid"], generation)
        self._workers.add(cell, urgent=not same)


def _missing(error: ApiError) -> str:
    if error.not_found:
        return _DEFINITION
    if error.forbidden:
        return f"the right to list what belongs to Cells: {error.message}"
    return f"the API server: {error}"


async def _wait(event: asyncio.Event) -> None:
    await event.wait()


def _keep_kopf_short() -> None:
    """Let kopf log what nobody else does, without stack traces; ``streams.py`` reports its requests."""
    logging.getLogger("kopf").setLevel(logging.WARNING)
    logging.getLogger("kubernetes").setLevel(logging.ERROR)
    for name in ("kopf._cogs.clients", "kopf._core.reactor.running"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    for handler in logging.getLogger().handlers:
        handler.addFilter(_without_trace)


def _without_trace(record: logging.LogRecord) -> bool:
    if record.name.startswith(("kopf", "asyncio")):
        record.exc_info = record.exc_text = None
    return True
