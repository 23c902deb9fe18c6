"""Where in an author's code something went wrong: file and line, instead of a stack trace."""

from __future__ import annotations

import os
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

_OURS = str(Path(__file__).resolve().parent.parent) + os.sep
_LIBRARIES = tuple(
    path + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib") if (path := sysconfig.get_path(name))
)


def place(error: BaseException) -> str:
    """Return ``FILE line N`` of the innermost line of the author's code; of a library if there is none; or nothing."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename} line {error.lineno or 1}"
    lines = list(_lines(error.__traceback__))
    own = [(file, line) for file, line in lines if not file.startswith(_LIBRARIES)]
    for file, line in reversed(own or lines):
        return f"{file} line {line}"
    return ""


def _lines(trace: TracebackType | None) -> Iterator[tuple[str, int]]:
    for frame in traceback.extract_tb(trace):
        if not frame.filename.startswith(("<", _OURS)):
            yield frame.filename, frame.lineno or 0
