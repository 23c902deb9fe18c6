"""What an endpoint answers, before it becomes HTTP."""

from __future__ import annotations

from typing import NamedTuple

from cellmesh.protocol.messages import encode
from cellmesh.protocol.problems import Problem

Headers = tuple[tuple[bytes, bytes], ...]


class Reply(NamedTuple):
    """Status, JSON body and headers besides the content's type and length."""

    status: int
    body: bytes
    headers: Headers = ()


def refuse(problem: Problem) -> Reply:
    """Return the reply that says a problem."""
    return Reply(problem.http_status, encode(problem.body()), tuple(problem.headers()))
