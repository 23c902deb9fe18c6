"""Go, for the example in it: the machine's, or the one that tests/kind/prepare.sh has installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from apiserver.binaries import folders
from levels import missing


def build(directory: Path, output: Path) -> None:
    """Build the program in a directory; without Go the test cannot run."""
    environ = os.environ | {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=mod"}
    command = [_go(), "build", "-trimpath", "-o", str(output), "."]
    subprocess.run(command, cwd=directory, env=environ, check=True, timeout=300)


def _go() -> str:
    installed = sorted((folders()[-1].parent / "go").glob("lib/python3*/site-packages/go/bin/go"))
    for found in (shutil.which("go"), "/usr/local/go/bin/go", *map(str, installed)):
        if found and os.access(found, os.X_OK):
            return found
    return missing("there is no Go", "install Go 1.21 or later, or on Debian run tests/kind/prepare.sh")
