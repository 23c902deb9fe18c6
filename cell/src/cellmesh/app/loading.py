"""``module:object`` to a cell, with every way in which that fails said in one line."""

from __future__ import annotations

import importlib
import logging
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from cellmesh.app.cell import Cell
from cellmesh.app.places import place
from cellmesh.errors import AppError

log = logging.getLogger(__name__)


def load(app: str, directory: Path) -> Cell:
    """Import a module and return the cell in it.

    Args:
        app: ``MODULE:OBJECT``, for example ``my_module:cell``.
        directory: where modules are looked for before all other places.

    Raises:
        AppError: it cannot be had; says why, with file and line where the module's own code fails.

    """
    name, colon, path = app.partition(":")
    if not (colon and name and path and all(part.isidentifier() for part in (*name.split("."), *path.split(".")))):
        raise AppError(f"app: {app!r} must be MODULE:OBJECT, for example my_module:cell")
    module = _import(name, directory.resolve())
    found: Any = module
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise AppError(f"app: {_file(module)} has no {path!r}{_instead(module)}") from None
    if not isinstance(found, Cell):
        raise AppError(f"app: {path!r} of {_file(module)} must be a cellmesh.Cell, got {type(found).__name__}")
    return found


def _import(name: str, directory: Path) -> ModuleType:
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise AppError(f"app: there is no module {error.name!r} in {directory} or on PYTHONPATH") from None
        raise _broken(name, error) from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit as well: modules are imported, not run
        raise _broken(name, error) from error


def _broken(name: str, error: BaseException) -> AppError:
    log.debug("importing %s", name, exc_info=error)
    where = place(error)
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    said = f"{type(error).__name__}: {text}".splitlines()[0][:300].rstrip(": ")
    return AppError(f"app: {name} cannot be imported: {said}{f' ({where})' if where else ''}")


def _file(module: ModuleType) -> str:
    return str(getattr(module, "__file__", None) or module.__name__)


def _instead(module: ModuleType) -> str:
    cells = sorted(name for name, value in vars(module).items() if isinstance(value, Cell))
    return f"; its cells: {', '.join(cells)}" if cells else "; it has no cellmesh.Cell"
