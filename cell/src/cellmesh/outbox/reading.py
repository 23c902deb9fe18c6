"""What is read from the outbox: beside the writer, on connections of the inbox's readers."""

from __future__ import annotations

from typing import Any, cast

import apsw
from msgspec import Raw

from cellmesh.inbox.clock import iso
from cellmesh.outbox.parcels import PRIORITY_NAMES, QUEUED, decode_extra
from cellmesh.protocol.deduplication import id_range
from cellmesh.protocol.messages import Extra
from cellmesh.protocol.queueing import SENT_STATES, SentMessage, SentState

_COLUMNS = (
    "s.message_id, s.position, s.to_cell, s.message_type, s.priority, s.ttl, s.queued_at, s.state, s.attempts,"
    " s.to_instance, s.instance, s.target_url, s.code, s.error, s.expires_at, s.attempted_at, s.ended_at, s.extra"
)


def find(connection: apsw.Connection, message_id: str) -> list[SentMessage]:
    """Return the copies of one message, in the order of their positions, with their payload where it is kept."""
    rows = connection.execute(
        f"SELECT {_COLUMNS}, p.payload FROM sent_ids i JOIN sent s ON s.position = i.position"
        " LEFT JOIN sent_payloads p ON p.position = s.position"
        " WHERE i.key >= ? AND i.key < ? AND s.message_id = ? ORDER BY s.position",
        (*id_range(message_id), message_id),
    )
    return [_message(row[:-1], row[-1]) for row in rows]


def page(
    connection: apsw.Connection, limit: int, *, state: str | None = None, after: int | None = None
) -> list[SentMessage]:
    """Return messages in the order of their positions, without payloads: the newest, or the first behind ``after``."""
    conditions: list[str] = []
    values: list[Any] = []
    if state is not None:
        # Ended messages have an index; SQLite wants to be told that these are such.
        number = SENT_STATES.index(state)
        conditions.append("s.state = ? AND s.state >= 1" if number != QUEUED else "s.state = ?")
        values.append(number)
    if after is not None:
        conditions.append("s.position > ?")
        values.append(after)
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    order = "ASC" if after is not None else "DESC"
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM sent s{where} ORDER BY s.position {order} LIMIT ?", (*values, limit)
    )
    messages = [_message(row, None) for row in rows]
    return messages if after is not None else messages[::-1]


def oldest(connection: apsw.Connection) -> int | None:
    """Return when the oldest queued message was queued, ms since the epoch; None if there is none."""
    row = connection.execute(f"SELECT queued_at FROM sent WHERE state = {QUEUED} ORDER BY position LIMIT 1").fetchone()
    return None if row is None else int(row[0])


def _message(row: tuple[Any, ...], payload: bytes | None) -> SentMessage:
    extra = decode_extra(row[17]) if row[17] is not None else Extra()
    return SentMessage(
        message_id=row[0],
        seq=row[1],
        to_cell=row[2],
        message_type=row[3],
        priority=PRIORITY_NAMES[row[4]].value,
        ttl=row[5],
        timestamp=iso(row[6]),
        state=cast("SentState", SENT_STATES[row[7]]),
        attempts=row[8],
        to_instance=row[9] or None,
        instance=row[10],
        target_url=row[11],
        code=row[12],
        error=row[13],
        expires_at=_time(row[14]),
        attempted_at=_time(row[15]),
        ended_at=_time(row[16]),
        reply_to=extra.reply_to,
        conversation_id=extra.conversation_id,
        not_before=extra.not_before,
        traceparent=extra.traceparent,
        tracestate=extra.tracestate,
        payload=Raw(payload) if payload is not None else None,
    )


def _time(ms: int | None) -> str | None:
    return None if ms is None else iso(ms)
