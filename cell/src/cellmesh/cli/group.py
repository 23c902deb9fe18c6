"""The command group: commands are loaded when called, and errors of ours end a command with their line."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from cellmesh.errors import CellMeshError

#: Exit code after Ctrl-C, as shells know it.
INTERRUPTED = 130


class Failure(click.ClickException):
    """Ends a command with its message on standard error and exit code 1."""

    def show(self, file: Any = None) -> None:
        """Print the message, each line with the name of the program."""
        for line in self.message.splitlines():
            click.echo(f"cellmesh: {line}", file=file or sys.stderr)


class Misconfigured(Failure):
    """Ends a command with exit code 2: trying again does not help before something is changed."""

    exit_code = 2


class DefaultGroup(click.Group):
    """Commands of one subject, of which one is meant where none is named: ``cellmesh dead pure``.

    Args:
        default: the name of that command.

    """

    def __init__(self, *args: Any, default: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._default = default

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names, in the order of their definition."""
        return list(self.commands)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the name of the default command before arguments that name none."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = [self._default, *args]
        return super().parse_args(ctx, args)


class CommandGroup(click.Group):
    """Commands by name, each in the module of its name; only the one called is imported.

    Args:
        commands_of: what each command does, in the order of the help.

    """

    def __init__(self, *args: Any, commands_of: dict[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._summaries = commands_of

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names, in the order of the help."""
        return list(self._summaries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import one command."""
        if cmd_name not in self._summaries:
            return None
        command: click.Command = getattr(importlib.import_module(f"cellmesh.cli.{cmd_name}"), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self._summaries.items()))

    def invoke(self, ctx: click.Context) -> Any:
        """Call a command; an error of ours becomes a line and exit code 1."""
        try:
            return super().invoke(ctx)
        except CellMeshError as error:
            raise Failure(str(error)) from error
        except KeyboardInterrupt:
            # Here, because click would print an empty line for it.
            raise click.exceptions.Exit(INTERRUPTED) from None
