"""Cells are deleted and scaled down: what goes with them, and what stays."""

from __future__ import annotations

from functools import partial

from e2e.clusters import SOON
from e2e.spaces import VOLUME, Space, cell
from support import eventually

CHILDREN = ("statefulsets", "services", "serviceaccounts", "poddisruptionbudgets", "pods")


def _claims(space: Space, name: str) -> list[str]:
    claims = space.cluster.api.list("persistentvolumeclaims", space.name, labelSelector=f"cellmesh.dev/cell={name}")
    return sorted(claim["metadata"]["name"] for claim in claims if "deletionTimestamp" not in claim["metadata"])


def _none(space: Space, plural: str) -> bool:
    return not space.cluster.api.list(plural, space.name, labelSelector="cellmesh.dev/cell")


def test_children_go_with_their_cell_and_claims_as_the_retention_says(space: Space) -> None:
    """By default claims stay, when scaled down and when deleted; with Delete they go; all else goes in any case."""
    going = {"whenScaled": "Delete", "whenDeleted": "Delete"}
    cells = {
        "keeps": cell("keeps", replicas=2, storage=VOLUME),
        "leaves": cell("leaves", replicas=2, storage=VOLUME | {"retention": going}),
    }
    space.start(*cells.values())
    sent = space.ask(
        "keeps-0", "POST", "/message", {"message_id": "m", "from_cell": "x", "payload": {"n": 1}, "ttl": 0}
    )
    assert sent.status == 200, sent

    space.kubectl("scale", "cell", *cells, "--replicas=1")
    eventually(lambda: [len(space.pods(name)) for name in cells] == [1, 1], within=SOON, message="one pod each")
    eventually(lambda: _claims(space, "leaves") == ["inbox-leaves-0"], within=SOON, message="the other's claim to go")
    assert _claims(space, "keeps") == ["inbox-keeps-0", "inbox-keeps-1"]

    space.kubectl("delete", "cell", *cells)
    for plural in CHILDREN:
        eventually(partial(_none, space, plural), within=SOON, message=f"{plural} to be gone")
    eventually(lambda: _claims(space, "leaves") == [], within=SOON, message="the claims to go")
    assert _claims(space, "keeps") == ["inbox-keeps-0", "inbox-keeps-1"]
    assert space.peers() == {}

    # The same Cell again finds what it had.
    space.start(cells["keeps"])
    assert [message["message_id"] for message in space.messages("keeps-0")] == ["m"]
