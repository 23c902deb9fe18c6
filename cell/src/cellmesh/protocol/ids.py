"""Ids that follow from others: the same work done again gives its messages the same ids."""

from __future__ import annotations

import hashlib
import re

#: A UUID of version 7 begins with the time: neighbours in time are neighbours in an index.
_TIMED = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def derived_id(message_id: str, *parts: str) -> str:
    """Return an id that follows from a message's and from ``parts``: a UUID of version 8 (RFC 9562).

    If the message's id begins with its time, the new one begins with the same.
    """
    digest = hashlib.blake2b("\0".join((message_id, *parts)).encode(), digest_size=16).hexdigest()
    if _TIMED.fullmatch(message_id):
        digest = message_id[:8] + message_id[9:13] + digest[12:]
    variant = "89ab"[int(digest[16], 16) & 3]
    return f"{digest[:8]}-{digest[8:12]}-8{digest[13:16]}-{variant}{digest[17:20]}-{digest[20:]}"
