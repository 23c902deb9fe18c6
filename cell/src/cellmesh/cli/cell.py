"""``cellmesh cell``: one instance of a cell as a process."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import itertools
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cellmesh import settings as settings_module
from cellmesh.cli.group import Misconfigured
from cellmesh.errors import AppError, InboxError, SettingsError
from cellmesh.settings import PREFIX, Settings, unknown

if TYPE_CHECKING:
    from cellmesh.app import Cell

log = logging.getLogger(__name__)


class _CellCommand(click.Command):
    """Lists every setting in its help; the text is that of ``settings.py``."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the settings below the options."""
        with formatter.section("Settings, read from the environment"):
            formatter.write_dl(described_settings())
        super().format_epilog(ctx, formatter)


@click.command(cls=_CellCommand)
@click.option("--app", metavar="MODULE:OBJECT", help="The cell's own code: a cellmesh.Cell in a module.")
@click.option("--exit-with-parent", is_flag=True, help="Stop when standard input ends, as it does when `up` dies.")
@click.pass_context
def cell(ctx: click.Context, /, *, app: str | None, exit_with_parent: bool) -> None:
    """Run one instance of a cell until SIGTERM or SIGINT; then drain and exit.

    Exit codes: 0 stopped in order, 1 cut short, the port is taken or the app's start failed, 2 a setting is
    wrong, the app cannot be loaded or the inbox cannot be used, which starting again does not change.
    """
    try:
        environ = dict(os.environ)
        if app is not None:
            environ[PREFIX + "APP"] = app
        loaded, settings = _configured(environ)
        for name in unknown(os.environ):
            log.warning("%s is no setting of a cell%s", name, _did_you_mean(name))
        # Here, so that --help and wrong settings answer before a web framework is loaded.
        from cellmesh.api.server import run

        code = run(settings, exit_with_parent=exit_with_parent, app=loaded)
    except (SettingsError, AppError, InboxError) as error:
        raise Misconfigured(str(error)) from error
    ctx.exit(code)


def _configured(environ: Mapping[str, str]) -> tuple[Cell | None, Settings]:
    """Return the app, if one is set, and the settings: where the environment says nothing, what the app says."""
    spec = environ.get(PREFIX + "APP")
    if not spec:
        return None, Settings.from_environ(environ)
    from cellmesh.app.loading import load

    if environ.get(PREFIX + "LOG_LEVEL", "").lower() == "debug":
        logging.basicConfig(level="DEBUG")
    app = load(spec, Path(environ.get(PREFIX + "APP_DIR") or "."))
    said = {"CELL_ID": app.name, "TYPE": app.type, "BRANCH": app.branch, "SERVICES": ",".join(app.services)}
    defaults = {PREFIX + name: value for name, value in said.items() if value}
    return app, Settings.from_environ(defaults | {name: value for name, value in environ.items() if value})


def described_settings() -> list[tuple[str, str]]:
    """Return each setting's variable, and its description with the default."""
    docstrings = _docstrings()
    described = []
    for field in dataclasses.fields(Settings):
        text = docstrings.get(field.name, "").replace("``", "")
        if field.default is not dataclasses.MISSING and field.default not in ("", ()):
            text = f"{text} [default: {_written(field.default)}]"
        described.append((PREFIX + field.name.upper(), " ".join(text.split())))
    return described


def _docstrings() -> dict[str, str]:
    """Return the text under each field, which Python itself does not keep."""
    module = ast.parse(inspect.getsource(settings_module))
    (body,) = (node.body for node in module.body if isinstance(node, ast.ClassDef) and node.name == "Settings")
    found = {}
    for field, below in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
            found[field.target.id] = str(ast.literal_eval(below.value))
    return found


def _written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _did_you_mean(name: str) -> str:
    known = [PREFIX + field.name.upper() for field in dataclasses.fields(Settings)]
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else "; see cellmesh cell --help"
