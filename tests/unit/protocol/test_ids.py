"""Message ids that cells make."""

from __future__ import annotations

import time
import uuid

from cellmesh.service.receiving import new_id


def test_an_id_is_a_uuid_of_version_7() -> None:
    """Expect the canonical text, version and variant of RFC 9562."""
    for _ in range(1000):
        text = new_id()
        number = uuid.UUID(text)
        assert (str(number), number.version, number.variant) == (text, 7, uuid.RFC_4122)


def test_an_id_holds_the_time_it_was_made() -> None:
    """Expect its first 48 bits to be milliseconds since 1970, between before and after."""
    before = time.time_ns() // 1_000_000
    stamp = uuid.UUID(new_id()).int >> 80
    assert before <= stamp <= time.time_ns() // 1_000_000


def test_ids_grow_with_time() -> None:
    """Expect an id of a later millisecond to sort behind."""
    first = new_id()
    begun = uuid.UUID(first).int >> 80
    while (later := new_id()) and uuid.UUID(later).int >> 80 == begun:
        pass
    assert later > first


def test_ids_of_one_moment_differ() -> None:
    """Expect no two alike."""
    assert len({new_id() for _ in range(20_000)}) == 20_000
