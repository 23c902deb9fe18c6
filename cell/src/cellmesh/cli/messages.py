"""``cellmesh messages``: what is in a cell's inbox, and what arrives."""

from __future__ import annotations

import json
import time
from typing import Any

import click

from cellmesh.cli.lookup import discovery_options, instances
from cellmesh.cli.output import cut, print_json, table
from cellmesh.cli.pages import page
from cellmesh.errors import CellMeshError
from cellmesh.protocol.peers import Peer
from cellmesh.protocol.receipts import STATES

#: Seconds between two looks of --follow.
INTERVAL = 0.5
#: Seconds until discovery is asked for new instances.
REFRESH = 5.0
PAYLOAD_WIDTH = 80
_HEADER = ("INSTANCE", "SEQ", "RECEIVED", "FROM", "TYPE", "STATE", "PAYLOAD")


@click.command()
@click.argument("cell")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="Messages of each instance.")
@click.option("--from", "from_cell", metavar="CELL", help="Only messages from this cell.")
@click.option("--state", type=click.Choice(STATES), help="Only messages in this state. [default: all]")
@click.option("--after", type=click.IntRange(0), metavar="SEQ", help="The first ones behind this position.")
@click.option("--instance", help="Only this instance. [default: all]")
@click.option("--follow", "-f", is_flag=True, help="Go on with what arrives, until Ctrl-C.")
@discovery_options
@click.option("--json", "as_json", is_flag=True, help="Print each message whole, as one line of JSON.")
def messages(
    *,
    mesh: str,
    cell: str,
    limit: int,
    from_cell: str | None,
    state: str | None,
    after: int | None,
    instance: str | None,
    follow: bool,
    as_json: bool,
) -> None:
    """Show the messages in the inboxes of CELL: the newest of each instance, oldest first."""
    query = {"limit": limit, "from_cell": from_cell, "state": state, "after": after}
    found = instances(mesh, cell, instance)
    positions: dict[str, int] = {}
    rows: list[tuple[str, dict[str, Any]]] = []
    for peer in found:
        newest = page(peer, "/messages", query)
        positions[peer.key] = _position(newest, after or 0)
        rows += [(peer.key, message) for message in newest["messages"]]
    _show(rows, as_json=as_json, header=True)
    if follow:
        # Behind the page just shown there may be more; it is asked for at once, then every INTERVAL.
        _follow(mesh, cell, instance, {**query, "limit": 1000}, positions, as_json=as_json)


def _position(found: dict[str, Any], before: int) -> int:
    """Return the position behind a page; an empty inbox has none yet."""
    position = found.get("next")
    return position if isinstance(position, int) else before


def _follow(
    mesh: str, cell: str, instance: str | None, query: dict[str, Any], positions: dict[str, int], *, as_json: bool
) -> None:
    said = ""
    found: list[Peer] = []
    asked_at = 0.0
    while True:
        problem = ""
        more = False
        try:
            if not found or time.monotonic() - asked_at > REFRESH:
                asked_at = time.monotonic()
                found = instances(mesh, cell, instance)
            for peer in found:
                before = positions.get(peer.key, 0)
                newer = page(peer, "/messages", {**query, "after": before})
                positions[peer.key] = _position(newer, before)
                more = more or positions[peer.key] > before
                _show([(peer.key, message) for message in newer["messages"]], as_json=as_json, header=False)
        except CellMeshError as error:
            # It may be restarting; what it stores meanwhile is behind the position and not missed.
            problem = str(error)
            asked_at = 0.0
        if problem and problem != said:
            click.echo(f"cellmesh: {problem}; trying again", err=True)
        said = problem
        if not more:
            time.sleep(INTERVAL)


def _show(rows: list[tuple[str, dict[str, Any]]], *, as_json: bool, header: bool) -> None:
    if as_json:
        for key, message in rows:
            print_json({"instance": key, **message})
        return
    shown = [
        (
            key,
            message.get("seq"),
            cut(message.get("received_at", ""), 32),
            cut(message.get("from_cell", ""), 30),
            cut(message.get("message_type", ""), 20),
            f"{message.get('state')}{' (' + cut(message['reason'], 20) + ')' if message.get('reason') else ''}",
            cut(json.dumps(message.get("payload"), ensure_ascii=False), PAYLOAD_WIDTH),
        )
        for key, message in rows
    ]
    lines = table(_HEADER, shown, right=(1,))
    for line in lines if header else lines[1:]:
        click.echo(line)
