"""Fixtures of the reconciler's tests."""

from __future__ import annotations

import pytest

from unit.reconciler.world import World


@pytest.fixture
def anyio_backend() -> str:
    """Run tests that are coroutines on asyncio."""
    return "asyncio"


@pytest.fixture
def world() -> World:
    """Make a reconciler with nothing there."""
    return World()
