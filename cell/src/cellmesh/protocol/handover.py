"""What an instance passes on to a sibling, another instance of its cell.

It is messages with their past, and the records by which messages that are no longer there are recognised. Times
are ages and remainders, in milliseconds: no decision compares the clocks of two machines.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from cellmesh.protocol.decoding import decode
from cellmesh.protocol.fields import MAX_SECONDS, MessageId, Name
from cellmesh.protocol.messages import CellMessage, Checked, Identity, Special, accept, encode
from cellmesh.protocol.problems import Problem, invalid
from cellmesh.protocol.receipts import Transition

#: Messages, and records, in one request at most.
MAX_MESSAGES = 256
MAX_RECORDS = 2000
#: Entries of a message's log that are taken, the newest.
MAX_LOG = 20

_MS = msgspec.Meta(ge=0, le=MAX_SECONDS * 1000)
Milliseconds = Annotated[int, _MS] | Annotated[float, _MS]
# To JSON 7.0 is an integer (JSON Schema, 4.2.3).
_COUNT = msgspec.Meta(ge=0, le=1_000_000)
Count = Annotated[int, _COUNT] | Annotated[float, _COUNT, msgspec.Meta(multiple_of=1)]
Hash = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")]


class HandedMessage(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A message with its past: ``ttl_remaining`` of the message is what is left of its ttl.

    ``age_ms`` since it was received, ``delay_ms`` until it may be handed out, ``delivery_count`` and ``log`` as in
    the inbox that it comes from.
    """

    message: CellMessage
    age_ms: Milliseconds = 0
    delay_ms: Milliseconds = 0
    delivery_count: Count = 0
    log: Annotated[list[Transition], msgspec.Meta(max_length=1000)] = []


class HandedRecord(msgspec.Struct):
    """The record of a message that is no longer there: by it a repeat is recognised for ``keep_ms`` more."""

    message_id: MessageId
    sender: Hash
    fingerprint: Hash
    age_ms: Milliseconds
    keep_ms: Milliseconds


class Handover(msgspec.Struct, omit_defaults=True, kw_only=True):
    """The body of ``POST /handover``: from which instance of which cell, to which, and what."""

    cell_id: Name
    namespace: Name
    from_instance: Name
    to_instance: Name
    messages: Annotated[list[HandedMessage], msgspec.Meta(max_length=MAX_MESSAGES)] = []
    records: Annotated[list[HandedRecord], msgspec.Meta(max_length=MAX_RECORDS)] = []


class HandoverItem(msgspec.Struct, omit_defaults=True, kw_only=True):
    """What became of one message: ``ok`` says that it is in the inbox, on disk, ``duplicate`` that it was before."""

    status: Literal["ok", "error"]
    http_status: int
    message_id: str
    duplicate: bool = False
    code: str | None = None
    error: str | None = None


class HandoverAnswer(msgspec.Struct):
    """The answer of ``POST /handover``: an item for each message, in order, and how many records were taken."""

    results: list[HandoverItem]
    records: int
    cell_id: str
    instance: str


_decoder = msgspec.json.Decoder(Handover)
decode_answer = msgspec.json.Decoder(HandoverAnswer).decode


def decode_handover(body: bytes, here: Identity) -> Handover:
    """Decode the body of ``POST /handover`` and check that it is for this instance.

    Raises:
        Problem: the body is wrong, or ``misdirected`` (421).

    """
    handover = decode(_decoder, body)
    for field, own in (("cell_id", here.cell_id), ("namespace", here.namespace), ("to_instance", here.instance)):
        value = getattr(handover, field)
        if value != own:
            raise Problem(
                "misdirected",
                f"{field}: {value[:80]!r} is not here; this is instance {here.instance} of cell {here.cell_id} "
                f"in {here.namespace}",
                field=field,
            )
    if handover.from_instance == here.instance:
        raise invalid("from_instance", "an instance hands nothing over to itself")
    return handover


def accept_handed(handed: HandedMessage, from_instance: str, here: Identity) -> Checked:
    """Check a message that was handed over and make it ready to be stored by ``here``.

    Raises:
        Problem: ``misdirected`` (421) or ``invalid_field`` (422).

    """
    checked = accept(handed.message, here)
    kept_for = handed.message.for_instance
    checked.special = Special(
        delay=handed.delay_ms / 1000,
        moving_to=kept_for if kept_for != here.instance else None,
        handed_by=from_instance,
        age_ms=int(handed.age_ms),
        delivery_count=int(handed.delivery_count),
        log=encode(handed.log[-MAX_LOG:]).decode() if handed.log else None,
    )
    return checked
