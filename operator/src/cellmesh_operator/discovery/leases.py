"""Registrations as Leases, by which the replicas of discovery tell each other of them. Pure.

One Lease a registration, named after a hash of mesh, cell and instance; the peer is an annotation. The holder is
the replica that wrote last. Times in a Lease are for people and tell one write from another: they decide nothing,
as they come from another machine's clock.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from cellmesh.protocol.problems import Problem
from cellmesh_operator.discovery.members import Key
from cellmesh_operator.discovery.records import PeerRecord
from cellmesh_operator.discovery.registration import parse_registration
from cellmesh_operator.naming import DISCOVERY_MANAGER, LEASES, PEER, REGISTRATION_LABEL

#: Largest annotation, bytes (design: discovery).
MAX_PEER: Final = 16 * 1024
#: Selects the Leases that are registrations.
SELECTOR: Final = f"{REGISTRATION_LABEL}=true"


class _Meta(msgspec.Struct):
    name: str
    uid: str
    resourceVersion: str  # noqa: N815 - as Kubernetes has it, here and below
    annotations: dict[str, str]


class _Spec(msgspec.Struct):
    holderIdentity: str = ""  # noqa: N815
    acquireTime: str = ""  # noqa: N815
    renewTime: str = ""  # noqa: N815


class _Lease(msgspec.Struct):
    metadata: _Meta
    spec: _Spec


class _Where(msgspec.Struct):
    namespace: str


@dataclass(frozen=True, slots=True)
class LeaseFacts:
    """A registration as its Lease tells it.

    ``acquired`` changes with each registration, ``renewed`` with each sign of life that was written.
    """

    name: str
    uid: str
    version: str
    key: Key
    record: PeerRecord
    holder: str
    acquired: str
    renewed: str

    def says_more_than(self, other: LeaseFacts | None) -> bool:
        """Whether this is a sign of life and not just an edited label."""
        return other is None or (self.renewed, self.acquired, self.holder, self.record.digest) != (
            other.renewed,
            other.acquired,
            other.holder,
            other.record.digest,
        )


def lease_name(key: Key) -> str:
    """Return the name of a registration's Lease."""
    text = msgspec.json.encode(key)
    return f"registration-{hashlib.blake2b(text, digest_size=16).hexdigest()}"


def check_size(record: PeerRecord) -> None:
    """Check that a registration fits into its Lease.

    Raises:
        Problem: ``body_too_large`` (413).

    """
    size = len(record.content) + 1
    if size > MAX_PEER:
        raise Problem(
            "body_too_large",
            f"body: with its namespace and source the registration has {size} bytes, more than {MAX_PEER}, "
            "what replicas of discovery can share; leave fields out",
        )


def new_lease(key: Key, record: PeerRecord, namespace: str, holder: str, expiry: float, now: str) -> dict[str, Any]:
    """Return the Lease of a new registration; ``now`` is the time as RFC 3339 with microseconds."""
    return {
        "apiVersion": LEASES.api_version,
        "kind": LEASES.kind,
        "metadata": {
            "name": lease_name(key),
            "namespace": namespace,
            "labels": {
                REGISTRATION_LABEL: "true",
                "app.kubernetes.io/part-of": "cellmesh",
                "app.kubernetes.io/managed-by": DISCOVERY_MANAGER,
            },
            "annotations": {PEER: _peer(record)},
        },
        "spec": {
            "holderIdentity": holder,
            "leaseDurationSeconds": math.ceil(expiry),
            "acquireTime": now,
            "renewTime": now,
        },
    }


def registered_anew(lease: LeaseFacts, record: PeerRecord, holder: str, now: str) -> dict[str, Any]:
    """Return the merge patch of a registration that takes the place of the one in a Lease."""
    patch = renewal(lease, holder, now)
    patch["metadata"]["annotations"] = {PEER: _peer(record)}
    patch["spec"]["acquireTime"] = now
    return patch


def renewal(lease: LeaseFacts, holder: str, now: str) -> dict[str, Any]:
    """Return the merge patch of a sign of life; refused if anybody wrote the Lease meanwhile."""
    return {
        "metadata": {"resourceVersion": lease.version},
        "spec": {"holderIdentity": holder, "renewTime": now},
    }


def read_lease(item: dict[str, Any]) -> LeaseFacts | None:
    """Return what a Lease says; None for one that no replica can have written."""
    try:
        lease = msgspec.convert(item, _Lease)
        text = lease.metadata.annotations[PEER].encode()
        mesh = msgspec.json.decode(text, type=_Where).namespace
        record = parse_registration(text, mesh)
    except (msgspec.MsgspecError, UnicodeError, KeyError, Problem):
        return None
    key = (mesh, record.cell_id, record.key)
    if lease.metadata.name != lease_name(key):
        return None
    metadata, spec = lease.metadata, lease.spec
    return LeaseFacts(
        metadata.name,
        metadata.uid,
        metadata.resourceVersion,
        key,
        record,
        spec.holderIdentity,
        spec.acquireTime,
        spec.renewTime,
    )


def _peer(record: PeerRecord) -> str:
    return record.content.decode() + "}"
