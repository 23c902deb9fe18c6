"""The ``cellmesh`` command: one module a command, loaded when it is called.

``group``       the command group and how a command ends        ``http``        JSON over HTTP, errors in one line
``mesh``        what runs where: processes, ports, addresses    ``supervisor``  starts, watches and ends processes
``restarting``  whether and when a dead process comes back      ``reporting``   what the user sees of a mesh
``lookup``      cells found through discovery                   ``output``      tables and safe text
``composing``   a message from its options                      ``pages``       lists that an instance keeps
``up``, ``demo``, ``cell``, ``send``, ``ask``, ``sent``, ``messages``, ``dead``, ``peers``, ``top``, ``backup``: the
commands.

Nothing here may load more than click: ``cellmesh cell`` runs once for each instance of each cell.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from cellmesh import __version__
from cellmesh.cli.group import INTERRUPTED, CommandGroup


@click.group(
    cls=CommandGroup,
    commands_of={
        "up": "Run the cells of manifests on this machine.",
        "demo": "Run two cells and show a message going both ways.",
        "cell": "Run one instance of a cell, with settings from the environment.",
        "send": "Send a message from one cell to another, to several, or to all.",
        "ask": "Send a message and wait for the reply.",
        "sent": "Show what became of queued messages; retry or cancel them.",
        "messages": "Show the messages in a cell's inbox.",
        "dead": "Show, put back or delete a cell's dead letters.",
        "peers": "Show who is in the mesh, as discovery tells it.",
        "top": "Show how busy each instance is.",
        "backup": "Copy an inbox into a file, while its cell runs or not.",
    },
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="cellmesh")
def cellmesh() -> None:
    """Cells that message each other directly and durably, found through discovery.

    Exit codes: 0 done, 1 failed, 2 the command or a setting is wrong, 130 interrupted.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code. Errors end as one line on standard error."""
    try:
        result = cellmesh.main(
            list(sys.argv[1:] if arguments is None else arguments), prog_name="cellmesh", standalone_mode=False
        )
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    return result if isinstance(result, int) else 0
