"""What an instance that ends says of itself: the messages that nobody has taken over.

It is the termination message of its container, which Kubernetes keeps in the pod's status; so a pod that may not use
the cluster's API can still tell the reconciler.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

Count = Annotated[int, msgspec.Meta(ge=0)]


class LastWords(msgspec.Struct, frozen=True, kw_only=True):
    """What is left when an instance has ended: messages received and not handled, messages not sent yet."""

    remaining: Count
    unsent: Count


_decode = msgspec.json.Decoder(LastWords).decode


def read_last_words(text: str) -> LastWords | None:
    """Return what a termination message says; None for one that a cell has not written."""
    try:
        return _decode(text)
    except (msgspec.MsgspecError, UnicodeError):
        return None
