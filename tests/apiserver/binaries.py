"""Where the programs of a control plane are: envtest's directory, or what `make tools` has built."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

REMEDY = "run `make tools`, or set KUBEBUILDER_ASSETS to a directory that holds it (envtest's)"


class Missing(Exception):  # noqa: N818 - it says what is, not that something went wrong
    """A program is nowhere; the text names it and the places looked at."""


def folders() -> list[Path]:
    """Return the directories that are searched, in order."""
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    tools = Path(os.environ.get("CELLMESH_CACHE") or Path(cache) / "cellmesh") / "bin"
    return [Path(assets), tools] if assets else [tools]


def find(name: str) -> str:
    """Return the path of a program.

    Raises:
        Missing: it is in none of the directories.

    """
    for folder in folders():
        if os.access(folder / name, os.X_OK):
            return str(folder / name)
    # kubectl speaks to servers one version older or newer, so whatever the machine has will do.
    if name == "kubectl" and (found := shutil.which(name)):
        return found
    raise Missing(f"{name} is not in {' or '.join(map(str, folders()))}")


def absent(names: Sequence[str]) -> str:
    """Return what is missing of some programs, in words; empty: nothing."""
    lacking = []
    for name in names:
        try:
            find(name)
        except Missing as fault:
            lacking.append(str(fault))
    return ", ".join(lacking)
