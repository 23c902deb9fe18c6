"""Programs of this level, and where they are kept: what `make tools` has built, or what the machine has."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from apiserver.binaries import folders
from levels import missing

ROOT = Path(__file__).parents[2]
#: Seconds that one command may take unless told otherwise.
PATIENCE = 120.0


class Failed(Exception):  # noqa: N818 - what a command did
    """A command has failed; the text is the command and what it said."""

    def __init__(self, command: Sequence[str], said: str) -> None:
        self.said = said
        super().__init__(f"{' '.join(command)[:500]}: {said[-4000:].strip()}")


def program(*names: str) -> str:
    """Return the path of a program, by the first of its names that is found; without any, this level cannot run."""
    for name in names:
        for folder in folders():
            if os.access(folder / name, os.X_OK):
                return str(folder / name)
        if found := shutil.which(name):
            return found
    return missing(f"{names[0]} is neither in {folders()[-1]} nor on PATH", "run `make tools`")


def run(command: Sequence[str], *, stdin: str | None = None, timeout: float = PATIENCE, environ: dict[str, str]) -> str:
    """Run a command and return what it printed.

    Raises:
        Failed: its exit code is not 0, or it took too long.

    """
    try:
        done = subprocess.run(
            command,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env=os.environ | environ,
        )
    except subprocess.TimeoutExpired as late:
        raise Failed(command, f"not done within {timeout:g} s; said so far: {late.stdout!r} {late.stderr!r}") from None
    if done.returncode:
        raise Failed(command, done.stdout + done.stderr)
    return done.stdout
