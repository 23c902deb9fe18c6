"""The command as a whole: help, usage errors, exit codes, what is loaded."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cellmesh import __version__
from cellmesh.settings import Settings
from fake_mesh import Run

COMMANDS = ["up", "demo", "cell", "send", "ask", "sent", "messages", "dead", "peers", "top", "backup"]
SUBCOMMANDS = ["sent list", "sent show", "sent retry", "sent cancel", "dead list", "dead retry", "dead purge"]


def cellmesh(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a process of its own."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CELLMESH_")}
    return subprocess.run(
        [sys.executable, "-m", "cellmesh", *arguments],
        env={**clean, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_lists_every_command(run: Run) -> None:
    """The help of the whole names them all."""
    result = run("--help")

    assert result.code == 0
    assert [line.split()[0] for line in result.out.split("Commands:")[1].splitlines() if line.strip()] == COMMANDS


@pytest.mark.parametrize("command", [*COMMANDS, *SUBCOMMANDS])
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_every_command_has_help(run: Run, command: str, option: str) -> None:
    """Each command explains itself."""
    result = run(*command.split(), option)

    assert (result.code, result.err) == (0, "")
    assert result.out.startswith(f"Usage: cellmesh {command}")


def test_the_version_is_the_packages(run: Run) -> None:
    """One version for the command and the package."""
    assert run("--version").out == f"cellmesh, version {__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("sned",),
        ("send", "alpha"),
        ("send", "alpha", "pure", "--priority", "urgent"),
        ("send", "alpha", "pure", "--ttl", "-1"),
        ("send", "alpha", "pure", "--timeout", "0"),
        ("send", "alpha", "pure", "--timeout", "301"),
        ("send", "alpha", "pure", "--payload", "{"),
        ("send", "alpha", "pure", "--payload", "[1]"),
        ("send", "alpha", "pure", "--payload", '{"x": NaN}'),
        ("send", "alpha", "pure", "--payload", "[" * 100_000),
        ("send", "alpha", "pure", "--id", ""),
        ("send", "alpha", "pure", "*"),
        ("send", "alpha", "pure", "--queued", "--timeout", "5"),
        ("send", "alpha", "pure", "--not-before", "-1"),
        ("ask", "alpha"),
        ("ask", "alpha", "pure", "other"),
        ("ask", "alpha", "pure", "--payload", "[1]"),
        ("ask", "alpha", "pure", "--timeout", "301"),
        ("sent", "list", "alpha", "--state", "gone"),
        ("sent", "show", "alpha"),
        ("sent", "retry", "alpha"),
        ("sent", "cancel", "alpha"),
        ("dead", "pure", "list"),
        ("dead", "list", "pure", "--limit", "0"),
        ("dead", "retry", "pure"),
        ("dead", "retry", "pure", "m-1", "--all"),
        ("dead", "retry", "pure", "m-1", "--reason", "expired"),
        ("dead", "purge", "pure"),
        ("send", "alpha", "pure", "--discovery", "https://127.0.0.1"),
        ("messages", "alpha", "--limit", "0"),
        ("messages", "alpha", "--state", "gone"),
        ("peers", "--discovery", "localhost:8001"),
        ("top", "--interval", "0"),
        ("up", "--discovery-port", "0"),
        ("demo", "-f", "examples/alpha-pure.yaml", "--discovery-port", "99999"),
    ],
)
def test_a_wrong_command_line_is_a_usage_error(run: Run, arguments: tuple[str, ...]) -> None:
    """Exit code 2, one error line, no stack trace."""
    result = run(*arguments)

    assert (result.code, result.out) == (2, "")
    assert "Error: " in result.err
    assert "Traceback" not in result.err


def test_up_without_a_manifest_shows_what_one_looks_like(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newcomer can copy the example from the error."""
    monkeypatch.chdir(tmp_path)

    result = run("up")

    assert result.code == 2
    assert "kind: Cell" in result.err


def test_up_with_a_wrong_manifest_says_so_line_by_line(run: Run, tmp_path: Path) -> None:
    """Every fault is one line; exit code 1."""
    (tmp_path / "cells.yaml").write_text("kind: Cell\n---\nkind: Pod\n")

    result = run("up", "-f", str(tmp_path / "cells.yaml"))

    assert result.code == 1
    assert [line.split(": ")[2:4] for line in result.err.splitlines()] == [
        ["document 1 (Cell)", "apiVersion"],
        ["document 2 (Pod)", "kind"],
    ]


def test_demo_elsewhere_says_where_the_example_is(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the repository around it the demo says what it lacks."""
    monkeypatch.chdir(tmp_path)

    assert "name a manifest with -f" in run("demo").err


def test_demo_needs_its_two_cells(run: Run, tmp_path: Path) -> None:
    """A manifest without alpha and pure is a usage error."""
    path = tmp_path / "cells.yaml"
    path.write_text("{apiVersion: cellmesh.dev/v1alpha1, kind: Cell, metadata: {name: alpha}}")

    result = run("demo", "-f", str(path))

    assert result.code == 2
    assert "must hold the Cells alpha and pure" in result.err


def test_the_help_of_cell_describes_every_setting(run: Run) -> None:
    """Each setting of the code is there with its text and default."""
    text = " ".join(run("cell", "--help").out.split())

    for field in dataclasses.fields(Settings):
        assert f"CELLMESH_{field.name.upper()} " in text
    assert "CELLMESH_PORT Port to listen on; 0 takes any free one. [default: 8000]" in text


@pytest.mark.parametrize(
    ("environ", "line"),
    [
        ({}, "CELLMESH_CELL_ID: required and absent"),
        ({"CELLMESH_CELL_ID": "alpha", "CELLMESH_PORT": "many"}, "CELLMESH_PORT: 'many' must be a whole number"),
        ({"CELLMESH_CELL_ID": "al pha"}, "CELLMESH_CELL_ID: 'al pha' must match"),
        ({"CELLMESH_CELL_ID": "alpha", "CELLMESH_DATA_DIR": "/dev/null/x"}, "data directory /dev/null/x"),
    ],
)
def test_a_cell_with_a_wrong_setting_ends_with_one_line_and_code_2(environ: dict[str, str], line: str) -> None:
    """The variable is named; starting again would not help, and the code says so."""
    result = cellmesh("cell", **{"CELLMESH_PORT": "0", **environ})

    assert result.returncode == 2
    assert result.stderr.startswith(f"cellmesh: {line}")
    assert result.stderr.count("\n") == 1


def test_a_misspelt_setting_is_warned_of() -> None:
    """The right spelling is offered."""
    result = cellmesh("cell", CELLMESH_CELL_ID="alpha", CELLMESH_DATADIR="/x", CELLMESH_DATA_DIR="/dev/null/x")

    assert "CELLMESH_DATADIR is no setting of a cell; did you mean CELLMESH_DATA_DIR?" in result.stderr


def test_starting_a_cell_loads_no_library_of_other_commands() -> None:
    """The memory of every instance is not spent on tables and manifests."""
    names = ["rich", "yaml", "jsonschema", "apsw"]
    code = f"import sys, cellmesh.cli, cellmesh.cli.cell; print([name for name in {names} if name in sys.modules])"

    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert result.stdout == "[]\n"


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    """`cellmesh ... | head` ends quietly."""
    script = f"{sys.executable} -m cellmesh cell --help | true"

    result = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)

    assert result.stderr == ""
