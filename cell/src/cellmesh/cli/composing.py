"""What ``send`` and ``ask`` share: the options that make a message, the request, and what is said of a refusal."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any, BinaryIO, TypeVar

import click

from cellmesh.cli import http
from cellmesh.cli.group import Failure
from cellmesh.cli.output import safe
from cellmesh.protocol.fields import MAX_ID, Priority
from cellmesh.protocol.peers import Peer

#: Seconds that the cell may take beyond the message's own time before it is given up.
GRACE = 5.0

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--type", "message_type", help="Type of the message: sync, query, command, event or your own."),
    click.option("--payload", metavar="JSON", help="Payload, a JSON object."),
    click.option(
        "--payload-file", type=click.File("rb"), metavar="FILE", help="File with the payload; - is standard input."
    ),
    click.option("--priority", type=click.Choice([priority.value for priority in Priority]), help="[default: normal]"),
    click.option("--ttl", type=click.FloatRange(0), help="Seconds until it expires; 0: never. [default: 60]"),
    click.option("--conversation", "conversation_id", metavar="ID", help="The conversation that it belongs to."),
    click.option("--id", "message_id", help="Id of the message; give the same to retry. [default: a new one]"),
    click.option("--instance", help="The instance of FROM that sends. [default: the first]"),
    click.option("--to-instance", help="The instance of TO that receives. [default: any]"),
)


def message_options(function: F) -> F:
    """Add the options that say what is sent, by whom and to which instance."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def compose(
    receiver: str | list[str], payload: str | None, payload_file: BinaryIO | None, message_id: str | None, **given: Any
) -> dict[str, Any]:
    """Return the body of ``POST /send``; what was not given is not in it, except an id.

    Raises:
        click.UsageError: the id or the payload is wrong.

    """
    if message_id is not None and not 0 < len(message_id) <= MAX_ID:
        raise click.UsageError(f"--id: 1 to {MAX_ID} characters")
    return {
        "to_cell": receiver,
        # Made here and not by the cell, so that it is known for a retry also when no answer comes.
        "message_id": message_id or str(uuid.uuid4()),
        "payload": _payload(payload, payload_file),
        **{name: value for name, value in given.items() if value is not None},
    }


def post(peer: Peer, body: dict[str, Any], timeout: float) -> http.Answer:
    """Have an instance send a message; return its answer, whatever its status.

    Args:
        peer: the instance.
        body: of ``POST /send``.
        timeout: seconds that the sending may take.

    Raises:
        Failure: no answer, with advice.

    """
    try:
        return http.request("POST", f"{peer.url}/send", who=peer.key, body=body, timeout=timeout + GRACE)
    except http.Unreachable as error:
        raise Failure(f"{error}; {_advice(error.sent, body['message_id'])}") from error


def refused(answer: http.Answer, message_id: str) -> Failure:
    """Return what is said of a message that the cell could not deliver: why, and how to go on."""
    body = answer.body if isinstance(answer.body, dict) else {}
    error = safe(answer.error or f"the cell answered {answer.status}")
    code = f" ({safe(body['code'])})" if "code" in body else ""
    maybe = body.get("maybe_delivered")
    known = f"; cells here: {', '.join(map(safe, body['available_cells'][:20]))}" if body.get("available_cells") else ""
    return Failure(f"not delivered: {error}{code}{known}; {_advice(maybe is not False, message_id)}")


def _advice(maybe: bool, message_id: str) -> str:
    """Return whether it may have arrived, and how to repeat it without doubling it."""
    if maybe:
        return f"it may have been delivered all the same; to retry safely, repeat it with --id {safe(message_id)}"
    return "it was not stored anywhere"


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
