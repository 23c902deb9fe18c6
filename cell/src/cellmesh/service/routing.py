"""Decisions about delivery, apart from all I/O: which instance, and what an answer means."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from enum import Enum

import msgspec

from cellmesh.protocol.peers import Peer
from cellmesh.protocol.problems import CODES
from cellmesh.transport.link import Receipt


class Meaning(Enum):
    """What the answer of an instance says about a message."""

    ACKNOWLEDGED = "acknowledged"
    #: Not there and nothing stored: the address is another's now. Look the receiver up again.
    MISDIRECTED = "misdirected"
    #: Nothing stored, and the instance is going: wait for another or for its return.
    DRAINING = "draining"
    #: Nothing stored, and the instance has no room: another may.
    FULL = "full"
    #: Refused for good: no retry helps.
    REFUSED = "refused"
    #: An error that proves nothing.
    FAILED = "failed"


class _Body(msgspec.Struct):
    acknowledged: bool | None = None
    code: str | None = None
    error: str | None = None


class _Later(msgspec.Struct):
    retry_after: float | None = None


_decode = msgspec.json.Decoder(_Body).decode
_decode_later = msgspec.json.Decoder(_Later).decode


def read_answer(status: int, body: bytes) -> tuple[Meaning, str, str]:
    """Return what an answer means, with its error code and text if it has any.

    Only the answers named in the contract prove that nothing was stored (design: retries and instances);
    a 503 does so only if it says that the instance is draining. A 404 or 405 without a code of ours is that
    of a program that is no cell, and knows no messages: it has the address now.
    """
    try:
        said = _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        said = None
    code = (said and said.code) or ""
    error = ((said and said.error) or "")[:300]
    if 200 <= status < 300:
        if said is None:
            return Meaning.FAILED, "bad_answer", "it answered success without a JSON object"
        if said.acknowledged is False:
            return Meaning.FAILED, "bad_answer", "it answered success, but did not acknowledge"
        return Meaning.ACKNOWLEDGED, code, error
    if status == 421 or (status in {404, 405} and code not in CODES):
        return Meaning.MISDIRECTED, code, error
    if status == 503 and code == "draining":
        return Meaning.DRAINING, code, error
    if status in {429, 507}:
        return Meaning.FULL, code, error
    if 400 <= status < 500:
        return Meaning.REFUSED, code, error
    return Meaning.FAILED, code, error


def retry_after(receipt: Receipt) -> float | None:
    """Return in how many seconds an instance wants to be asked again, 1 to 60; None if it does not say."""
    if receipt.retry_after is not None:
        said = float(receipt.retry_after) if receipt.retry_after.isdecimal() else None  # not a date
    else:
        try:
            said = _decode_later(receipt.body).retry_after
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
    return None if said is None else min(max(said, 1.0), 60.0)


def rendezvous(key: str, peers: Sequence[Peer]) -> Peer:
    """Return the instance a key belongs to: the same for as long as the instances are the same.

    Rendezvous (highest random weight) hashing: an instance that comes or goes moves only its own keys.
    """
    return max(peers, key=lambda peer: hashlib.blake2b(f"{peer.key}\0{key}".encode(), digest_size=8).digest())
