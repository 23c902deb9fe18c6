"""What is read from the inbox: beside the writer, on connections of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import apsw
import msgspec
from msgspec import Raw

from cellmesh.inbox.clock import iso
from cellmesh.inbox.files import open_reader
from cellmesh.inbox.store import PENDING, PRIORITIES
from cellmesh.protocol.messages import Extra, id_range
from cellmesh.protocol.receipts import STATES, MessageWithHistory, StoredMessage, Transition

#: Payload bytes on one page of messages at most; a page ends there even if ``limit`` allows more.
MAX_PAGE_BYTES = 16 * 1024 * 1024

_PRIORITY_NAMES = {number: name for name, number in PRIORITIES.items()}
_decode_extra = msgspec.json.Decoder(Extra).decode
_COLUMNS = (
    "m.seq, m.message_id, m.from_cell, m.to_cell, m.message_type, m.priority, m.ttl, m.timestamp,"
    " m.received_at, m.state, m.reason, m.extra, p.payload, m.ended_at"
)


class Reader:
    """Read-only queries; each thread that calls has a connection of its own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._local = threading.local()
        self._connections: list[apsw.Connection] = []

    def page(
        self, limit: int, *, from_cell: str | None = None, state: str | None = None, after: int | None = None
    ) -> list[StoredMessage]:
        """Return messages in the order of their positions.

        Args:
            limit: how many at most.
            from_cell: only those of this sender.
            state: only those in this state.
            after: the first ones behind this position; without it the newest.

        """
        conditions: list[str] = []
        values: list[Any] = []
        if from_cell is not None:
            conditions.append("m.from_cell = ?")
            values.append(from_cell)
        if state is not None:
            # Finished messages have an index; SQLite wants to be told that these are such.
            conditions.append("m.state = ? AND m.state >= 2" if STATES.index(state) >= 2 else "m.state = ?")
            values.append(STATES.index(state))
        if after is not None:
            conditions.append("m.seq > ?")
            values.append(after)
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        order = "ASC" if after is not None else "DESC"
        rows = self._connection().execute(
            f"SELECT {_COLUMNS} FROM messages m JOIN payloads p ON p.seq = m.seq{where} ORDER BY m.seq {order} LIMIT ?",  # noqa: S608 - our own text
            (*values, limit),
        )
        messages = _within_bytes(rows)
        return messages if after is not None else messages[::-1]

    def find(self, message_id: str) -> MessageWithHistory | None:
        """Return the newest message of this id, whoever sent it, with its history."""
        row = (
            self._connection()
            .execute(
                f"SELECT {_COLUMNS} FROM receipts r JOIN messages m ON m.seq = r.seq JOIN payloads p ON p.seq = m.seq"  # noqa: S608 - our own text
                " WHERE r.key >= ? AND r.key < ? AND m.message_id = ? ORDER BY m.seq DESC LIMIT 1",
                (*id_range(message_id), message_id),
            )
            .fetchone()
        )
        if row is None:
            return None
        fields = _fields(row)
        history = [Transition("pending", fields["received_at"])]
        if row[9] != PENDING and row[13] is not None:
            history.append(Transition(fields["state"], iso(row[13]), row[10]))
        return MessageWithHistory(**fields, history=history)

    def oldest_pending(self) -> int | None:
        """Return when the oldest pending message was received, ms since the epoch."""
        value = self._connection().execute(
            "SELECT received_at FROM messages WHERE state = ? ORDER BY seq LIMIT 1", (PENDING,)
        )
        row = value.fetchone()
        return int(row[0]) if row else None

    def close(self) -> None:
        """Close all connections; no query may be under way."""
        for connection in self._connections:
            connection.close()

    def _connection(self) -> apsw.Connection:
        connection: apsw.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = open_reader(self._directory)
            self._connections.append(connection)
        return connection


def _within_bytes(rows: Iterable[tuple[Any, ...]]) -> list[StoredMessage]:
    messages: list[StoredMessage] = []
    size = 0
    for row in rows:
        size += len(row[12])
        if messages and size > MAX_PAGE_BYTES:
            break
        messages.append(StoredMessage(**_fields(row)))
    return messages


def _fields(row: tuple[Any, ...]) -> dict[str, Any]:
    extra = _decode_extra(row[11]) if row[11] is not None else Extra()
    received_at = iso(row[8])
    return {
        "seq": row[0],
        "message_id": row[1],
        "from_cell": row[2],
        "to_cell": row[3],
        "message_type": row[4],
        "priority": _PRIORITY_NAMES[row[5]],
        "ttl": row[6],
        "timestamp": row[7] or received_at,
        "received_at": received_at,
        "acknowledged": True,
        "state": STATES[row[9]],
        "reason": row[10],
        "payload": Raw(row[12]),
        **msgspec.structs.asdict(extra),
    }
