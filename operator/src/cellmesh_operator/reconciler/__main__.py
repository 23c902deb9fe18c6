"""The command line of the reconciler: ``python -m cellmesh_operator.reconciler`` and ``cellmesh-reconciler``."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

import click

from cellmesh_operator.environment import LOG_LEVELS, split
from cellmesh_operator.errors import OperatorError, SettingsError
from cellmesh_operator.reconciler.settings import PREFIX, Settings, unknown

_log = logging.getLogger("cellmesh_operator.reconciler.looking")


@click.command(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=f"Every setting is also an environment variable, {PREFIX}NAMESPACES and so on; options win. "
    "The API server is that of KUBECONFIG, of the pod's service account, or of ~/.kube/config.",
)
@click.option("--namespaces", help="Namespaces to serve, separated by commas. [default: the whole cluster]")
@click.option("--cell-image", help="Image of Cells that name none. [default: that of this version]")
@click.option("--discovery-url", help="Where cells ask for others, http://host:port. Has to be given.")
@click.option("--max-concurrent", type=click.IntRange(1), help="Cells rolled out at a time. [default: 5]")
@click.option("--workers", type=click.IntRange(1), help="Cells worked on at a time. [default: 16]")
@click.option("--host", help="Address of /healthz, /readyz and /metrics. [default: 0.0.0.0]")
@click.option("--port", type=click.IntRange(0, 65535), help="Port of the same; 0: any free one. [default: 8080]")
@click.option("--log-level", type=click.Choice(LOG_LEVELS), help="How much to log. [default: info]")
def main(*, namespaces: str | None, **options: Any) -> None:
    """Keep the children of Cells as the Cells say, and report how they are.

    Exit code 0 after SIGTERM or SIGINT, 1 if it cannot start or go on, 2 if a setting is wrong.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if namespaces is not None:
        given["namespaces"] = split(namespaces)
    try:
        settings = Settings.from_environ(os.environ, **given)
    except SettingsError as error:
        _end(2, error)
    logging.basicConfig(
        level=settings.log_level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    for name in unknown(os.environ):
        _log.warning("%s is no setting of the reconciler; is it misspelt?", name)
    # Here, so that --help and wrong settings answer before kopf and the client are loaded.
    from cellmesh_operator.reconciler.program import run

    try:
        run(settings, _announce)
    except OperatorError as error:
        _end(1, error)


def _announce(line: str) -> None:
    click.echo(line)
    sys.stdout.flush()


def _end(code: int, error: Exception) -> Any:
    click.echo(f"reconciler: {error}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
