"""``cellmesh dead``: messages that ended without being handled, and what becomes of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from cellmesh.cli import http
from cellmesh.cli.group import DefaultGroup, Failure
from cellmesh.cli.lookup import discovery_options, instances
from cellmesh.cli.output import cut, print_json, safe, table
from cellmesh.cli.pages import page
from cellmesh.protocol.peers import Peer

#: Dead letters named in one request at most, and seconds that it, or one that takes all of them, may take.
CHUNK = 1000
PATIENCE = 60.0
PAYLOAD_WIDTH = 60
_HEADER = ("INSTANCE", "SEQ", "MESSAGE", "RECEIVED", "FROM", "TYPE", "REASON", "DELIVERIES", "PAYLOAD")

F = TypeVar("F", bound=Callable[..., Any])


@click.group(cls=DefaultGroup, default="list")
def dead() -> None:
    """Show, put back or delete the dead letters of a cell.

    A message becomes one when its ttl ends (expired), when it was handed out too often without being
    acknowledged (max_deliveries), or when its consumer rejects it (rejected).

    \b
    cellmesh dead pure
    cellmesh dead retry pure --all --reason max_deliveries
    cellmesh dead purge pure eb7034d6-9e9c-4f3d-80f5-8f7fd142723e
    """  # noqa: D301 - the character that keeps click from filling the line


def _choice(function: F) -> F:
    """Add what says which dead letters are meant."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print the answer of each instance, as a line of JSON."),
        discovery_options,
        click.option("--instance", help="Only this instance. [default: all]"),
        click.option("--reason", help="With --all: only those that ended for this reason."),
        click.option("--all", "everything", is_flag=True, help="All of them."),
        click.option("--seq", "seqs", type=click.IntRange(1), multiple=True, help="By position; may be repeated."),
        click.argument("ids", metavar="[ID]...", nargs=-1),
        click.argument("cell"),
    ):
        function = option(function)
    return function


@dead.command("list", short_help="Show them; the same without naming a command.")
@click.argument("cell")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="Of each instance.")
@click.option("--after", type=click.IntRange(0), metavar="SEQ", help="The first ones behind this position.")
@click.option("--reason", help="Only those that ended for this reason.")
@click.option("--instance", help="Only this instance. [default: all]")
@discovery_options
@click.option("--json", "as_json", is_flag=True, help="Print each message whole, as one line of JSON.")
def show(
    *, mesh: str, cell: str, limit: int, after: int | None, reason: str | None, instance: str | None, as_json: bool
) -> None:
    """Show the dead letters of CELL: the newest of each instance, oldest first."""
    query = {"limit": limit, "after": after, "reason": reason}
    found = [(peer.key, one) for peer in instances(mesh, cell, instance) for one in _page(peer, query)]
    if as_json:
        for key, message in found:
            print_json({"instance": key, **message})
        return
    shown = [
        (
            key,
            message.get("seq"),
            cut(message.get("message_id", ""), 40),
            cut(message.get("received_at", ""), 32),
            cut(message.get("from_cell", ""), 30),
            cut(message.get("message_type", ""), 20),
            cut(message.get("reason") or "", 20),
            message.get("delivery_count", 0),
            cut(json.dumps(message.get("payload"), ensure_ascii=False), PAYLOAD_WIDTH),
        )
        for key, message in found
    ]
    for line in table(_HEADER, shown, right=(1, 7)):
        click.echo(line)


def _page(peer: Peer, query: dict[str, Any]) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = page(peer, "/dead", query)["messages"]
    return messages


@dead.command("retry", short_help="Put some back into the inbox, or all.")
@_choice
def retry(*, as_json: bool, **chosen: Any) -> None:
    """Put dead letters of CELL back into its inbox: not delivered yet, with their whole ttl before them."""
    _change("retry", "put back", as_json=as_json, **chosen)


@dead.command("purge", short_help="Delete some for good, or all.")
@_choice
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
def purge(*, as_json: bool, yes: bool, **chosen: Any) -> None:
    """Delete dead letters of CELL for good; a repeat of one is still recognised."""

    def confirm(what: str) -> None:
        if yes:
            return
        if not sys.stdin.isatty():
            raise click.UsageError(f"this deletes {what} for good; confirm it with --yes")
        click.confirm(f"Delete {what} for good?", abort=True, err=True)

    _change("purge", "deleted", as_json=as_json, confirm=confirm, **chosen)


def _change(
    action: str,
    done: str,
    *,
    mesh: str,
    cell: str,
    ids: tuple[str, ...],
    seqs: tuple[int, ...],
    everything: bool,
    reason: str | None,
    instance: str | None,
    as_json: bool,
    confirm: Callable[[str], None] = lambda _: None,
) -> None:
    items: list[dict[str, Any]] = [*({"message_id": one} for one in ids), *({"seq": seq} for seq in seqs)]
    if everything == bool(items):
        raise click.UsageError("say which dead letters: their ids, --seq, or --all of them")
    if reason and not everything:
        raise click.UsageError("--reason goes with --all")
    found = instances(mesh, cell, instance)
    if seqs and len(found) > 1:
        raise click.UsageError("--seq is a position in the inbox of one instance; name it with --instance")
    which = f"with reason {safe(reason)} " if reason else ""
    confirm(
        f"all dead letters {which}of {safe(cell)}" if everything else f"{len(items)} dead letter(s) of {safe(cell)}"
    )
    url = f"/dead/{action}"
    if everything:
        body = {"all": True, **({"reason": reason} if reason else {})}
        answers = [_post(peer, url, body) for peer in found]
        missed: list[str] = []
    else:
        chunks = [items[start : start + CHUNK] for start in range(0, len(items), CHUNK)]
        answers = [_post(peer, url, {"items": chunk}) for peer in found for chunk in chunks]
        missed = _missed(items, answers, len(found))
    if as_json:
        for answer in answers:
            print_json(answer)
    else:
        click.echo(f"{done}: {sum(answer['changed'] for answer in answers)}")
    if missed:
        raise Failure("\n".join(missed))


def _post(peer: Peer, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = http.request("POST", f"{peer.url}{path}", who=peer.key, body=body, timeout=PATIENCE)
    if answer.status != 200 or not isinstance(answer.body, dict) or "changed" not in answer.body:
        raise Failure(f"{peer.key} at {peer.url} answered {answer.status} {safe(answer.error)}".rstrip())
    return {"instance": peer.key, **answer.body}


def _missed(items: Sequence[dict[str, Any]], answers: Sequence[dict[str, Any]], instances_asked: int) -> list[str]:
    """Return a line for each item that no instance could change: each was asked for all of them, in order."""
    results = [result for answer in answers for result in answer["results"]]
    if len(results) != len(items) * instances_asked:
        return [f"there were {len(results)} results for {len(items)} messages; does the cell run another version?"]
    lines = []
    for number, item in enumerate(items):
        of_item = results[number :: len(items)]
        if not any(result.get("status") == "ok" for result in of_item):
            # An instance that knows it says more than those that do not.
            said = min(of_item, key=lambda result: bool(result.get("code") == "unknown_message"))
            lines.append(f"{safe(next(iter(item.values())))}: {safe(said.get('error'))} ({safe(said.get('code'))})")
    return lines
