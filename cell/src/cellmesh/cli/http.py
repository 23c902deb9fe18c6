"""JSON over HTTP for the commands: one request, one answer, errors that say what to do.

The standard library's client, used directly: no proxy of the environment comes between this machine and
its own cells, and an error tells whether the request had left.
"""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from cellmesh.errors import CellMeshError

#: Longest answer read; a page of messages is far below it.
MAX_ANSWER = 64 * 1024 * 1024


class Unreachable(CellMeshError):  # noqa: N818 - the state it is in
    """No usable answer.

    Args:
        message: for the user.
        sent: whether the request may have arrived.

    """

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


@dataclass(frozen=True)
class Answer:
    """An answer with its JSON decoded."""

    status: int
    body: Any

    @property
    def error(self) -> str:
        """What an error answer says of itself."""
        return str(self.body["error"]) if isinstance(self.body, dict) and "error" in self.body else ""


def get(url: str, *, who: str, timeout: float = 5.0) -> Any:
    """Return the JSON of a GET that succeeds.

    Args:
        url: where.
        who: what is asked, for messages: ``discovery``, ``alpha-0``.
        timeout: seconds for each step of the exchange.

    Raises:
        Unreachable: no answer, or not a JSON object with status 200.

    """
    answer = request("GET", url, who=who, timeout=timeout)
    if answer.status != 200 or not isinstance(answer.body, dict):
        raise Unreachable(f"{who} at {base_of(url)} answered {answer.status} {answer.error}".rstrip(), sent=True)
    return answer.body


def request(method: str, url: str, *, who: str, body: Any = None, timeout: float = 5.0) -> Answer:
    """Make one request and return its answer, whatever its status.

    Raises:
        Unreachable: no connection, no answer in time, or one that is not JSON.

    """
    connection, path = _connection(url, who, timeout)
    sent = False
    try:
        connection.connect()
        sent = True
        encoded = None if body is None else json.dumps(body).encode()
        connection.request(method, path, encoded, {"Content-Type": "application/json"} if encoded is not None else {})
        response = connection.getresponse()
        text = response.read(MAX_ANSWER + 1)
    except TimeoutError:
        raise Unreachable(f"{who} at {base_of(url)} did not answer within {timeout:g} s", sent=sent) from None
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"cannot reach {who} at {base_of(url)} ({_reason(error)}){_hint(who)}", sent=sent) from None
    finally:
        connection.close()
    if len(text) > MAX_ANSWER:
        raise Unreachable(f"{who} at {base_of(url)} answered more than {MAX_ANSWER} bytes", sent=True)
    try:
        return Answer(response.status, json.loads(text) if text else None)
    except ValueError:
        raise Unreachable(
            f"{who} at {base_of(url)} answered {response.status}, but not JSON; is something else listening there?",
            sent=True,
        ) from None


def probe(url: str, *, timeout: float = 2.0) -> Answer | None:
    """Return the answer of a GET, or None if there is none."""
    try:
        return request("GET", url, who="", timeout=timeout)
    except Unreachable:
        return None


def base_of(url: str) -> str:
    """Return scheme, host and port of a URL."""
    return "/".join(url.split("/", 3)[:3])


def _connection(url: str, who: str, timeout: float) -> tuple[http.client.HTTPConnection, str]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or 80
    except ValueError:
        host, port = None, 0
    if host is None or parts.scheme != "http":
        raise Unreachable(f"{url!r}, the address of {who}, is no http:// URL", sent=False)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return http.client.HTTPConnection(host, port, timeout=timeout), path


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) or type(error).__name__


def _hint(who: str) -> str:
    return "; is `cellmesh up` running? Else say where discovery is with --discovery" if who == "discovery" else ""
