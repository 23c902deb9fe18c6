"""``cellmesh backup``: an inbox copied into a file, while its cell runs or not."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

import click

from cellmesh.cli.group import Failure
from cellmesh.cli.lookup import DEFAULT_NAMESPACE
from cellmesh.cli.output import print_json

DATABASE = "inbox.db"
#: Pages copied between two looks at the progress: 4 MiB.
STEP = 1024


@click.command()
@click.argument("source", metavar="INSTANCE-OR-DIRECTORY")
@click.argument("destination", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".data"),
    show_default=True,
    help="Where `cellmesh up` keeps the data of its cells.",
)
@click.option("--namespace", "-n", default=DEFAULT_NAMESPACE, show_default=True, help="The mesh of the instance.")
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
def backup(*, source: str, destination: Path, data_dir: Path, namespace: str, force: bool, as_json: bool) -> None:
    """Copy the inbox of an instance, as it is at one moment, into FILE.

    The cell may run and go on receiving meanwhile. To restore: stop the instance, put FILE into its data
    directory as inbox.db, and remove inbox.db-wal and inbox.db-shm there.
    """
    database = find(source, data_dir / namespace)
    if destination.exists() and not force:
        raise Failure(f"{destination} is there already; choose another name or give --force")
    size = copy(database, destination, _progress if sys.stderr.isatty() else _silent)
    if as_json:
        print_json({"source": str(database), "destination": str(destination), "bytes": size})
    else:
        click.echo(f"{database} copied to {destination}: {size / 1e6:.1f} MB, checked")


def find(source: str, data_dir: Path) -> Path:
    """Return the database that is meant: by a data directory, an instance, or a cell with one instance."""
    # A path first: whoever writes a slash does not mean the name of a cell.
    candidates = [Path(source)] if "/" in source or Path(source, DATABASE).exists() else []
    if not candidates:
        candidates = [data_dir / source, *sorted(data_dir.glob(f"{source}-[0-9]*"))]
    found = [candidate / DATABASE for candidate in candidates if (candidate / DATABASE).is_file()]
    if len(found) == 1:
        return found[0]
    if found:
        raise Failure(f"cell {source} has several instances: {', '.join(path.parent.name for path in found)}; name one")
    raise Failure(
        f"no {DATABASE} in {' or '.join(str(candidate) for candidate in candidates[:1])}; "
        "name an instance such as alpha-0, or its data directory"
    )


def copy(database: Path, destination: Path, progress: Callable[[int, int], None]) -> int:
    """Copy a database through SQLite, check the copy, and give it its name; return its size.

    The source is only read. Under the name ``destination`` there is never anything but a whole copy.

    Raises:
        Failure: reading or writing fails, or the copy is not intact.

    """
    import apsw

    partial = destination.with_name(f".{destination.name}.{os.getpid()}.partial")
    try:
        _copy(database, partial, progress)
        # The copy may hold private messages as much as the inbox does.
        partial.chmod(database.stat().st_mode & 0o777)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        size = partial.stat().st_size
        partial.replace(destination)
        _sync_directory(destination.parent)
    except (apsw.Error, OSError) as error:
        raise Failure(f"{database} was not copied to {destination}: {error}") from error
    finally:
        for suffix in ("", "-journal", "-wal", "-shm"):
            partial.with_name(partial.name + suffix).unlink(missing_ok=True)
    return size


def _copy(database: Path, partial: Path, progress: Callable[[int, int], None]) -> None:
    import apsw

    uri = f"{database.absolute().as_uri()}?mode=ro"
    reading = apsw.Connection(uri, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
    with contextlib.closing(reading), contextlib.closing(apsw.Connection(str(partial))) as writing:
        reading.set_busy_timeout(5000)
        # One transaction for the whole copy: without it every commit of the cell would start the copy anew.
        reading.execute("BEGIN")
        reading.execute("SELECT count(*) FROM sqlite_schema").fetchall()
        with writing.backup("main", reading, "main") as steps:
            while not steps.done:
                steps.step(STEP)
                progress(steps.page_count - steps.remaining, steps.page_count)
        reading.execute("COMMIT")
        # One file, not three: the copy is read and moved by people.
        writing.pragma("journal_mode", "delete")
        rows = [str(row[0]) for row in writing.execute("PRAGMA quick_check(3)")]
    if rows != ["ok"]:
        raise OSError(f"the copy is damaged as the source is: {'; '.join(rows)[:200]}")


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _progress(done: int, total: int) -> None:
    ended = "\n" if done == total else ""
    click.echo(f"\r{done / max(total, 1):4.0%} of {total * 4096 / 1e6:.0f} MB{ended}", nl=False, err=True)


def _silent(done: int, total: int) -> None:
    pass
