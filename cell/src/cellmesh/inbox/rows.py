"""Rows of the inbox as messages: the columns that are read, and what is made of them."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw

from cellmesh.inbox.clock import iso
from cellmesh.inbox.store import LEASED, PENDING, PRIORITIES
from cellmesh.protocol.messages import Extra
from cellmesh.protocol.receipts import STATES, MessageWithHistory, StoredMessage, Transition

COLUMNS = (
    "m.seq, m.message_id, m.from_cell, m.to_cell, m.message_type, m.priority, m.ttl, m.timestamp,"
    " m.received_at, m.state, m.reason, m.extra, p.payload, m.ended_at, m.deliveries, m.available_at,"
    " m.lease_until, m.leased_at, m.log"
)
#: Columns and tables of a query for messages; what follows it begins with WHERE.
SELECT = f"SELECT {COLUMNS} FROM messages m JOIN payloads p ON p.seq = m.seq"
SEQ, MESSAGE_ID, FROM_CELL, TO_CELL, MESSAGE_TYPE, PRIORITY, TTL, TIMESTAMP, RECEIVED_AT = range(9)
EXTRA, PAYLOAD, DELIVERIES, AVAILABLE_AT, LOG = 11, 12, 14, 15, 18

PRIORITY_NAMES = {number: name for name, number in PRIORITIES.items()}
decode_extra = msgspec.json.Decoder(Extra).decode
_decode_log = msgspec.json.Decoder(list[Transition]).decode


def fields(row: tuple[Any, ...]) -> dict[str, Any]:
    """Return the fields of a ``StoredMessage`` from a row of ``COLUMNS``."""
    extra = decode_extra(row[11]) if row[11] is not None else Extra()
    received_at = iso(row[8])
    state = row[9]
    return {
        "seq": row[0],
        "message_id": row[1],
        "from_cell": row[2],
        "to_cell": row[3],
        "message_type": row[4],
        "priority": PRIORITY_NAMES[row[5]],
        "ttl": row[6],
        "timestamp": row[7] or received_at,
        "received_at": received_at,
        "acknowledged": True,
        "state": STATES[state],
        "reason": row[10],
        "payload": Raw(row[12]),
        "delivery_count": row[14],
        "available_at": iso(row[15]) if row[15] is not None and state == PENDING else None,
        "leased_until": iso(row[16]) if row[16] is not None and state == LEASED else None,
        **msgspec.structs.asdict(extra),
    }


def stored_message(row: tuple[Any, ...]) -> StoredMessage:
    """Return the message of a row."""
    return StoredMessage(**fields(row))


def message_with_history(row: tuple[Any, ...]) -> MessageWithHistory:
    """Return the message of a row with all that is known of its life."""
    known = fields(row)
    state, reason, ended_at, leased_at = row[9], row[10], row[13], row[17]
    history = [Transition("pending", known["received_at"])]
    if row[18]:
        history += _decode_log(row[18].encode())
    if leased_at is not None:
        history.append(Transition("leased", iso(leased_at)))
    if ended_at is not None and state > LEASED:
        history.append(Transition(known["state"], iso(ended_at), reason))
    # ISO 8601 in UTC sorts by time; what happened in one millisecond stays in the order it has here.
    return MessageWithHistory(**known, history=sorted(history, key=lambda step: step.at))
