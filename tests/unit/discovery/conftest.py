"""A replica of discovery inside the test, with a clock that the test moves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
import pytest

from cellmesh_operator.discovery.app import DiscoveryApp, create_app
from cellmesh_operator.discovery.cluster import Connect, connect
from cellmesh_operator.discovery.service import TICK
from cellmesh_operator.discovery.settings import Settings


class World:
    """The application under test and its clock, monotonic and wall in one."""

    def __init__(self, *, connect: Connect = connect, **settings: Any) -> None:
        self.now = 1000.0
        self.app: DiscoveryApp = create_app(
            Settings(**settings), clock=lambda: self.now, wall=self.wall, connect=connect
        )
        self.discovery = self.app.discovery

    def wall(self, ago: float) -> str:
        """Return the time as ``last_seen`` shows it."""
        return f"2026-01-31T12:00:00.{int(self.now - ago):06d}Z"

    def pass_time(self, seconds: float) -> None:
        """Let time pass, with the service looking at the clock as often as it does in reality."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(self.now + TICK, end)
            self.discovery.tick()


@pytest.fixture
def anyio_backend() -> str:
    """Asyncio only: the service is written for it."""
    return "asyncio"


@pytest.fixture
def make_world() -> Callable[..., World]:
    """Return the constructor of worlds, for tests that need other settings."""
    return World


@pytest.fixture
def world() -> World:
    """Return a replica with default settings, just started."""
    return World()


@pytest.fixture
async def client(world: World, anyio_backend: str) -> AsyncIterator[httpx2.AsyncClient]:
    """Return an HTTP client of ``world``."""
    transport = httpx2.ASGITransport(app=world.app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://discovery") as http:
        yield http
