"""What kubelet and Prometheus are answered."""

from __future__ import annotations

import socket

import aiohttp
import pytest

from cellmesh_operator.errors import ListenError
from cellmesh_operator.reconciler.health import serving
from cellmesh_operator.reconciler.metrics import Metrics

pytestmark = pytest.mark.anyio


async def test_probes_say_what_is_wrong() -> None:
    """Expect 200 while nothing is, else 503 with the reason."""
    wrong = ""
    async with (
        serving("127.0.0.1", 0, Metrics(), alive=lambda: wrong, ready=lambda: "waiting for the API server") as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
    ):
        async with session.get("/healthz") as answer:
            assert (answer.status, await answer.text()) == (200, "ok\n")
        async with session.get("/readyz") as answer:
            assert (answer.status, await answer.text()) == (503, "waiting for the API server\n")
        wrong = "the watches of pods miss changes again and again"
        async with session.get("/healthz") as answer:
            assert answer.status == 503


async def test_metrics_are_served() -> None:
    """Expect counters, gauges and the Cells by condition."""
    metrics = Metrics()
    metrics.reconciled(0.01, failed=True)
    metrics.repaired("pods", 3)
    metrics.watch([("queue_depth", "Waiting.", lambda: 4.0)], lambda: {("Ready", "True"): 2})
    async with (
        serving("127.0.0.1", 0, metrics, alive=str, ready=str) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
        session.get("/metrics") as answer,
    ):
        text = await answer.text()
    for line in (
        'cellmesh_reconciler_reconciles_total{result="failure"} 1.0',
        'cellmesh_reconciler_repairs_total{kind="pods"} 3.0',
        "cellmesh_reconciler_queue_depth 4.0",
        'cellmesh_reconciler_cells{condition="Ready",status="True"} 2.0',
    ):
        assert line in text


async def test_a_port_that_is_taken_is_named() -> None:
    """Expect what to do about it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ListenError, match=f"port {port} .*--port"):
            async with serving("127.0.0.1", port, Metrics(), alive=str, ready=str):
                pass
