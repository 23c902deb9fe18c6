"""``cellmesh send``: a message from one cell to another, to several, or to all."""

from __future__ import annotations

from typing import Any

import click

from cellmesh.cli.composing import compose, message_options, post, refused
from cellmesh.cli.group import Failure
from cellmesh.cli.http import Answer
from cellmesh.cli.lookup import discovery_options, instances
from cellmesh.cli.output import cut, print_json, safe, table
from cellmesh.protocol.sends import DEFAULT_TIMEOUT, MAX_TIMEOUT

#: The receiver that stands for every other cell.
EVERYONE = "*"
_HEADER = ("TO", "INSTANCE", "OUTCOME", "ERROR")


@click.command()
@click.argument("sender", metavar="FROM")
@click.argument("receivers", metavar="TO...", nargs=-1, required=True)
@message_options
@click.option("--all-instances", is_flag=True, help="Each instance of the receivers gets it, instead of one.")
@click.option("--not-before", type=click.FloatRange(0), help="Seconds that it is kept before it is handed out.")
@click.option("--reply-to", metavar="ID", help="The message that this one answers.")
@click.option("--queued", is_flag=True, help="Return once FROM has it on disk; FROM goes on trying while ttl lasts.")
@click.option(
    "--timeout",
    type=click.FloatRange(0, MAX_TIMEOUT, min_open=True),
    help=f"Seconds to try, waiting for a ready receiver included; not with --queued. [default: {DEFAULT_TIMEOUT}]",
)
@discovery_options
@click.option("--json", "as_json", is_flag=True, help="Print the cell's answer as JSON.")
def send(
    *,
    mesh: str,
    sender: str,
    receivers: tuple[str, ...],
    all_instances: bool,
    queued: bool,
    timeout: float | None,
    instance: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Have cell FROM send a message to cell TO, and wait until TO has it on disk.

    With several names it goes to each of them, with '*' to every other cell of the mesh; exit code 1
    unless all have it.

    \b
    cellmesh send alpha pure --type ping --payload '{"text": "Hello from Alpha!"}'
    cellmesh send alpha '*' --type event --payload '{"text": "Hello, everyone!"}'
    cellmesh send alpha pure --queued --ttl 3600
    """  # noqa: D301 - the character that keeps click from filling the line
    if EVERYONE in receivers and len(receivers) > 1:
        raise click.UsageError("TO: '*' is every other cell; name no others beside it")
    if queued and timeout is not None:
        raise click.UsageError("--timeout goes with a message that is waited for; with --queued, --ttl is its time")
    body = compose(
        receivers[0] if len(receivers) == 1 else list(receivers),
        **given,
        mode="queued" if queued else None,
        instances="all" if all_instances else None,
        timeout=None if queued else timeout or DEFAULT_TIMEOUT,
    )
    peer = instances(mesh, sender, instance)[0]
    answer = post(peer, body, timeout or DEFAULT_TIMEOUT)
    if as_json:
        print_json(answer.body)
    if not isinstance(answer.body, dict) or answer.status not in {200, 202, 207, 502}:
        raise refused(answer, body["message_id"])
    if answer.status == 202:
        if not as_json:
            _show_queued(answer.body)
    elif isinstance(answer.body.get("results"), list):
        _show_each(answer.body["results"], body["message_id"], as_json=as_json)
    elif answer.status != 200:
        raise refused(answer, body["message_id"])
    elif not as_json:
        _show_delivered(answer)


def _show_delivered(answer: Answer) -> None:
    click.echo(
        f"delivered {safe(answer.body.get('message_id'))} to {safe(answer.body.get('to_cell'))} "
        f"at {safe(answer.body.get('target_url'))}"
    )


def _show_queued(body: dict[str, Any]) -> None:
    to = body.get("to_cell")
    names = ", ".join(map(str, to)) if isinstance(to, list) else to
    state = f"; it was before, and is {safe(body.get('state', 'queued'))}" if body.get("duplicate") else ""
    click.echo(f"queued {safe(body.get('message_id'))} for {safe(names)}{state}")


def _show_each(results: list[dict[str, Any]], message_id: str, *, as_json: bool) -> None:
    """Show what became of it at each receiver.

    Raises:
        Failure: not all have it.

    """
    delivered = sum(1 for result in results if result.get("status") == 200)
    if not as_json:
        for line in table(_HEADER, [_row(result) for result in results]):
            click.echo(line)
    if delivered < len(results):
        raise Failure(
            f"delivered to {delivered} of {len(results)}; repeat it with --id {safe(message_id)} for the others: "
            "who has it already takes it once"
        )


def _row(result: dict[str, Any]) -> tuple[object, ...]:
    body = result.get("body")
    said = body if isinstance(body, dict) else {}
    where = result.get("instance")
    if result.get("status") == 200:
        response = said.get("response")
        where = where or (response.get("instance") if isinstance(response, dict) else None)
        return result.get("to_cell"), where, "delivered", None
    maybe = "perhaps delivered" if said.get("maybe_delivered") is not False else "not delivered"
    error = said.get("error") or f"answered {result.get('status')}"
    code = f" ({said['code']})" if "code" in said else ""
    return result.get("to_cell"), where, maybe, cut(f"{error}{code}", 120)
