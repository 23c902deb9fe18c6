"""``cellmesh send``: a message from one cell to another."""

from __future__ import annotations

import json
import uuid
from typing import Any, BinaryIO

import click

from cellmesh.cli import http
from cellmesh.cli.group import Failure
from cellmesh.cli.lookup import discovery_options, instances
from cellmesh.cli.output import print_json, safe
from cellmesh.protocol.fields import MAX_ID, Priority
from cellmesh.protocol.messages import DEFAULT_TIMEOUT, MAX_TIMEOUT

#: Seconds that the cell may take beyond the message's own time before it is given up.
GRACE = 5.0


@click.command()
@click.argument("sender", metavar="FROM")
@click.argument("receiver", metavar="TO")
@click.option("--type", "message_type", help="Type of the message: sync, query, command, event or your own.")
@click.option("--payload", metavar="JSON", help="Payload, a JSON object.")
@click.option(
    "--payload-file", type=click.File("rb"), metavar="FILE", help="File with the payload; - is standard input."
)
@click.option("--priority", type=click.Choice([priority.value for priority in Priority]), help="[default: normal]")
@click.option("--ttl", type=click.FloatRange(0), help="Seconds until it expires; 0: never. [default: 60]")
@click.option(
    "--timeout",
    type=click.FloatRange(0, MAX_TIMEOUT, min_open=True),
    default=DEFAULT_TIMEOUT,
    show_default=True,
    help="Seconds to try, waiting for a ready receiver included.",
)
@click.option("--id", "message_id", help="Id of the message; give the same to retry. [default: a new one]")
@click.option("--instance", help="The instance of FROM that sends. [default: the first]")
@click.option("--to-instance", help="The instance of TO that receives. [default: any]")
@discovery_options
@click.option("--json", "as_json", is_flag=True, help="Print the cell's answer as JSON.")
def send(
    *,
    mesh: str,
    sender: str,
    receiver: str,
    payload: str | None,
    payload_file: BinaryIO | None,
    timeout: float,
    message_id: str | None,
    instance: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Have cell FROM send a message to cell TO, and wait until TO has it on disk.

    \b
    cellmesh send alpha pure --type ping --payload '{"text": "Hello from Alpha!"}'
    """  # noqa: D301 - the character that keeps click from filling the line
    if message_id is not None and not 0 < len(message_id) <= MAX_ID:
        raise click.UsageError(f"--id: 1 to {MAX_ID} characters")
    # Made here and not by the cell, so that it is known for a retry also when no answer comes.
    message_id = message_id or str(uuid.uuid4())
    body = {
        "to_cell": receiver,
        "message_id": message_id,
        "payload": _payload(payload, payload_file),
        "timeout": timeout,
        **{name: value for name, value in given.items() if value is not None},
    }
    peer = instances(mesh, sender, instance)[0]
    try:
        answer = http.request("POST", f"{peer.url}/send", who=peer.key, body=body, timeout=timeout + GRACE)
    except http.Unreachable as error:
        raise Failure(f"{error}; {_advice(error.sent, message_id)}") from error
    if as_json:
        print_json(answer.body)
    if answer.status != 200 or not isinstance(answer.body, dict):
        raise Failure(_refused(answer, message_id))
    if not as_json:
        click.echo(
            f"delivered {safe(answer.body.get('message_id'))} to {safe(answer.body.get('to_cell'))} "
            f"at {safe(answer.body.get('target_url'))}"
        )


def _payload(text: str | None, file: BinaryIO | None) -> dict[str, Any]:
    if text is not None and file is not None:
        raise click.UsageError("--payload and --payload-file: give one of them")
    source = "--payload" if file is None else "--payload-file"
    given: str | bytes = text if text is not None else file.read() if file is not None else "{}"
    try:
        value = json.loads(given, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"{source}: not JSON ({error})") from None
    if not isinstance(value, dict):
        raise click.UsageError(f'{source}: must be a JSON object, such as {{"text": "hello"}}')
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number that JSON has")


def _refused(answer: http.Answer, message_id: str) -> str:
    body = answer.body if isinstance(answer.body, dict) else {}
    error = safe(answer.error or f"the cell answered {answer.status}")
    code = f" ({safe(body['code'])})" if "code" in body else ""
    maybe = body.get("maybe_delivered")
    known = f"; cells here: {', '.join(map(safe, body['available_cells'][:20]))}" if body.get("available_cells") else ""
    return f"not delivered: {error}{code}{known}; {_advice(maybe is not False, message_id)}"


def _advice(maybe: bool, message_id: str) -> str:
    """Return whether it may have arrived, and how to repeat it without doubling it."""
    if maybe:
        return f"it may have been delivered all the same; to retry safely, repeat it with --id {safe(message_id)}"
    return "it was not stored anywhere"
