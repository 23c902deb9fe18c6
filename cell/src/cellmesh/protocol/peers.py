"""Peers: who is where, as discovery tells it and as cells register."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from cellmesh.protocol.fields import CellId, Name, Port

#: Seconds between two heartbeats of a registered cell, and the silence after which it is gone.
HEARTBEAT_INTERVAL = 5.0
EXPIRY = 15.0


class Peer(msgspec.Struct, omit_defaults=True, kw_only=True):
    """One instance of a cell: the fields that have a meaning here.

    A registration may bring any others; discovery keeps them and gives them back.
    """

    cell_id: CellId
    port: Port
    ip: Name | None = None
    hostname: Name | None = None
    type: str | None = None
    branch: str | None = None
    services: list[str] | None = None
    last_seen: str | None = None
    namespace: Name | None = None
    instance: Name | None = None
    uid: Name | None = None
    source: Literal["pod", "registered"] | None = None
    durability: Literal["volume", "ephemeral"] | None = None

    @property
    def host(self) -> str:
        """Address or name to connect to; ``ip`` may hold a name, resolved by whoever connects."""
        return self.ip or self.hostname or ""

    @property
    def key(self) -> str:
        """What tells this instance of its cell from the others: its instance name, else the cell's name."""
        return self.instance or self.cell_id

    @property
    def url(self) -> str:
        """Base URL of the instance."""
        host = self.host
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


class PeerRegistration(Peer, omit_defaults=True, kw_only=True):
    """What an instance of a cell registers: itself, and how many instances its cell should have, if it knows.

    An instance whose ordinal is below that number and that is not there is expected to come back.
    """

    replicas: Annotated[int, msgspec.Meta(ge=0, le=1000)] | None = None


class Heartbeat(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A sign of life of a registered cell; without ``instance`` the cell's name is the key."""

    cell_id: CellId
    instance: Name | None = None


class PeersAnswer(msgspec.Struct, kw_only=True):
    """What a cell reads of discovery's ``GET /peers``; all but ``peers`` may be absent in plain servers."""

    peers: list[dict[str, Any]]
    version: str | None = None
    known: bool | None = None
    settled: bool | None = None
    available_cells: list[str] | None = None
    replicas: int | None = None
