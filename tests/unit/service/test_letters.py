"""What is said of a message whose time is over."""

import pytest
from msgspec import Raw

from cellmesh.protocol.messages import CellMessage
from cellmesh.protocol.peers import Peer
from cellmesh.protocol.sends import SendRequest
from cellmesh.service.letters import Letter, out_of_time
from cellmesh.transport.link import Receipt


def letter(**known: object) -> Letter:
    """Return a message to pure of which this is known."""
    made = Letter(
        SendRequest(to_cell="pure"),
        CellMessage(message_id="m", from_cell="alpha", to_cell="pure", payload=Raw(b"{}")),
        0.0,
    )
    for name, value in known.items():
        setattr(made, name, value)
    return made


PURE = Peer(cell_id="pure", port=1, ip="127.0.0.1")


@pytest.mark.parametrize(
    ("known", "code"),
    [
        ({}, "no_ready_instance"),
        ({"waited": True}, "no_ready_instance"),
        ({"waited": True, "peer": PURE}, "no_ready_instance"),
        ({"peer": PURE}, "timeout"),
        ({"peer": PURE, "last": Receipt(503, b"{}")}, "no_ready_instance"),
        ({"peer": PURE, "last": Receipt(0, b"refused")}, "unreachable"),
        ({"peer": PURE, "waited": True, "pinned": "pure-0"}, "timeout"),
    ],
)
def test_the_end_of_the_time_says_what_was_waited_for(known: dict[str, object], code: str) -> None:
    """Expect an instance that came too late to count as none, and one that may have the message to be named."""
    assert out_of_time(letter(**known), 10.0).code == code


def test_the_last_answer_is_told() -> None:
    """Expect what has the address now to be found by it."""
    text = out_of_time(letter(peer=PURE, last=Receipt(404, b"<html>"), url="http://h:1/message"), 10.0).message
    assert text.endswith("; http://h:1/message answered 404")
