"""One message on its way, and what is said when it does not arrive."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from cellmesh.discovery.directory import Entry
from cellmesh.protocol.messages import CellMessage, encode
from cellmesh.protocol.peers import Peer
from cellmesh.protocol.problems import Problem
from cellmesh.protocol.sends import DEFAULT_TIMEOUT, SendRequest
from cellmesh.service.reply import Reply
from cellmesh.service.routing import read_answer, retry_after
from cellmesh.transport.link import Receipt

#: Pause before the first retry, seconds; it doubles from there.
MIN_PAUSE = 0.05


class Letter:
    """One message on its way, and what is known of it so far."""

    __slots__ = (
        "deadline",
        "entry",
        "full",
        "home",
        "last",
        "lost",
        "message",
        "pause",
        "peer",
        "pinned",
        "placed",
        "receipt",
        "request",
        "started",
        "to_cell",
        "to_instance",
        "url",
        "waited",
    )

    def __init__(self, request: SendRequest, message: CellMessage, now: float) -> None:
        self.request = request
        self.message = message
        self.to_cell = message.to_cell or ""
        #: The only instance it may go to.
        self.to_instance = request.to_instance
        #: The instance a reply is for: it goes to another only while that one is not expected.
        self.home: str | None = None
        #: What is known of its receiver already; for the first attempt.
        self.entry: Entry | None = None
        self.started = now
        self.deadline = now + (request.timeout or DEFAULT_TIMEOUT)
        #: Whether the instance is chosen by the message, so that a retry of the caller finds it again.
        self.placed = request.conversation_id or request.message_id
        #: The instance that may have it; no other may be tried.
        self.pinned: str | None = None
        self.lost = 0
        #: Whether there was no instance to try for a while.
        self.waited = False
        #: What instances answered that had no room.
        self.full: dict[str, Receipt] = {}
        self.last: Receipt | None = None
        #: The acknowledgement.
        self.receipt: Receipt | None = None
        self.peer: Peer | None = None
        self.url: str | None = None
        self.pause = MIN_PAUSE

    @property
    def repeated(self) -> bool:
        """Whether the receiver had it before: the acknowledgement says so."""
        try:
            return self.receipt is not None and _read_said(self.receipt.body).duplicate
        except msgspec.DecodeError:
            return False


class _Said(msgspec.Struct):
    duplicate: bool = False


_read_said = msgspec.json.Decoder(_Said).decode


def out_of_time(letter: Letter, now: float) -> Problem:
    """Return the problem of a message whose time is over: what it was waiting for, and whether it may be there."""
    waited = f"within {now - letter.started:.1f} s"
    last = letter.last
    if letter.pinned is not None:
        return Problem("timeout", f"no answer from {letter.url} {waited}; it may have the message")
    if last is not None and last.status == 0:
        return Problem("unreachable", f"{letter.url}: {last.body.decode()} ({waited})", retry_after=1)
    answered = f"; {letter.url} answered {last.status}" if last is not None else ""
    # One that became ready at the last moment, too late for the message to leave, was not ready in time.
    if letter.peer is None or letter.waited or last is not None:
        return Problem(
            "no_ready_instance",
            f"to_cell: no instance of {letter.to_cell!r} is ready {waited}{answered}",
            field="to_cell",
            retry_after=1,
        )
    return Problem("timeout", f"the message did not get its turn for {letter.url} {waited}", retry_after=1)


def stopping(letter: Letter) -> Problem:
    """Return the problem of a message that was on its way when this instance had to end."""
    if letter.receipt is not None:
        return no_reply(letter, "before this instance had to stop")
    if letter.pinned is not None:
        return Problem(
            "outcome_unknown", f"this instance stops and {letter.url} has not answered; it may have the message"
        )
    return Problem("draining", "this instance stops and the message has not left; ask another one", retry_after=1)


def no_reply(letter: Letter, when: str) -> Problem:
    """Return the problem of a message that was delivered and not replied to."""
    return Problem(
        "reply_timeout",
        f"no reply from {letter.to_cell} {when}; the message is delivered, and a reply that still comes will be "
        "among the messages of this cell",
        extra={"delivered": True},
    )


def target_problem(letter: Letter, receipt: Receipt) -> Problem:
    """Return the problem that passes a target's refusal on, with the target's own status."""
    _, code, error = read_answer(receipt.status, receipt.body)
    return TargetProblem(receipt, code, error or f"{letter.url} answered {receipt.status}")


def failed(letter: Letter, problem: Problem) -> Reply:
    """Return the answer to a failed send: what happened, where, and whether it may have arrived."""
    status, headers = problem.http_status, tuple(problem.headers())
    maybe, origin = letter.pinned is not None or letter.receipt is not None, "self"
    body = problem.body()
    if isinstance(problem, TargetProblem):
        receipt, origin = problem.receipt, "target"
        status = receipt.status if 400 <= receipt.status < 600 else 502
        maybe = maybe or (not 400 <= receipt.status < 500 and receipt.status != 507)
        later = retry_after(receipt)
        if later is None and status == 429:
            later = 1.0
        if later is not None:
            # What the target said in an answer to several, or in a header: a caller finds it in both places.
            body["retry_after"] = math.ceil(later)
        headers = ((b"retry-after", b"%d" % math.ceil(later)),) if later is not None else ()
        response = _json_object(receipt.body)
        if response is not None:
            body["response"] = response
    body |= {
        "message_id": letter.message.message_id,
        "to_cell": letter.to_cell,
        "origin": origin,
        "maybe_delivered": maybe,
    }
    if letter.url is not None:
        body["target_url"] = letter.url
    return Reply(status, encode(body), headers)


def not_begun(problem: Problem, body: bytes = b"") -> Reply:
    """Return the answer to a send that was refused before there was a message."""
    answer = problem.body() | {"message_id": None, "to_cell": None, "origin": "self", "maybe_delivered": False}
    for name, value in (_json_object(body) or {}).items():
        if name in {"message_id", "to_cell"} and isinstance(value, str):
            answer[name] = value[:256]
    return Reply(problem.http_status, encode(answer), tuple(problem.headers()))


class TargetProblem(Problem):
    """A refusal of the target, passed on."""

    def __init__(self, receipt: Receipt, code: str, error: str) -> None:
        super().__init__("target_error", error)
        self.receipt = receipt
        if code:
            self.code = code

    @property
    def http_status(self) -> int:
        """The target's own status."""
        return self.receipt.status


def _json_object(text: bytes) -> dict[str, Any] | None:
    try:
        value = msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
