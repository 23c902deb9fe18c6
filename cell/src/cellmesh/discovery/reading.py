"""Reading discovery's answers, those of plain servers too."""

from __future__ import annotations

from typing import Any

import msgspec

from cellmesh.protocol.peers import Peer, PeersAnswer
from cellmesh.transport.http1 import Answer

#: Longest time for an answer that need not be waited for, seconds.
ASK_TIMEOUT = 5.0

_decode = msgspec.json.Decoder(PeersAnswer).decode


class DiscoveryUnavailable(Exception):  # noqa: N818 - a state
    """Discovery does not answer and nothing is known."""


def read_answer(answer: Answer) -> PeersAnswer:
    """Return what an answer to ``GET /peers`` says.

    Raises:
        DiscoveryUnavailable: nothing that can be used.

    """
    if answer.status != 200:
        raise DiscoveryUnavailable(f"answered {answer.status}")
    try:
        return _decode(answer.body)
    except msgspec.MsgspecError as error:
        raise DiscoveryUnavailable(f"answer cannot be read: {error}") from None


def read_peers(answer: PeersAnswer) -> list[Peer]:
    """Return the peers of an answer that can be connected to."""
    return [peer for peer in map(_peer, answer.peers) if peer is not None]


def _peer(fields: dict[str, Any]) -> Peer | None:
    """Read a peer leniently: of a plain server's, name, address and port are enough."""
    wanted = {name: fields[name] for name in Peer.__struct_fields__ if fields.get(name) is not None}
    try:
        peer = msgspec.convert(wanted, Peer)
    except msgspec.ValidationError:
        basic = {name: wanted[name] for name in ("cell_id", "ip", "hostname", "port") if name in wanted}
        try:
            peer = msgspec.convert(basic, Peer, strict=False)
        except msgspec.ValidationError:
            return None
    return peer if peer.host else None
