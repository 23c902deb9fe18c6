"""Decisions about delivery: what an answer means, and which instance a key belongs to."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellmesh.protocol.peers import Peer
from cellmesh.service.routing import Meaning, read_answer, rendezvous


def peers(*names: str) -> list[Peer]:
    """Return instances of these names."""
    return [Peer(cell_id="pure", ip="10.0.0.1", port=8000, instance=name) for name in names]


@pytest.mark.parametrize(
    ("status", "body", "meaning"),
    [
        (200, b'{"acknowledged":true}', Meaning.ACKNOWLEDGED),
        (200, b'{"status":"received"}', Meaning.ACKNOWLEDGED),
        (201, b"{}", Meaning.ACKNOWLEDGED),
        (200, b'{"acknowledged":false}', Meaning.FAILED),
        (200, b"", Meaning.FAILED),
        (200, b"[]", Meaning.FAILED),
        (200, b"ok", Meaning.FAILED),
        (200, b'{"acknowledged":"yes"}', Meaning.FAILED),
        (200, b"\xff", Meaning.FAILED),
        (200, b"[" * 100_000, Meaning.FAILED),
        (302, b"{}", Meaning.FAILED),
        (400, b"{}", Meaning.REFUSED),
        (404, b'{"code":"unknown_cell"}', Meaning.REFUSED),
        (404, b"", Meaning.MISDIRECTED),
        (404, b"<html>", Meaning.MISDIRECTED),
        (404, b'{"detail":"Not Found"}', Meaning.MISDIRECTED),
        (404, b'{"code":404}', Meaning.MISDIRECTED),
        (404, b'{"code":"NoSuchBucket"}', Meaning.MISDIRECTED),
        (405, b'{"code":"method_not_allowed"}', Meaning.REFUSED),
        (405, b"", Meaning.MISDIRECTED),
        (410, b"", Meaning.REFUSED),
        (409, b'{"code":"id_conflict"}', Meaning.REFUSED),
        (421, b"", Meaning.MISDIRECTED),
        (429, b"", Meaning.FULL),
        (500, b"{}", Meaning.FAILED),
        (502, b"<html>", Meaning.FAILED),
        (503, b"{}", Meaning.FAILED),
        (503, b'{"code":"draining"}', Meaning.DRAINING),
        (507, b"{}", Meaning.FULL),
    ],
)
def test_an_answer_means_what_the_contract_says(status: int, body: bytes, meaning: Meaning) -> None:
    """Expect only the answers named there to prove that nothing was stored."""
    assert read_answer(status, body)[0] is meaning


def test_a_refusal_brings_its_code_and_text() -> None:
    """Expect both, the text cut to a reasonable length."""
    _, code, error = read_answer(422, b'{"code":"invalid_field","error":"' + b"x" * 1000 + b'"}')
    assert (code, error) == ("invalid_field", "x" * 300)


@given(status=st.integers(100, 999), body=st.binary(max_size=60))
def test_any_answer_has_a_meaning(status: int, body: bytes) -> None:
    """Expect no exception, and success only for a 2xx."""
    meaning, _, _ = read_answer(status, body)
    assert meaning is not Meaning.ACKNOWLEDGED or 200 <= status < 300


@given(key=st.text(max_size=20), names=st.lists(st.text("abc-019", min_size=1, max_size=8), min_size=1, unique=True))
def test_a_key_belongs_to_one_instance_whatever_their_order(key: str, names: list[str]) -> None:
    """Expect the same instance from any list of the same instances."""
    assert rendezvous(key, peers(*names)) == rendezvous(key, peers(*reversed(names)))


@given(key=st.text(max_size=20), names=st.lists(st.text("abc-019", min_size=1, max_size=8), min_size=2, unique=True))
def test_an_instance_that_goes_moves_only_its_own_keys(key: str, names: list[str]) -> None:
    """Expect a key of another instance to stay there."""
    chosen = rendezvous(key, peers(*names))
    gone = next(name for name in names if name != chosen.instance)
    assert rendezvous(key, peers(*(name for name in names if name != gone))) == chosen


def test_an_instance_keeps_its_keys_at_a_new_address() -> None:
    """Expect a restart elsewhere to change nothing."""
    moved = peers("pure-0", "pure-1", "pure-2")
    for number, peer in enumerate(moved):
        peer.ip, peer.port, peer.uid = f"10.9.9.{number}", 9000 + number, f"new-{number}"
    for key in map(str, range(200)):
        assert rendezvous(key, moved).instance == rendezvous(key, peers("pure-0", "pure-1", "pure-2")).instance


def test_keys_are_spread_over_instances() -> None:
    """Expect each of four to get a fair share of 4000."""
    shares = Counter(rendezvous(str(n), peers("pure-0", "pure-1", "pure-2", "pure-3")).instance for n in range(4000))
    assert min(shares.values()) > 800
