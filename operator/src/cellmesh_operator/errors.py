"""Errors of the operator's programs that are not an answer to a request.

OperatorError
├── SettingsError     a setting has a value that cannot be used; names it
├── ListenError       the address to listen on cannot be had; says what to do
├── AccessError       nothing says where the API server is, or how to log in; says what to do
├── ApiError          the API server refused a request: ``status``, ``reason``, ``message``, ``retry_after``
└── ConnectionLost    the API server was not reached, or fell silent (also a ``ConnectionError``)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Characters of a refusal's message that are kept; admission webhooks write what they like.
MESSAGE_LENGTH = 1024


class OperatorError(Exception):
    """Base of the errors that end a command with one line for the user."""


class SettingsError(OperatorError):
    """A setting has a value that cannot be used."""


class ListenError(OperatorError):
    """The address to listen on cannot be had."""


class AccessError(OperatorError):
    """Nothing says where the API server is, or how to log in to it."""


class ApiError(OperatorError):
    """The API server refused a request.

    Attributes:
        status: the HTTP status code; of an event in a watch: the code of its Status.
        reason: the CamelCase reason of the Status (``NotFound``, ``Conflict``, ``Invalid``), or empty.
        message: the message of the Status; empty if the body was none (it may be anything, so it is not shown).
        retry_after: seconds to wait that the server asked for, if it did.

    """

    def __init__(self, status: int, reason: str = "", message: str = "", *, retry_after: float | None = None) -> None:
        self.status = status
        self.reason = reason
        self.message = message[:MESSAGE_LENGTH]
        self.retry_after = retry_after
        super().__init__(f"{status} {reason}: {self.message}" if message else f"{status} {reason}".rstrip())

    @classmethod
    def from_status(cls, body: Any, *, status: int = 0, reason: str = "", retry_after: float | None = None) -> ApiError:
        """Return the error for a response's decoded body; anything but a Status is left out."""
        if not isinstance(body, Mapping) or body.get("kind") != "Status":
            return cls(status, reason, retry_after=retry_after)
        if retry_after is None:
            details = body.get("details")
            seconds = details.get("retryAfterSeconds") if isinstance(details, Mapping) else None
            retry_after = float(seconds) if isinstance(seconds, int) else None
        return cls(
            int(body.get("code") or status),
            str(body.get("reason") or reason),
            str(body.get("message") or ""),
            retry_after=retry_after,
        )

    @property
    def not_found(self) -> bool:
        """The object, or the whole kind, is not there."""
        return self.status == 404

    @property
    def conflict(self) -> bool:
        """Somebody else was faster, owns a field, or put another object of this name there."""
        return self.status == 409

    @property
    def gone(self) -> bool:
        """What was asked for is too old: a watch or a page must start anew."""
        return self.status == 410

    @property
    def forbidden(self) -> bool:
        """RBAC, a quota or an admission plugin said no."""
        return self.status == 403

    @property
    def invalid(self) -> bool:
        """The API server's validation refused the object."""
        return self.status in {400, 422}

    @property
    def temporary(self) -> bool:
        """The same request may succeed later without anybody changing anything."""
        return self.status in {408, 409, 410, 429} or self.status >= 500


class ConnectionLost(OperatorError, ConnectionError):  # noqa: N818 - an event, as ConnectionReset in the library
    """The API server was not reached in time, or a stream of it ended or fell silent."""
