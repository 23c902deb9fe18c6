"""Bodies of answers.

The types serve the small answers and the OpenAPI document alike. The one answer that may hold thousands
of peers is joined from texts that exist already.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from cellmesh.protocol.peers import Peer


class Registered(msgspec.Struct, kw_only=True):
    """The answer of ``POST /register``."""

    status: Literal["registered"] = "registered"
    cell_id: str


class Beaten(msgspec.Struct, kw_only=True):
    """The answer of ``POST /heartbeat``; ``peers_count`` is the number of peers in the mesh."""

    status: Literal["ok"] = "ok"
    cell_id: str
    peers_count: int


class Deregistered(msgspec.Struct, kw_only=True):
    """The answer of ``DELETE /peer/{cell_id}``."""

    status: Literal["deregistered"] = "deregistered"
    cell_id: str


class Peers(msgspec.Struct, omit_defaults=True, kw_only=True):
    """The answer of ``GET /peers``.

    ``settled`` is false shortly after the start, until every living cell has been heard. With ``cell_id``
    there is also ``known``, true for a Cell also while no instance of it is ready; for an unknown cell the names of
    those that are there, at most 100; and, where it is known, ``replicas``: how many instances the cell should have,
    so that one of a lower ordinal that is not among the peers is coming back. With Kubernetes there is also ``age``:
    the seconds since what is told of pods and Cells was last known to be so; it grows while the API server is away.
    """

    peers: list[Peer]
    count: int
    version: str
    settled: bool
    age: float | msgspec.UnsetType = msgspec.UNSET
    known: bool | msgspec.UnsetType = msgspec.UNSET
    available_cells: list[str] | msgspec.UnsetType = msgspec.UNSET
    replicas: int | msgspec.UnsetType = msgspec.UNSET


class Mesh(msgspec.Struct):
    """One mesh: how many cells it has, and how many peers (instances of cells)."""

    namespace: str
    cells: int
    peers: int


class Meshes(msgspec.Struct):
    """The answer of ``GET /meshes``: the meshes that have any cell."""

    meshes: list[Mesh]
    count: int


class Health(msgspec.Struct, kw_only=True):
    """The answer of ``GET /health``; ``uptime`` in seconds, ``age`` as in ``GET /peers``."""

    status: Literal["healthy", "draining"]
    service: Literal["discovery"] = "discovery"
    peers: int
    meshes: int
    settled: bool
    uptime: float
    age: float | msgspec.UnsetType = msgspec.UNSET


class Probe(msgspec.Struct):
    """The answer of a probe that passes."""

    status: Literal["ok"] = "ok"


def peers_body(
    peers: list[bytes],
    version: str,
    *,
    settled: bool,
    age: float | None = None,
    known: bool | None = None,
    available: list[str] | None = None,
    replicas: int | None = None,
) -> bytes:
    """Return the JSON of ``Peers`` from that of each peer; the last three for a query of one cell."""
    tail = [b'],"count":%d,"version":"%b","settled":%b' % (len(peers), version.encode(), _bool(settled))]
    if age is not None:
        tail.append(b',"age":%b' % msgspec.json.encode(age))
    if known is not None:
        tail.append(b',"known":%b' % _bool(known))
        if not known:
            tail.append(b',"available_cells":' + msgspec.json.encode(available or []))
    if replicas is not None:
        tail.append(b',"replicas":%d' % replicas)
    return b"".join((b'{"peers":[', b",".join(peers), *tail, b"}"))


def _bool(value: bool) -> bytes:
    return b"true" if value else b"false"
