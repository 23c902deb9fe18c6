"""``cellmesh sent``: what became of messages that a cell was given to send with ``--queued``."""

from __future__ import annotations

import json
import time
from typing import Any
from urllib.parse import quote

import click

from cellmesh.cli import http
from cellmesh.cli.group import DefaultGroup, Failure
from cellmesh.cli.lookup import discovery_options, instances
from cellmesh.cli.output import age, cut, print_json, safe, table
from cellmesh.cli.pages import page
from cellmesh.errors import CellMeshError
from cellmesh.protocol.peers import Peer
from cellmesh.protocol.queueing import SENT_STATES

#: Seconds between two looks of --follow.
INTERVAL = 0.5
_HEADER = ("INSTANCE", "SEQ", "MESSAGE", "QUEUED", "TO", "STATE", "ATTEMPTS", "NEXT", "ERROR")


@click.group(cls=DefaultGroup, default="list")
def sent() -> None:
    """Show what became of messages that a cell has queued to send; retry or cancel them.

    \b
    queued       it is tried, or will be again
    delivered    the receiver has it on disk
    expired      its ttl has ended; it was not stored anywhere
    unconfirmed  its ttl has ended or its instance is gone; it may have been stored
    dead         refused for good
    cancelled    taken back before it can have been stored

    \b
    cellmesh sent alpha --state queued
    cellmesh sent show alpha eb7034d6-9e9c-4f3d-80f5-8f7fd142723e --follow
    cellmesh sent retry alpha eb7034d6-9e9c-4f3d-80f5-8f7fd142723e
    """  # noqa: D301 - the character that keeps click from filling the line


@sent.command("list", short_help="Show them; the same without naming a command.")
@click.argument("cell")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="Messages of each instance.")
@click.option("--state", type=click.Choice(SENT_STATES), help="Only messages in this state. [default: all]")
@click.option("--after", type=click.IntRange(0), metavar="SEQ", help="The first ones behind this position.")
@click.option("--instance", help="Only this instance. [default: all]")
@discovery_options
@click.option("--json", "as_json", is_flag=True, help="Print each message whole, as one line of JSON.")
def show_all(
    *, mesh: str, cell: str, limit: int, state: str | None, after: int | None, instance: str | None, as_json: bool
) -> None:
    """Show what CELL has queued to send: the newest of each instance, oldest first."""
    query = {"limit": limit, "state": state, "after": after}
    pages = [(peer.key, page(peer, "/sent", query)) for peer in instances(mesh, cell, instance)]
    found = [(key, record) for key, one in pages for record in one["messages"]]
    if as_json:
        for key, record in found:
            print_json({"sender": key, **record})
        return
    for line in table(_HEADER, [_row(key, record) for key, record in found], right=(1, 6, 7)):
        click.echo(line)


@sent.command("show", short_help="Show one whole, or follow it until it has ended.")
@click.argument("cell")
@click.argument("message_id", metavar="ID")
@click.option(
    "--follow", "-f", is_flag=True, help="Go on until it is not queued any more; exit code 1 unless delivered."
)
@click.option("--instance", help="Only this instance. [default: all]")
@discovery_options
@click.option(
    "--json", "as_json", is_flag=True, help="Print it as one line of JSON; with --follow, one for each change."
)
def show(*, mesh: str, cell: str, message_id: str, follow: bool, instance: str | None, as_json: bool) -> None:
    """Show what became of one message that CELL has queued to send."""
    peer, record = _find(mesh, cell, instance, message_id)
    if as_json:
        print_json({"sender": peer.key, **record})
    else:
        _print(record)
    if follow:
        record = _follow(mesh, cell, instance, record, as_json=as_json)
        if record.get("state") != "delivered":
            raise Failure(f"{safe(message_id)} is {safe(record.get('state'))}")


@sent.command("retry", short_help="Send some again that were not delivered.")
@click.argument("cell")
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@click.option("--instance", help="Only this instance. [default: all]")
@discovery_options
def retry(*, mesh: str, cell: str, ids: tuple[str, ...], instance: str | None) -> None:
    """Have CELL send messages again that were not delivered: with the same id, and their whole ttl before them."""
    _change(mesh, cell, instance, ids, "POST", "/retry", "queued again")


