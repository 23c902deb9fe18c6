"""What senders, consumers and readers of inboxes saw, written down outside the system, line by line.

A line is one JSON object; ``record`` names its class here, the rest are the fields of that class. Every writer has
files of its own, which are only ever appended to, each line by one write to the kernel: a writer that is killed
leaves whole lines, and at most its last one torn. Times are seconds since the epoch on the writers' machine, whose
clock no fault touches.

A message is recognised by the number and the seal inside its payload (``payload``), never by its id: an id that is
unique in a table proves nothing about what was stored under it.

This module needs nothing but Python, so that the same writers can run inside a cluster.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

_life = itertools.count()


class LedgerError(Exception):
    """A ledger cannot be read: a line in the middle of a file is no record."""


def seal(run: str, number: int) -> str:
    """Return the hash that the message of this run and number carries in its payload."""
    return hashlib.sha256(f"{run} {number}".encode()).hexdigest()


def payload(run: str, number: int, **more: Any) -> dict[str, Any]:
    """Return the payload of a message, with its identity inside; ``more`` goes along."""
    return {"run": run, "number": number, "seal": seal(run, number)} | more


@dataclass(frozen=True, kw_only=True)
class Record:
    """One line of a ledger."""

    def line(self) -> bytes:
        """Return the line, with its end; fields that have their default are left out."""
        fields = {"record": type(self).__name__.lower()}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                fields[field.name] = value
        return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


@dataclass(frozen=True, kw_only=True)
class Begun(Record):
    """A message, written down before it is sent for the first time.

    Attributes:
        number: its number in this run.
        message_id: under which it is sent, every time.
        at: when.
        to_cell: the cell it is for.
        to_namespace: the mesh of that cell.
        to_instance: the one instance it is for; empty: any.
        queued: sent with ``"mode": "queued"``.
        priority: its priority.
        ttl: its time to live, seconds; 0: for ever.
        not_before: seconds from receipt in which nobody may be handed it.
        conversation: its ``conversation_id``.
        deadly: its handling kills whoever handles it.

    """

    number: int
    message_id: str
    at: float
    to_cell: str
    to_namespace: str = "default"
    to_instance: str = ""
    queued: bool = False
    priority: str = "normal"
    ttl: float = 0.0
    not_before: float = 0.0
    conversation: str = ""
    deadly: bool = False


@dataclass(frozen=True, kw_only=True)
class Attempt(Record):
    """One ``POST /send`` and what came of it.

    Attributes:
        number: of the message.
        began, ended: when it was sent, and answered or given up.
        entry: the instance that was asked to send it.
        status: of the answer; 0: none came.
        code: the answer's error code, or the kind of error where none came.
        acknowledged: whether the answer says that the receiver has it on disk (direct), or the sender (queued).
        instance: the receiver's instance that has acknowledged, or that may have it.
        maybe_delivered: what the answer says of that; None: nothing.
        duplicate: whether the answer says that it was known already.

    """

    number: int
    began: float
    ended: float
    entry: str
    status: int
    code: str = ""
    acknowledged: bool = False
    instance: str = ""
    maybe_delivered: bool | None = None
    duplicate: bool = False

    @property
    def unclear(self) -> bool:
        """Whether it may have stored the message though it was not acknowledged."""
        return not self.acknowledged and self.maybe_delivered is not False


@dataclass(frozen=True, kw_only=True)
class Outcome(Record):
    """What the sending instance says of a queued message (``GET /sent/{message_id}``).

    Attributes:
        number: of the message.
        at: when it had said so.
        entry: the instance that was asked.
        state: ``queued``, ``delivered``, ``expired``, ``unconfirmed``, ``dead`` or ``cancelled``; empty: it knows
            nothing of the message.
        code: the error code of its last attempt, or why it is dead.
        instance: the receiver's instance that has it.
        attempts: how many there were.

    """

    number: int
    at: float
    entry: str
    state: str
    code: str = ""
    instance: str = ""
    attempts: int = 0


@dataclass(frozen=True, kw_only=True)
class Handed(Record):
    """A message that a consumer was handed under a lease, written down before the consumer does anything with it.

    Attributes:
        consumer: this life of the consumer.
        instance: whose inbox it is from.
        seq: its position there.
        number, seal: what its payload says.
        began, ended: when the consumer asked, and was answered.
        token: of the lease.
        lease: its length, seconds.
        deliveries: the ``delivery_count`` it came with.
        inside: whether the consumer is a handler in the cell's own process, whose leases end with it.

    """

    consumer: str
    instance: str
    seq: int
    number: int
    seal: str
    began: float
    ended: float
    token: str
    lease: float
    deliveries: int = 0
    inside: bool = False


@dataclass(frozen=True, kw_only=True)
class Return(Record):
    """What a consumer asked for a message it holds; written down before (status -1) and after.

    Attributes:
        action: ``ack``, ``nack``, ``reject``, ``release`` or ``extend``.
        instance, seq, token: which lease.
        began, ended: when it asked, and was answered.
        status: -1: about to ask; 0: no answer came; else that of the item, 200 where it was done.
        code: the item's error code.
        delay: of a nack, seconds.
        lease: the new length of an extended lease, seconds.

    """

    action: str
    instance: str
    seq: int
    token: str
    began: float
    ended: float = 0.0
    status: int = -1
    code: str = ""
    delay: float = 0.0
    lease: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Gone(Record):
    """A consumer's life is over: it was killed or has ended.

    Attributes:
        consumer: which.
        at: when it was certainly over.

    """

    consumer: str
    at: float


@dataclass(frozen=True, kw_only=True)
class Found(Record):
    """A message as a reader found it in an inbox.

    Attributes:
        at: when the reader asked.
        ended: when it was answered.
        namespace, cell, instance: whose inbox.
        seq: its position.
        number, seal: what its payload says.
        state: ``pending``, ``leased``, ``consumed`` or ``dead``.
        reason: why it is dead.
        final: whether this is of the last reading of this inbox.

    """

    at: float
    cell: str
    instance: str
    seq: int
    number: int
    seal: str
    state: str
    ended: float = 0.0
    namespace: str = "default"
    reason: str = ""
    final: bool = False


@dataclass(frozen=True, kw_only=True)
class Inspected(Record):
    """The last reading of an inbox, written down when it is complete.

    Attributes:
        at: when it began.
        namespace, cell, instance: whose inbox.

    """

    at: float
    cell: str
    instance: str
    namespace: str = "default"


@dataclass(frozen=True, kw_only=True)
class Left(Record):
    """An instance that is gone, and that nobody can ask any more.

    Attributes:
        at: when it was over.
        instance: which.
        handed_over: whether it says that others have taken over all it had; else what it had is gone with it, which
            only an ephemeral one may be.
        kept: whether its inbox is on a volume, and comes back with the next instance of this name; what others have
            taken over is not in it any more.

    """

    at: float
    instance: str
    handed_over: bool = False
    kept: bool = False


@dataclass(frozen=True, kw_only=True)
class Fault(Record):
    """One fault and what was seen of it.

    Attributes:
        index: its position in the plan.
        kind: what was done.
        victim: to whom.
        began, healed: when it was done and undone; ``healed`` 0: it could not be done.
        in_flight: requests that were on their way to the victim at that moment.
        recovery: seconds from ``healed`` until something begun since then was acknowledged through the victim; -1: not
            seen.
        note: details.

    """

    index: int
    kind: str
    victim: str
    began: float
    healed: float = 0.0
    in_flight: int = 0
    recovery: float = -1.0
    note: str = ""

    @property
    def counts(self) -> bool:
        """Whether it counts: it was done while requests were on their way to its victim."""
        return self.healed > 0 and self.in_flight > 0


KINDS: Mapping[str, type[Record]] = {
    kind.__name__.lower(): kind
    for kind in (Begun, Attempt, Outcome, Handed, Return, Gone, Found, Inspected, Left, Fault)
}


class Ledger:
    """The file of one writer, in one of its lives; a context that closes it.

    Args:
        directory: of the whole ledger.
        writer: its name.

    """

    SUFFIX: ClassVar[str] = ".ledger"

    def __init__(self, directory: Path, writer: str) -> None:
        self.path = directory / f"{writer}.{os.getpid()}.{next(_life)}{self.SUFFIX}"
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o644)

    def write(self, *records: Record) -> None:
        """Append records; they are with the kernel when this returns, so a kill of the writer takes none back."""
        data = b"".join([record.line() for record in records])
        while data:
            data = data[os.write(self._file, data) :]

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def parse(text: str, name: str = "ledger") -> Iterator[Record]:
    """Read the lines of one file; a torn last line is left out.

    Args:
        text: of the file.
        name: for errors.

    Raises:
        LedgerError: another line is no record.

    """
    *lines, _torn = text.split("\n")  # what stands behind the last end of a line: its writer was killed
    for number, line in enumerate(lines, 1):
        try:
            fields = json.loads(line)
            yield KINDS[fields.pop("record")](**fields)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise LedgerError(f"{name}, line {number}: {error!r}: {line[:200]}") from None


def read(directory: Path) -> Iterator[Record]:
    """Read a whole ledger, file by file.

    Raises:
        LedgerError: a line is no record.

    """
    for path in sorted(directory.glob(f"*{Ledger.SUFFIX}")):
        yield from parse(path.read_text(), path.name)
