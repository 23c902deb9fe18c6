"""A registration as it comes: checked, and turned into the record that it is given back as.

Fields that mean something here are validated; every other one is kept as the very text it came as. What
only discovery can know (``source``, ``last_seen``) is set by it, whatever the body says; so is ``namespace``,
but a body that names another mesh is refused.
"""

from __future__ import annotations

import re

import msgspec
from msgspec import Raw

from cellmesh.protocol.decoding import check_object, decode
from cellmesh.protocol.fields import CELL_ID_PATTERN, is_cell_id
from cellmesh.protocol.peers import Heartbeat, Peer, PeerRegistration
from cellmesh.protocol.problems import invalid
from cellmesh_operator.discovery.records import PeerRecord, join, record_of

#: Largest body of a registration or heartbeat, bytes (design: it must fit an annotation).
MAX_BODY = 16 * 1024
#: What ``ip`` and ``hostname`` may consist of: readers put them into URLs and ``Host`` headers.
HOST_PATTERN = r"^[A-Za-z0-9._:%-]{1,256}$"
#: Fields of a peer that mean nothing in a registration, of whatever type they are.
IGNORED = frozenset({"source", "last_seen"})

_HOST = re.compile(HOST_PATTERN)
_KNOWN = frozenset(PeerRegistration.__struct_fields__)
_SET_HERE = IGNORED | {"namespace"}
_decode_raw = msgspec.json.Decoder(dict[str, Raw])
_decode_peer = msgspec.json.Decoder(PeerRegistration)
_decode_heartbeat = msgspec.json.Decoder(Heartbeat)
_encode = msgspec.json.encode


def parse_registration(body: bytes, mesh: str) -> PeerRecord:
    """Check the body of ``POST /register``.

    Raises:
        Problem: ``malformed_json`` (400) or ``invalid_field`` (422) naming the field.

    """
    texts = decode(_decode_raw, body)
    values = check_object("body", body)
    raw = {name: bytes(text) for name, text in texts.items() if name not in _KNOWN or values[name] is not None}
    for name in ("port", "replicas"):
        number = values.get(name)
        if isinstance(number, float) and number.is_integer():
            # 8002.0 is an integer to JSON Schema, and what languages with one kind of number send.
            raw[name] = b"%d" % number
    peer = decode(_decode_peer, join({k: v for k, v in raw.items() if k not in IGNORED}))
    _check(peer, mesh)
    fields = {name: text for name, text in raw.items() if name not in _SET_HERE}
    fields["namespace"] = _encode(mesh)
    fields["source"] = b'"registered"'
    return record_of(peer.cell_id, peer.key, peer.uid, fields, peer.replicas)


def parse_heartbeat(body: bytes) -> Heartbeat:
    """Check the body of ``POST /heartbeat``; all but ``cell_id`` and ``instance`` is ignored.

    Raises:
        Problem: ``malformed_json`` (400) or ``invalid_field`` (422) naming the field.

    """
    beat = decode(_decode_heartbeat, body)
    check_cell_id("cell_id", beat.cell_id)
    return beat


def check_cell_id(field: str, value: str) -> str:
    """Check that a string can be the name of a cell or a mesh, and return it.

    Raises:
        Problem: ``invalid_field`` naming ``field``.

    """
    # Also for values that a decoder has checked: its ``$`` lets a trailing newline pass.
    if not is_cell_id(value):
        raise invalid(field, f"{value[:80]!r} must match {CELL_ID_PATTERN}")
    return value


def _check(peer: Peer, mesh: str) -> None:
    check_cell_id("cell_id", peer.cell_id)
    if peer.ip is None and peer.hostname is None:
        raise invalid("ip", "neither ip nor hostname is there; send the address or name that peers connect to")
    for field, host in (("ip", peer.ip), ("hostname", peer.hostname)):
        if host is not None and not _HOST.fullmatch(host):
            raise invalid(field, f"{host[:80]!r} is not an address or host name")
    if peer.namespace is not None and peer.namespace != mesh:
        raise invalid(
            "namespace",
            f"{peer.namespace[:80]!r} is not the mesh of this URL, {mesh!r}; "
            "leave it out, or register at /meshes/<namespace>/register",
        )
