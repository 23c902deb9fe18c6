"""Messages to a program of the user's, in whatever language: each is POSTed to its HTTP server."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from urllib.parse import quote, urlsplit

from cellmesh.protocol.decoding import check_object
from cellmesh.protocol.messages import encode
from cellmesh.protocol.problems import Problem
from cellmesh.protocol.receipts import StoredMessage
from cellmesh.service.outcomes import Backoff, Done, Failed, Later, Outcome, Rejected
from cellmesh.transport.http1 import Answer, Lost, NotSent, Pool

log = logging.getLogger(__name__)

#: Longest wait for a connection, seconds.
CONNECT_TIMEOUT = 5.0
#: Pauses while there is no connection.
AWAY = Backoff(first=0.2, most=5.0)
#: Bounds of a ``Retry-After``, seconds.
LEAST_WAIT, MOST_WAIT = 1.0, 3600.0

#: What a header may hold of an id or a name; the rest is percent-encoded, ``%`` itself too.
_VISIBLE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) != "%")
_PRINTABLE = re.compile(r"[!-~]([ -~]*[!-~])?")


class Push:
    """The HTTP server that handles messages, as a handler.

    Args:
        url: where to POST to, ``http://`` and perhaps with path and query.
        timeout: how long an answer may take, seconds.
        concurrency: messages under way at the same time at most.
        types: of the messages that are pushed; empty: all.

    """

    def __init__(self, url: str, *, timeout: float, concurrency: int, types: Sequence[str]) -> None:
        parts = urlsplit(url)
        self._url = url
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._pool = Pool(parts.hostname or "", parts.port or 80)
        self._timeout = timeout
        #: Attempts in a row without a connection.
        self._away = 0
        self._odd = False
        self.concurrency = concurrency
        self.types: Sequence[str] | None = list(types) or None

    def close(self) -> None:
        """Close the idle connections."""
        self._pool.close()

    async def handle(self, message: StoredMessage) -> Outcome:
        """POST one message; return what the answer says.

        Without a connection the message has not been delivered, so nothing is counted: the program may not be
        up yet, or not again.
        """
        head = self._pool.prepare("POST", self._path, headers(message))
        connect = min(CONNECT_TIMEOUT, self._timeout)
        try:
            answer = await self._pool.request(head, body_of(message), connect_timeout=connect, timeout=self._timeout)
        except NotSent as error:
            return self._is_away(str(error))
        except Lost as error:
            self._is_there()
            return Failed(str(error))
        self._is_there()
        outcome = read(answer)
        if isinstance(outcome, Done) and outcome.reply is None and answer.body.strip() and not self._odd:
            self._odd = True
            log.warning("%s: an answer that is no JSON object is not sent as a reply; said once", self._url)
        return outcome

    def _is_away(self, why: str) -> Later:
        self._away += 1
        if self._away == 1:
            log.warning("%s: %s; messages wait for it", self._url, why)
        return Later(AWAY.after(self._away), why, all=True)

    def _is_there(self) -> None:
        if self._away:
            log.info("%s: answers now", self._url)
        self._away = 0


def body_of(message: StoredMessage) -> bytes:
    """Return a message as ``GET /messages`` shows it: without the token of its lease, which is ours."""
    return encode(StoredMessage(**{name: getattr(message, name) for name in StoredMessage.__struct_fields__}))


def headers(message: StoredMessage) -> tuple[tuple[str, str], ...]:
    """Return the headers of a request that pushes a message."""
    found = [
        ("content-type", "application/json"),
        ("accept", "application/json"),
        ("user-agent", "cellmesh"),
        ("CellMesh-Message-Id", quote(message.message_id, safe=_VISIBLE)),
        ("CellMesh-From-Cell", quote(message.from_cell, safe=_VISIBLE)),
        ("CellMesh-Delivery-Count", str(message.delivery_count)),
    ]
    for name, value in (("traceparent", message.traceparent), ("tracestate", message.tracestate)):
        # Whoever sent it may have put anything there, line ends too.
        if value is not None and _PRINTABLE.fullmatch(value):
            found.append((name, value))
    return tuple(found)


def read(answer: Answer) -> Outcome:
    """Return what the answer of a handler says about the message: pure."""
    status = answer.status
    if 200 <= status < 300:
        return Done(_reply(answer.body))
    retry_after = answer.headers.get(b"retry-after")
    if status in {429, 503} and retry_after is not None:
        after = _seconds(retry_after)
        return Later(after, f"answered {status}, Retry-After {after:g} s", all=True)
    # 429 alone says "later" as well, only not when.
    if 400 <= status < 500 and status != 429:
        return Rejected(f"answered {status}")
    return Failed(f"answered {status}")


def _reply(body: bytes) -> bytes | None:
    text = body.strip()
    if not text.startswith(b"{"):
        return None
    try:
        text.decode()
        check_object("reply", text)
    except (Problem, UnicodeDecodeError):
        return None
    return text


def _seconds(retry_after: bytes) -> float:
    try:
        # A date is of another machine's clock; then it is the shortest wait.
        return min(max(float(int(retry_after)), LEAST_WAIT), MOST_WAIT)
    except ValueError:
        return LEAST_WAIT
