"""The short form of `make chaos`: faults at every part of a mesh under load, and the books compared."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.mesh,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs the addresses of 127.0.0.0/8, and /proc"),
]

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> tuple[int, str]:
    """Run it; return its exit code and what it printed."""
    command = [sys.executable, "-m", "chaos", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr)
    return done.returncode, done.stdout


def test_no_promise_is_broken() -> None:
    """Twenty faults that count, and thousands of messages; another plan each time, but not where a change is judged."""
    seed = 1 if os.environ.get("CI") else time.time_ns() % 1_000_000
    code, said = run("--short", "--seed", str(seed))
    assert code == 0, said
    assert "No promise was broken." in said


@pytest.mark.parametrize("arguments", [("--seed", "x"), ("--kind", "earthquake"), ("--fault", "1"), ("more",)])
def test_a_wrong_command_line_is_refused(arguments: tuple[str, ...]) -> None:
    """Before anything is started."""
    assert run(*arguments)[0] == 2


def test_help_says_what_it_does() -> None:
    """And what it needs."""
    code, said = run("--help")
    assert code == 0
    assert "--seed" in said
    assert "root" in said
