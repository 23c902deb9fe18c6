"""Pages of what an instance keeps: messages of its inbox, dead letters, what it has sent."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from cellmesh.cli import http
from cellmesh.protocol.peers import Peer


def page(peer: Peer, path: str, query: dict[str, Any]) -> dict[str, Any]:
    """Return a page that lists messages.

    Args:
        peer: the instance.
        path: of the list, for example ``/messages``.
        query: its parameters; those that are None are left out.

    Raises:
        Unreachable: no answer, or not such a page.

    """
    text = urlencode({name: value for name, value in query.items() if value is not None})
    found: dict[str, Any] = http.get(f"{peer.url}{path}?{text}", who=peer.key)
    listed = found.get("messages")
    if not isinstance(listed, list) or not all(isinstance(message, dict) for message in listed):
        raise http.Unreachable(f"{peer.key} at {peer.url} answered without messages", sent=True)
    return found
