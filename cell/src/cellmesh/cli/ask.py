"""``cellmesh ask``: a question from one cell to another, and its reply."""

from __future__ import annotations

from typing import Any

import click

from cellmesh.cli.composing import compose, message_options, post, refused
from cellmesh.cli.group import Failure
from cellmesh.cli.lookup import discovery_options, instances
from cellmesh.cli.output import print_json, safe
from cellmesh.protocol.sends import DEFAULT_TIMEOUT, MAX_TIMEOUT


@click.command()
@click.argument("sender", metavar="FROM")
@click.argument("receiver", metavar="TO")
@message_options
@click.option(
    "--timeout",
    type=click.FloatRange(0, MAX_TIMEOUT, min_open=True),
    default=DEFAULT_TIMEOUT,
    show_default=True,
    help="Seconds to wait for a ready receiver, and then for its reply.",
)
@discovery_options
@click.option("--json", "as_json", is_flag=True, help="Print the cell's answer whole, with the reply in it.")
def ask(
    *, mesh: str, sender: str, receiver: str, timeout: float, instance: str | None, as_json: bool, **given: Any
) -> None:
    """Have cell FROM send a message to cell TO, wait for the reply, and print its payload as JSON.

    Exit code 1 if no reply comes in time. One that comes later is a message in the inbox of FROM.

    \b
    cellmesh ask alpha pure --type query --payload '{"question": "How are you?"}'
    """  # noqa: D301 - the character that keeps click from filling the line
    body = compose(receiver, **given, timeout=timeout, await_reply=timeout)
    peer = instances(mesh, sender, instance)[0]
    answer = post(peer, body, 2 * timeout)
    if as_json:
        print_json(answer.body)
    said = answer.body if isinstance(answer.body, dict) else {}
    if said.get("code") == "reply_timeout":
        raise Failure(f"{safe(answer.error)} (reply_timeout); look with: cellmesh messages {sender} --from {receiver}")
    if answer.status != 200:
        raise refused(answer, body["message_id"])
    reply = said.get("reply")
    if not isinstance(reply, dict):
        raise Failure(f"{peer.key} at {peer.url} answered without a reply; does it run another version?")
    if not as_json:
        print_json(reply.get("payload"))
