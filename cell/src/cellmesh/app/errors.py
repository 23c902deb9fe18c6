"""What handlers raise to say what is to become of a message, and what sending raises.

CellMeshError
├── Reject       by a handler: this message can never be handled
├── Retry        by a handler: not now
└── SendError    by ``Cell.send``, ``ask`` and ``broadcast``: what happened, and whether it may have arrived
"""

from __future__ import annotations

from cellmesh.errors import CellMeshError
from cellmesh.protocol.fields import MAX_SECONDS


class Reject(CellMeshError):  # noqa: N818 - what the handler says, not what went wrong
    """Raised by a handler: this message can never be handled. It becomes a dead letter, reason ``rejected``.

    Args:
        why: for whoever looks at dead letters. It is logged and kept with the message, so it should quote
            nothing of the payload.

    """

    def __init__(self, why: str) -> None:
        super().__init__(why)


class Retry(CellMeshError):  # noqa: N818 - as above
    """Raised by a handler: not now. The message is handed out again, which counts as no delivery.

    Args:
        after: seconds to wait, at least 0.1.
        why: for the log and the message's history.

    Raises:
        ValueError: ``after`` is negative or more than ten years.

    """

    def __init__(self, after: float, why: str = "") -> None:
        if not 0 <= after <= MAX_SECONDS:
            raise ValueError(f"after: {after} must be 0 to {MAX_SECONDS} seconds")
        super().__init__(why or f"again in {after:g} s")
        self.after = float(after)


class SendError(CellMeshError):
    """A message that was not delivered, not taken into the outbox, or not answered in time.

    Attributes:
        code: stable, for programs, for example ``unknown_cell``, ``no_ready_instance``, ``reply_timeout``.
        status: the HTTP status that goes with it.
        message_id: the message's id; None if it never became a message. Sent again with it and the same
            content, a message that has arrived already is recognised.
        to_cell: whom it was for.
        maybe_delivered: whether the receiver may have it.
        delivered: whether the receiver certainly has it, and only the answer is missing.
        retry_after: seconds after which it makes sense to try again, where that is known.

    """

    def __init__(
        self,
        error: str,
        *,
        code: str,
        status: int,
        message_id: str | None = None,
        to_cell: str | None = None,
        maybe_delivered: bool = False,
        delivered: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(error)
        self.code = code
        self.status = status
        self.message_id = message_id
        self.to_cell = to_cell
        self.maybe_delivered = maybe_delivered
        self.delivered = delivered
        self.retry_after = retry_after
