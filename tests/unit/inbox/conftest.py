"""Fixtures of the inbox tests."""

import pytest

from cellmesh.inbox import writer


@pytest.fixture(autouse=True)
def _frequent_upkeep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at what is due often: tests wait for it."""
    monkeypatch.setattr(writer, "UPKEEP_INTERVAL", 0.02)
