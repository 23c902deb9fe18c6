"""The command line of discovery: ``python -m cellmesh_operator.discovery`` and ``cellmesh-discovery``."""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
from typing import Any

import click

from cellmesh_operator.discovery.settings import PREFIX, Settings, unknown
from cellmesh_operator.environment import LOG_LEVELS, split
from cellmesh_operator.errors import AccessError, ListenError, SettingsError

_log = logging.getLogger("cellmesh_operator.discovery")


@click.command(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=f"Every setting is also an environment variable: {PREFIX}HOST, {PREFIX}PORT and so on; options win.",
)
@click.option("--host", help="Address to listen on. [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on; 0: any free one. [default: 8001]")
@click.option("--default-mesh", help="Mesh of requests without /meshes/<namespace>. [default: default]")
@click.option("--max-registrations", type=click.IntRange(1), help="Registrations at most. [default: 200]")
@click.option(
    "--kubernetes/--no-kubernetes",
    default=None,
    help="Tell the pods of Cells too, and share registrations with other replicas. [default: no]",
)
@click.option("--namespaces", help="With --kubernetes: namespaces, separated by commas. [default: all]")
@click.option("--namespace", help="With --kubernetes: discovery's own namespace, where its Leases are.")
@click.option("--log-level", type=click.Choice(LOG_LEVELS), help="How much to log. [default: info]")
@click.option("--exit-with-parent", is_flag=True, help="End when standard input reaches its end.")
def main(*, exit_with_parent: bool, **options: Any) -> None:
    """Tell cells where other cells are: they register, beat and ask here.

    Exit code 0 after SIGTERM or SIGINT, 1 if the address cannot be had or no API server is known, 2 if a
    setting is wrong.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if "namespaces" in given:
        given["namespaces"] = split(given["namespaces"])
    try:
        settings = dataclasses.replace(Settings.from_environ(os.environ), **given)
    except SettingsError as error:
        _end(2, error)
    logging.basicConfig(
        level=settings.log_level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    # What it has to say comes as errors too, and is said once, by us.
    logging.getLogger("kubernetes").setLevel(logging.ERROR)
    for name in unknown(os.environ):
        _log.warning("%s is no setting of discovery; is it misspelt?", name)
    # Here, so that --help and wrong settings answer before a web framework is loaded.
    from cellmesh_operator.discovery.server import serve

    try:
        sys.exit(serve(settings, _announce, exit_with_parent=exit_with_parent))
    except (ListenError, AccessError) as error:
        _end(1, error)


def _announce(line: str) -> None:
    click.echo(line)
    sys.stdout.flush()


def _end(code: int, error: Exception) -> Any:
    click.echo(f"discovery: {error}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
