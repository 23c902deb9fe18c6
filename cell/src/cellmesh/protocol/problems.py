"""Errors as they travel: one table of codes, one shape of body.

``Problem`` is what every layer raises when a request cannot be served; the API turns it into an HTTP
answer. The code is stable and meant for programs, the text for people: it names the field, what is
wrong with its value and what to do.
"""

from __future__ import annotations

from typing import Any

import msgspec

#: Every error code with its HTTP status. The one place where a code is defined.
CODES: dict[str, int] = {
    "malformed_json": 400,
    "bad_request": 400,
    "forbidden_host": 403,
    "forbidden_origin": 403,
    "not_found": 404,
    "unknown_cell": 404,
    "unknown_message": 404,
    "no_receivers": 404,
    "unknown_registration": 404,
    "method_not_allowed": 405,
    "request_timeout": 408,
    "id_conflict": 409,
    "name_taken": 409,
    "lease_lost": 409,
    "not_dead": 409,
    "not_queued": 409,
    "not_ended": 409,
    "cancelled": 409,
    "body_too_large": 413,
    "unsupported_media_type": 415,
    "misdirected": 421,
    "invalid_field": 422,
    "inbox_full": 429,
    "link_full": 429,
    "outbox_full": 429,
    "too_many_registrations": 429,
    "internal": 500,
    "unreachable": 502,
    "bad_answer": 502,
    "target_error": 502,
    "discovery_unavailable": 503,
    "broken": 503,
    "draining": 503,
    "no_ready_instance": 503,
    "not_ready": 503,
    "timeout": 504,
    "outcome_unknown": 504,
    "reply_timeout": 504,
    "disk_full": 507,
}


class ErrorBody(msgspec.Struct, omit_defaults=True):
    """The JSON body of every error."""

    status: str
    error: str
    code: str
    field: str | None = None
    retry_after: int | None = None


class Problem(Exception):  # noqa: N818 - the field's word (RFC 9457), and it is an answer as much as an error
    """A request that cannot be served, with the HTTP answer that says so.

    Args:
        code: a key of ``CODES``; gives the HTTP status.
        message: for people: what is wrong and what to do about it.
        field: the offending field of the request, where there is one.
        retry_after: seconds for the ``Retry-After`` header, where a retry makes sense.
        extra: further members of the body (for example ``available_cells``).

    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        field: str | None = None,
        retry_after: int | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field
        self.retry_after = retry_after
        self.extra = extra or {}

    @property
    def http_status(self) -> int:
        """The HTTP status that goes with the code."""
        return CODES[self.code]

    def body(self) -> dict[str, Any]:
        """Return the JSON body as a dict: ``status``, ``error``, ``code``, perhaps ``field``, and extras."""
        body: dict[str, Any] = {"status": "error", "error": self.message, "code": self.code}
        if self.field is not None:
            body["field"] = self.field
        if self.retry_after is not None:
            # Also here: an item of a batch has no headers.
            body["retry_after"] = self.retry_after
        body.update(self.extra)
        return body

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return the headers that go with the answer, besides those of any JSON body."""
        if self.retry_after is None:
            return []
        return [(b"retry-after", str(self.retry_after).encode())]


def invalid(field: str, fault: str) -> Problem:
    """Return the ``invalid_field`` problem for one field; ``fault`` says what is wrong and what is allowed."""
    return Problem("invalid_field", f"{field}: {fault}", field=field)
