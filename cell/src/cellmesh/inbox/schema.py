"""Tables of the inbox, as migrations: entry N brings a file from version N to N + 1.

Never change an entry that was released; append one.
"""

from __future__ import annotations

import apsw

#: ``PRAGMA application_id``: "CELL". Tells our files from foreign ones.
APPLICATION_ID = 0x43454C4C

# One table a concern, so that a change of state rewrites a small row and never a payload:
#   messages   what every state change and listing touches
#   payloads   the JSON text of each message
#   receipts   deduplication; outlives the message (design: deduplication). Its key starts with the message
#              id, so the unique index also finds a message by its id.
# Every index costs each commit at least one more page to write and sync. So there are few, and those that
# can be are partial: only finished messages are indexed by state (the others are found from the end), and
# only receipts that outlive the window by their expiry (the others expire in the order of their positions).
# auto_vacuum must be set before the first table: it cannot be switched on later without a VACUUM.
# AUTOINCREMENT: without it SQLite would give the position of a deleted last message out again.
MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE messages (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        message_id TEXT NOT NULL,
        from_cell TEXT NOT NULL,
        to_cell TEXT NOT NULL,
        message_type TEXT NOT NULL,
        priority INTEGER NOT NULL,
        ttl ANY NOT NULL,
        timestamp TEXT,
        received_at INTEGER NOT NULL,
        expires_at INTEGER,
        state INTEGER NOT NULL DEFAULT 0,
        ended_at INTEGER,
        reason TEXT,
        extra BLOB
    ) STRICT;
    CREATE INDEX messages_ended ON messages (state) WHERE state >= 2;
    CREATE INDEX messages_expiring ON messages (expires_at) WHERE state = 0 AND expires_at IS NOT NULL;
    CREATE TABLE payloads (seq INTEGER PRIMARY KEY, payload BLOB NOT NULL) STRICT;
    CREATE TABLE receipts (
        seq INTEGER PRIMARY KEY,
        key BLOB NOT NULL UNIQUE,
        fingerprint BLOB NOT NULL,
        received_at INTEGER NOT NULL,
        expires_at INTEGER
    ) STRICT;
    CREATE INDEX receipts_expiring ON receipts (expires_at) WHERE expires_at IS NOT NULL;
    """,
    # Leases. In the same rows: a lease changes the row of its message anyway.
    #   available_at  not handed out before           deliveries   how often it was handed out
    #   lease         token of the last lease         leased_at, lease_until, holder   of the present lease
    #   moving_to     the sibling that is to have it; nobody else gets it meanwhile
    #   moving_since  when it began to be sent there: from then on it may be there
    #   log           what happened besides, a JSON array of transitions
    # Messages no longer end in the order of their positions: of those that ended, the last ones are kept.
    """
    ALTER TABLE messages ADD COLUMN available_at INTEGER;
    ALTER TABLE messages ADD COLUMN deliveries INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE messages ADD COLUMN lease TEXT;
    ALTER TABLE messages ADD COLUMN leased_at INTEGER;
    ALTER TABLE messages ADD COLUMN lease_until INTEGER;
    ALTER TABLE messages ADD COLUMN holder INTEGER;
    ALTER TABLE messages ADD COLUMN moving_to TEXT;
    ALTER TABLE messages ADD COLUMN moving_since INTEGER;
    ALTER TABLE messages ADD COLUMN log TEXT;
    CREATE INDEX messages_moving ON messages (moving_to) WHERE moving_to IS NOT NULL;
    DROP INDEX messages_ended;
    CREATE INDEX messages_ended ON messages (state, ended_at) WHERE state >= 2;
    """,
    # The outbox, one table a concern as above:
    #   sent           what every attempt touches           sent_payloads  gone once a message is delivered
    #   sent_ids       its key, which outlives the message: a repeat is recognised
    # to_instance is the one it is meant for, '' for any; instance (uid, pinned_at) the one that may have it.
    # sent_queued is what is read when an instance becomes ready; the rest of a queue is found in memory.
    """
    CREATE TABLE sent (
        position INTEGER PRIMARY KEY AUTOINCREMENT,
        message_id TEXT NOT NULL,
        to_cell TEXT NOT NULL,
        to_instance TEXT NOT NULL,
        message_type TEXT NOT NULL,
        priority INTEGER NOT NULL,
        ttl ANY NOT NULL,
        queued_at INTEGER NOT NULL,
        expires_at INTEGER,
        extra BLOB,
        flags INTEGER NOT NULL,
        state INTEGER NOT NULL DEFAULT 0,
        instance TEXT,
        uid TEXT,
        pinned_at INTEGER,
        attempts INTEGER NOT NULL DEFAULT 0,
        attempted_at INTEGER,
        target_url TEXT,
        code TEXT,
        error TEXT,
        ended_at INTEGER
    ) STRICT;
    CREATE INDEX sent_queued ON sent (to_cell, priority, position, to_instance) WHERE state = 0;
    CREATE INDEX sent_expiring ON sent (expires_at) WHERE state = 0 AND expires_at IS NOT NULL;
    CREATE INDEX sent_ended ON sent (state, ended_at) WHERE state >= 1;
    CREATE TABLE sent_payloads (position INTEGER PRIMARY KEY, payload BLOB NOT NULL) STRICT;
    CREATE TABLE sent_ids (
        position INTEGER PRIMARY KEY,
        key BLOB NOT NULL UNIQUE,
        fingerprint BLOB NOT NULL,
        queued_at INTEGER NOT NULL
    ) STRICT;
    """,
)
VERSION = len(MIGRATIONS)


def create(connection: apsw.Connection) -> None:
    """Make an empty file an inbox of the current version."""
    connection.execute("PRAGMA page_size = 4096")
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    migrate(connection)


def version(connection: apsw.Connection) -> int:
    """Return the schema version of an open file."""
    return int(connection.pragma("user_version"))


def migrate(connection: apsw.Connection) -> None:
    """Bring the file to the current version, each step in a transaction of its own."""
    for number in range(version(connection), VERSION):
        with connection:
            connection.execute(MIGRATIONS[number])
            connection.execute(f"PRAGMA user_version = {number + 1}")
