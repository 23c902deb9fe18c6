"""The answers to kubelet and Prometheus: /healthz, /readyz, /metrics."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from cellmesh_operator.listening import listen_error
from cellmesh_operator.reconciler.metrics import CONTENT_TYPE, Metrics
from cellmesh_operator.reconciler.settings import PREFIX

#: Returns what is wrong; empty: nothing.
Check = Callable[[], str]
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(host: str, port: int, metrics: Metrics, *, alive: Check, ready: Check) -> AsyncIterator[int]:
    """Serve until left; yield the port.

    Raises:
        ListenError: the address cannot be had; says what to do.

    """
    app = web.Application()
    app.router.add_get("/healthz", _probe(alive))
    app.router.add_get("/readyz", _probe(ready))
    app.router.add_get("/metrics", _metrics(metrics))
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            raise listen_error(host, port, error, prefix=PREFIX) from None
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def _probe(check: Check) -> _Handler:
    async def answer(_: web.Request) -> web.Response:
        wrong = check()
        return web.Response(text=f"{wrong or 'ok'}\n", status=503 if wrong else 200)

    return answer


def _metrics(metrics: Metrics) -> _Handler:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    return answer
