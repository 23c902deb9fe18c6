"""The constrained types that fields of the wire are made of: each bound stands here once."""

from __future__ import annotations

import re
from datetime import datetime
from enum import StrEnum
from typing import Annotated

import msgspec

from cellmesh.protocol.problems import invalid

#: Characters and length of a cell's name on the wire (design: discovery).
CELL_ID_PATTERN = r"^[A-Za-z0-9_-]{1,63}$"
MAX_ID = 256
#: Longest ``ttl`` and ``timeout``-like duration on the wire: ten years, in seconds.
MAX_SECONDS = 315_360_000
DEFAULT_TTL = 60
DEFAULT_TYPE = "general"

CellId = Annotated[str, msgspec.Meta(pattern=CELL_ID_PATTERN, description="A cell's name.")]
MessageId = Annotated[
    str,
    msgspec.Meta(min_length=1, max_length=MAX_ID, description="The sender's id of a message; a retry repeats it."),
]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID)]
MessageType = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=MAX_ID,
        description="Open vocabulary; sync, query, command and event are the standard four.",
    ),
]
Timestamp = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=64,
        description="ISO 8601; naive means UTC; information only.",
        extra_json_schema={"format": "date-time"},
    ),
]
TraceState = Annotated[str, msgspec.Meta(max_length=1024)]
Seconds = Annotated[int, msgspec.Meta(ge=0, le=MAX_SECONDS)] | Annotated[float, msgspec.Meta(ge=0, le=MAX_SECONDS)]
#: Seconds from receipt until the message expires; 0: never.
Ttl = Seconds
_NOT_BEFORE = msgspec.Meta(
    ge=0,
    le=MAX_SECONDS,
    description="Seconds from receipt, on the receiver's clock, before which it is not handed out.",
)
NotBefore = Annotated[int, _NOT_BEFORE] | Annotated[float, _NOT_BEFORE]
ForInstance = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=MAX_ID,
        description="The instance a reply is meant for; another one of its cell keeps it and passes it on.",
    ),
]
Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]

_CELL_ID = re.compile(CELL_ID_PATTERN)


class Priority(StrEnum):
    """Priority of a message; within an inbox higher ones are handed out first."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"
    CRITICAL = "critical"


def is_cell_id(value: str) -> bool:
    """Tell whether a string can be a cell's name."""
    return _CELL_ID.fullmatch(value) is not None


def check_timestamp(field: str, value: str) -> None:
    """Check that a string is an ISO 8601 date and time (or date).

    Raises:
        Problem: ``invalid_field`` naming ``field``.

    """
    try:
        datetime.fromisoformat(value)
    except ValueError:
        raise invalid(field, "not an ISO 8601 time; send for example 2026-01-31T12:00:00Z") from None
