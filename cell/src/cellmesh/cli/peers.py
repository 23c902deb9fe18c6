"""``cellmesh peers``: who is in the mesh, as discovery tells it."""

from __future__ import annotations

import click

from cellmesh.cli.lookup import addressable, discovery_options
from cellmesh.cli.lookup import peers as ask
from cellmesh.cli.output import cut, print_json, table


@click.command()
@click.option("--cell", metavar="NAME", help="Only the instances of this cell.")
@discovery_options
@click.option("--json", "as_json", is_flag=True, help="Print discovery's list as JSON.")
def peers(*, mesh: str, cell: str | None, as_json: bool) -> None:
    """Show the instances that discovery would send a message to."""
    found = ask(mesh, cell)
    if as_json:
        print_json({"peers": found, "count": len(found)})
        return
    rows = [
        (
            peer.cell_id,
            peer.key,
            cut(peer.url, 50),
            cut(peer.type or "", 20),
            cut(peer.branch or "", 20),
            cut(",".join(peer.services or ()), 40),
            peer.source,
            peer.last_seen,
        )
        for peer in addressable(found)
    ]
    header = ("CELL", "INSTANCE", "URL", "TYPE", "BRANCH", "SERVICES", "SOURCE", "LAST SEEN")
    for line in table(header, rows):
        click.echo(line)
    if not rows:
        click.echo("no cell is known here", err=True)
