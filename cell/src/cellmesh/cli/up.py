"""``cellmesh up``: the cells of manifests as processes on this machine, with discovery."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from cellmesh.cli.lookup import DEFAULT_NAMESPACE
from cellmesh.cli.mesh import Place, Plan, make_plan, on_any_ports
from cellmesh.cli.reporting import JsonReporter, Reporter, TableReporter
from cellmesh.cli.running import RunningMesh
from cellmesh.cli.supervisor import Child
from cellmesh.manifests import load

#: Read where no -f is given.
DEFAULT_FILE = "cells.yaml"
EXAMPLE = """\
apiVersion: cellmesh.dev/v1alpha1
kind: Cell
metadata: {name: alpha}
spec: {port: 8000}
"""

F = TypeVar("F", bound=Callable[..., Any])


def place_options(function: F) -> F:
    """Add the options that say where a mesh runs."""
    options = [
        click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0: all."),
        click.option(
            "--discovery-port", type=click.IntRange(1, 65535), default=8001, show_default=True, help="Discovery's port."
        ),
        click.option("--any-ports", is_flag=True, help="Take any free ports instead of those of the manifests."),
        click.option(
            "--data-dir",
            type=click.Path(path_type=Path, file_okay=False),
            default=Path(".data"),
            show_default=True,
            help="Inboxes are kept in <data-dir>/<namespace>/<instance>.",
        ),
        click.option(
            "--namespace", "-n", default=DEFAULT_NAMESPACE, show_default=True, help="The mesh of Cells that name none."
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function


@click.command()
@click.option(
    "--file", "-f", "files", multiple=True, metavar="FILE", help="Manifests of Cells; - is standard input. Repeatable."
)
@place_options
@click.option("--json", "as_json", is_flag=True, help="Print each event as one line of JSON.")
@click.pass_context
def up(ctx: click.Context, /, *, files: tuple[str, ...], as_json: bool, any_ports: bool, **place: Any) -> None:
    """Run discovery and every instance of the Cells until Ctrl-C, restarting what dies.

    The manifests are those that `kubectl apply` takes. Instance NAME-0 of a Cell listens on its spec.port,
    further ones on any free port. Without -f, cells.yaml of the current directory is read.
    """
    plan = plan_of(files or _default_files(), Place(**place), any_ports=any_ports)
    width = max(len(process.name) for process in (plan.discovery, *plan.cells))

    def reporter(children: Sequence[Child]) -> Reporter:
        if as_json:
            return JsonReporter(width)
        return TableReporter(children, width) if sys.stdout.isatty() else Reporter(width)

    ctx.exit(run(plan, reporter))


def plan_of(files: Sequence[str], place: Place, *, any_ports: bool) -> Plan:
    """Return the processes for the Cells of some files."""
    cells = load(files, namespace=place.namespace, check_ports=not any_ports)
    if any_ports:
        cells, place = on_any_ports(cells, place)
    return make_plan(cells, place, os.environ)


def run(plan: Plan, reporter: Callable[[Sequence[Child]], Reporter], when_up: Any = None) -> int:
    """Run a mesh in an event loop of its own; return the exit code."""

    async def running() -> int:
        return await RunningMesh(plan, reporter, when_up).run()

    return asyncio.run(running())


def _default_files() -> list[str]:
    if Path(DEFAULT_FILE).is_file():
        return [DEFAULT_FILE]
    raise click.UsageError(f"give the Cells to run with -f FILE, or write them into {DEFAULT_FILE}:\n\n{EXAMPLE}")
