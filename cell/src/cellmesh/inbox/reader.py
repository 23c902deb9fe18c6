"""What is read from the inbox: beside the writer, on connections of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import apsw
import msgspec

from cellmesh.inbox.files import open_reader
from cellmesh.inbox.rows import COLUMNS, PAYLOAD, SELECT, decode_extra, message_with_history, stored_message
from cellmesh.inbox.store import CONSUMED, LEASED, PENDING
from cellmesh.protocol.deduplication import id_range
from cellmesh.protocol.receipts import STATES, MessageWithHistory, StoredMessage

#: Positions among which a reply is looked for that is pending: the newest.
RECENT = 10_000
#: Payload bytes on one page of messages at most; a page ends there even if ``limit`` allows more.
MAX_PAGE_BYTES = 16 * 1024 * 1024


class Reader:
    """Read-only queries; each thread that calls has a connection of its own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._local = threading.local()
        self._connections: list[apsw.Connection] = []

    def page(
        self,
        limit: int,
        *,
        from_cell: str | None = None,
        state: str | None = None,
        reason: str | None = None,
        after: int | None = None,
    ) -> list[StoredMessage]:
        """Return messages in the order of their positions.

        Args:
            limit: how many at most.
            from_cell: only those of this sender.
            state: only those in this state.
            reason: only those that ended for this reason.
            after: the first ones behind this position; without it the newest.

        """
        conditions: list[str] = []
        values: list[Any] = []
        ended = state is not None and STATES.index(state) > LEASED
        if from_cell is not None:
            conditions.append("m.from_cell = ?")
            values.append(from_cell)
        if state is not None:
            # Finished messages have an index; SQLite wants to be told that these are such.
            conditions.append("m.state = ? AND m.state >= 2" if ended else "m.state = ?")
            values.append(STATES.index(state))
        if reason is not None:
            conditions.append("m.reason = ?")
            values.append(reason)
        if after is not None:
            conditions.append("+m.seq > ?" if ended else "m.seq > ?")
            values.append(after)
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        order = "ASC" if after is not None else "DESC"
        if ended:
            # Their index is by when they ended: they are sorted before their payloads are read.
            where = f" WHERE m.seq IN (SELECT m.seq FROM messages m{where} ORDER BY m.seq {order} LIMIT ?)"
            values.append(limit)
        rows = self.connection().execute(
            f"{SELECT}{where} ORDER BY m.seq {order} LIMIT ?",
            (*values, limit),
        )
        messages = _within_bytes(rows)
        return messages if after is not None else messages[::-1]

    def find(self, message_id: str) -> MessageWithHistory | None:
        """Return the newest message of this id, whoever sent it, with its history."""
        row = (
            self.connection()
            .execute(
                f"SELECT {COLUMNS} FROM receipts r JOIN messages m ON m.seq = r.seq JOIN payloads p ON p.seq = m.seq"
                " WHERE r.key >= ? AND r.key < ? AND m.message_id = ? ORDER BY m.seq DESC LIMIT 1",
                (*id_range(message_id), message_id),
            )
            .fetchone()
        )
        return None if row is None else message_with_history(row)

    def sent_from(self, message_id: str, from_cell: str, namespace: str) -> str | None:
        """Return the instance that sent a message; None if there is no such message, or it does not say."""
        row = (
            self.connection()
            .execute(
                "SELECT m.extra FROM receipts r JOIN messages m ON m.seq = r.seq"
                " WHERE r.key >= ? AND r.key < ? AND m.message_id = ? AND m.from_cell = ? ORDER BY m.seq DESC LIMIT 1",
                (*id_range(message_id), message_id, from_cell),
            )
            .fetchone()
        )
        if row is None or row[0] is None:
            return None
        extra = decode_extra(row[0])
        return extra.from_instance if extra.from_namespace in {None, namespace} else None

    def reply(self, message_id: str, from_cell: str, namespace: str) -> StoredMessage | None:
        """Return the reply of a cell to a message: one that was consumed and is kept still, or a recent pending one."""
        connection = self.connection()
        looked_for = msgspec.json.encode(message_id)
        for where in (
            f"state = {CONSUMED} AND state >= 2",
            f"state = {PENDING} AND seq > (SELECT max(seq) FROM messages) - {RECENT}",
        ):
            # The fields are text, without an index: only rows in which the id stands at all are decoded.
            found: list[Any] = connection.execute(
                f"SELECT seq, extra FROM messages WHERE {where} AND from_cell = ? AND moving_to IS NULL"
                " AND instr(extra, ?) ORDER BY seq DESC",
                (from_cell, looked_for),
            ).fetchall()
            for seq, extra in found:
                known = decode_extra(extra)
                if known.reply_to != message_id or known.from_namespace not in {None, namespace}:
                    continue
                row = connection.execute(f"{SELECT} WHERE m.seq = ?", (seq,)).fetchone()
                if row is not None:
                    return stored_message(row)
        return None

    def oldest_pending(self) -> int | None:
        """Return when the oldest pending message was received, ms since the epoch."""
        value = self.connection().execute(
            "SELECT received_at FROM messages WHERE state = ? ORDER BY seq LIMIT 1", (PENDING,)
        )
        row = value.fetchone()
        return int(row[0]) if row else None

    def close(self) -> None:
        """Close all connections; no query may be under way."""
        for connection in self._connections:
            connection.close()

    def connection(self) -> apsw.Connection:
        """Return the connection of this thread."""
        connection: apsw.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = open_reader(self._directory)
            self._connections.append(connection)
        return connection


def _within_bytes(rows: Iterable[tuple[Any, ...]]) -> list[StoredMessage]:
    messages: list[StoredMessage] = []
    size = 0
    for row in rows:
        size += len(row[PAYLOAD])
        if messages and size > MAX_PAGE_BYTES:
            break
        messages.append(stored_message(row))
    return messages