@sent.command("cancel", short_help="Take some back that are still queued.")
@click.argument("cell")
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@click.option("--instance", help="Only this instance. [default: all]")
@discovery_options
def cancel(*, mesh: str, cell: str, ids: tuple[str, ...], instance: str | None) -> None:
    """Take back messages that CELL has queued, as long as none can have been stored at its receiver."""
    _change(mesh, cell, instance, ids, "DELETE", "", "cancelled")


def _change(
    mesh: str, cell: str, instance: str | None, ids: tuple[str, ...], method: str, suffix: str, done: str
) -> None:
    """Ask for a change of each message.

    Raises:
        Failure: with a line for each that was not changed.

    """
    faults = []
    for message_id in ids:
        try:
            peer, _ = _find(mesh, cell, instance, message_id)
            answer = _request(method, peer, message_id, suffix)
        except CellMeshError as error:
            faults.append(str(error))
            continue
        if answer.status in {200, 202, 204}:
            click.echo(f"{done} {safe(message_id)}")
        else:
            faults.append(_said(message_id, peer, answer))
    if faults:
        raise Failure("\n".join(faults))


def _find(mesh: str, cell: str, instance: str | None, message_id: str) -> tuple[Peer, dict[str, Any]]:
    """Return the instance that was given the message, and what it says of it.

    Raises:
        Unreachable: an instance does not answer, and no other one has it.
        CellMeshError: no instance has it.

    """
    silent: http.Unreachable | None = None
    said = ""
    for peer in instances(mesh, cell, instance):
        try:
            answer = _request("GET", peer, message_id)
        except http.Unreachable as error:
            silent = error
            continue
        if answer.status == 200 and isinstance(answer.body, dict):
            return peer, answer.body
        said = _said(message_id, peer, answer)
    raise silent or CellMeshError(said)


def _request(method: str, peer: Peer, message_id: str, suffix: str = "") -> http.Answer:
    return http.request(method, f"{peer.url}/sent/{quote(message_id, safe='')}{suffix}", who=peer.key)


def _said(message_id: str, peer: Peer, answer: http.Answer) -> str:
    body = answer.body if isinstance(answer.body, dict) else {}
    code = f" ({safe(body['code'])})" if "code" in body else ""
    return f"{safe(message_id)}: {peer.key} says: {safe(answer.error or answer.status)}{code}"


def _follow(mesh: str, cell: str, instance: str | None, record: dict[str, Any], *, as_json: bool) -> dict[str, Any]:
    """Print each change of a message until it is not queued any more; return it then."""
    said = ""
    while record.get("state") == "queued":
        time.sleep(INTERVAL)
        try:
            peer, newer = _find(mesh, cell, instance, str(record["message_id"]))
        except CellMeshError as error:
            if str(error) != said:
                click.echo(f"cellmesh: {error}; trying again", err=True)
            said = str(error)
            continue
        said = ""
        if _progress(newer) != _progress(record):
            if as_json:
                print_json({"sender": peer.key, **newer})
            else:
                click.echo(" ".join(map(str, filter(None, _progress(newer)))))
        record = newer
    return record


def _progress(record: dict[str, Any]) -> tuple[str, ...]:
    """Return what changes in the life of a message; of several copies together, how many are delivered."""
    state = safe(record.get("state"))
    if "results" in record:
        return state, f"{record.get('delivered')} of {record.get('count')} delivered"
    attempts = record.get("attempts", 0)
    return state, f"after {attempts} attempt{'' if attempts == 1 else 's'}", _error(record)


def _row(key: str, record: dict[str, Any]) -> tuple[object, ...]:
    next_in = record.get("next_attempt_in")
    return (
        key,
        record.get("seq"),
        cut(record.get("message_id", ""), 40),
        cut(record.get("timestamp", ""), 32),
        cut(record.get("instance") or record.get("to_cell", ""), 40),
        cut(record.get("state", ""), 20),
        record.get("attempts"),
        None if next_in is None else age(next_in),
        cut(_error(record), 80),
    )


def _error(record: dict[str, Any]) -> str:
    error, code = record.get("error"), record.get("code")
    if not error:
        return safe(code or "")
    return f"{safe(error)} ({safe(code)})" if code else safe(error)


def _print(record: dict[str, Any]) -> None:
    """Print every field that has a value, one a line; lists one element a line."""
    for name, value in record.items():
        if value is None:
            continue
        for number, line in enumerate(value if isinstance(value, list) else [value]):
            text = line if isinstance(line, str) else json.dumps(line, ensure_ascii=False)
            click.echo(f"{safe(name) if not number else '':<16} {safe(text)}")
