"""The commands run in this process, against a mesh of the test's making."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from cellmesh.cli import main
from fake_mesh import FakeMesh, Result, Run


@pytest.fixture
def mesh(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeMesh]:
    """Run an empty mesh that every command finds by default."""
    running = FakeMesh()
    monkeypatch.setenv("CELLMESH_DISCOVERY_URL", running.discovery.url)
    yield running
    running.close()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs a command in this process and returns code and output."""
    for name in os.environ:
        if name.startswith("CELLMESH_") and name != "CELLMESH_DISCOVERY_URL":
            monkeypatch.delenv(name)

    def command(*arguments: str) -> Result:
        capsys.readouterr()
        return Result(main(arguments), capsys.readouterr())

    return command
