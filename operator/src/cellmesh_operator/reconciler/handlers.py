"""kopf: watches Cells and what belongs to them, and reports every change as it comes. It decides nothing.

Only ``on.event`` is used: kopf then writes nothing at all into objects (finalizers come with daemons, timers and
deletion handlers, annotations with all the others). What kopf does not tell: what was deleted during a gap
in a watch; ``relisting.py`` finds that by complete lists, and is told here when kopf has listed anew.

kopf runs in a thread and event loop of its own (``Watcher``), as it cancels every task of its loop when it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, cast

import aiohttp
import kopf
from kubernetes.aio.client import Configuration

from cellmesh_operator.errors import AccessError
from cellmesh_operator.kube import access
from cellmesh_operator.kube.client import PAGE, WATCH_SECONDS
from cellmesh_operator.kube.transport import CLOSING, CONNECT_TIMEOUT, SILENCE
from cellmesh_operator.naming import CELL_LABEL, CELLS, FIELD_MANAGER, Resource
from cellmesh_operator.reconciler.store import KINDS
from cellmesh_operator.reconciler.streams import Streams

#: Kind, type of the event (None: from kopf's list) and object.
Sink = Callable[[Resource, str | None, dict[str, Any]], None]

#: Seconds between attempts of one request; the last is repeated for as long as it takes.
BACKOFFS: Final = (0.5, 1.0, 2.0, *(3.0,) * 10_000)
#: Seconds that kopf may take to end by itself.
ENDING: Final = 2.0
#: Status codes that kopf deals with: success, a new login, a new list, a pause.
_FOR_KOPF: Final = {200, 401, 410, 429}
#: Seconds between two logins, if the API server accepts none.
LOGIN_INTERVAL: Final = 5.0

_log = logging.getLogger("cellmesh_operator.reconciler.looking")


class Watcher:
    """kopf in its thread; may be started again after it has ended.

    Args:
        namespaces: to watch; empty: all.
        sink: called for each change, in kopf's thread.
        streams: told of kopf's requests, in kopf's thread.

    """

    def __init__(self, namespaces: Sequence[str], sink: Sink, streams: Streams) -> None:
        self._namespaces = tuple(namespaces)
        self._sink = sink
        self._streams = streams
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._lock = threading.Lock()

    async def run(self) -> None:
        """Watch until cancelled, or until kopf fails; its end is awaited in either case.

        Raises:
            Exception: whatever ended kopf; it may be started again.

        """
        caller = asyncio.get_running_loop()
        ended: asyncio.Future[None] = caller.create_future()

        def tell(error: BaseException | None) -> None:
            if not ended.done():
                ended.set_result(None) if error is None else ended.set_exception(error)

        def body() -> None:
            error: BaseException | None = None
            try:
                with asyncio.Runner() as runner:
                    runner.run(self._operate())
            except BaseException as caught:
                error = caught if isinstance(caught, Exception) else RuntimeError(f"kopf ended: {caught!r}")
            with contextlib.suppress(RuntimeError):  # the caller's loop is closed: nobody waits any more
                caller.call_soon_threadsafe(tell, error)

        thread = threading.Thread(target=body, name="kopf", daemon=True)
        thread.start()
        try:
            await asyncio.shield(ended)
        finally:
            self._raise_stop()
            await asyncio.wait([ended], timeout=5.0)
            if ended.done():
                ended.exception()  # seen, also where the caller was cancelled and is not told

    def _raise_stop(self) -> None:
        with self._lock:
            if self._loop is not None and self._stop is not None:
                self._loop.call_soon_threadsafe(self._stop.set)

    async def _operate(self) -> None:
        session, ending = _Session(self._streams), asyncio.Event()
        with self._lock:
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        operator = kopf.operator(
            registry=build_registry(self._sink, session.log_in, ending),
            settings=build_settings(),
            clusterwide=not self._namespaces,
            namespaces=self._namespaces,
            stop_flag=self._stop,
        )
        # Both before kopf begins, which takes every later task of this loop for its own.
        tasks = [asyncio.create_task(operator), asyncio.create_task(_wait(ending))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            await _end(tasks[0])
            tasks[0].result()
        finally:
            with self._lock:
                self._loop = self._stop = None
            await session.close()
            await asyncio.sleep(CLOSING)


async def _wait(event: asyncio.Event) -> None:
    await event.wait()


async def _end(operator: asyncio.Task[None]) -> None:
    """Wait until kopf has ended, and see to it that it does.

    When a watch of kopf 1.45 fails, the others may be left waiting for a login that nobody does any more, and may
    mistake being cancelled for being paused. Cancelled again they end, unless what pauses them is cancelled too.
    """
    await asyncio.wait([operator], timeout=ENDING)
    while not operator.done():
        for task in asyncio.all_tasks():
            if task not in {operator, asyncio.current_task()} and not task.get_name().startswith("pause-waiter"):
                task.cancel()
        await asyncio.wait([operator], timeout=0.2)


def build_registry(
    sink: Sink, log_in: Callable[..., Awaitable[kopf.AiohttpSession]], ending: asyncio.Event
) -> kopf.OperatorRegistry:
    """Return the handlers: one per kind, each of which passes everything on; ``ending`` is set when kopf ends."""
    registry = kopf.OperatorRegistry()

    @kopf.on.cleanup(registry=registry)
    async def end(**_: Any) -> None:
        ending.set()

    kopf.on.login(registry=registry, id="log_in")(cast("Any", log_in))
    for kind in KINDS:
        _register(registry, kind, sink)
    return registry


def _register(registry: kopf.OperatorRegistry, kind: Resource, sink: Sink) -> None:
    @kopf.on.event(group=kind.group, version=kind.version, plural=kind.plural, registry=registry, id=kind.plural)
    async def changed(event: Mapping[str, Any], **_: Any) -> None:
        sink(kind, event["type"], event["object"])


def build_settings() -> kopf.OperatorSettings:
    """Return kopf's settings: nothing is written, all waits are bounded, watches notice a dead connection."""
    settings = kopf.OperatorSettings()
    settings.peering.standalone = True
    settings.posting.enabled = False
    settings.scanning.disabled = True  # neither needs the rights to list CRDs and namespaces
    settings.networking.request_timeout = 30.0
    settings.networking.connect_timeout = CONNECT_TIMEOUT
    settings.networking.error_backoffs = BACKOFFS
    settings.watching.connect_timeout = CONNECT_TIMEOUT
    settings.watching.server_timeout = WATCH_SECONDS
    settings.watching.inactivity_timeout = SILENCE
    settings.watching.reconnect_backoff = 0.1
    settings.watching.chunk_size = PAGE
    settings.queueing.idle_timeout = 1.0
    settings.queueing.exit_timeout = 1.0
    for kind in KINDS:
        if kind != CELLS:
            settings.watching.label_selectors[kind.group, kind.version, kind.plural] = CELL_LABEL
    settings.persistence.finalizer = f"{CELL_LABEL}-unused"
    settings.persistence.progress_storage = _NoProgress()
    settings.persistence.diffbase_storage = _NoDiffBase()
    return settings


class _Refused(aiohttp.ClientConnectionError):
    """An answer that shall be taken for a lost connection."""


class _NoDiffBase(kopf.DiffBaseStorage):
    """Compares nothing: no handler of ours asks what changed, and copying every object would cost most of the time."""

    def build(self, **_: Any) -> Any:
        return {}

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        return None


class _NoProgress(kopf.ProgressStorage):
    """Keeps nothing: ``on.event`` has no progress."""

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        return None

    def purge(self, **_: Any) -> None:
        return None

    def touch(self, **_: Any) -> None:
        return None

    def clear(self, *, essence: Any) -> Any:
        return essence


class _Session:
    """The HTTP session that kopf uses: logs in for every request anew, and tells ``Streams`` of each."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._configuration: Configuration | None = None
        self._sessions: list[aiohttp.ClientSession] = []
        self._last = -LOGIN_INTERVAL

    async def log_in(self, **_: Any) -> kopf.AiohttpSession:
        """Return a session; called by kopf at the start and after each 401."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(self._last + LOGIN_INTERVAL - loop.time(), 0.0))
        self._last = loop.time()
        try:
            configuration = self._configuration = await access.load()
        except AccessError as error:
            raise kopf.TemporaryError(str(error), delay=LOGIN_INTERVAL) from None
        self._streams.at(configuration.host)
        trace = aiohttp.TraceConfig()
        trace.on_request_end.append(self._answered)
        trace.on_request_exception.append(self._failed)
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=access.ssl_context(configuration)),
            headers={"User-Agent": FIELD_MANAGER, "Accept": "application/json", "Accept-Encoding": "identity"},
            middlewares=(self._authorise,),
            trace_configs=[trace],
            trust_env=True,
            proxy=configuration.proxy,
        )
        self._sessions.append(session)
        return kopf.AiohttpSession(server=configuration.host, aiohttp_session=session)

    async def close(self) -> None:
        """Close what kopf has not."""
        for session in self._sessions:
            await session.close()

    async def _authorise(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        # For each request, since the pod's token is replaced while watches go on.
        if self._configuration is not None:
            request.headers.update(await access.authorization(self._configuration))
        response = await handler(request)
        if response.status not in _FOR_KOPF:
            # Of these kopf would end: rights that are not granted yet, a definition that is gone for a while. As a
            # lost connection they are tried again until they work.
            self._streams.answered(response.url, response.status)
            response.release()
            raise _Refused(f"{response.status}")
        return response

    async def _answered(self, _session: Any, _context: Any, params: aiohttp.TraceRequestEndParams) -> None:
        self._streams.answered(params.url, params.response.status)

    async def _failed(self, _session: Any, _context: Any, params: aiohttp.TraceRequestExceptionParams) -> None:
        if not isinstance(params.exception, _Refused):
            self._streams.failed(params.url, params.exception)
