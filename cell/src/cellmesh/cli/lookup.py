"""Cells found through discovery, and the options with which every command is told where discovery is."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import click
import msgspec

from cellmesh.cli import http
from cellmesh.cli.output import safe
from cellmesh.errors import CellMeshError
from cellmesh.protocol.peers import Peer

DEFAULT_DISCOVERY = "http://127.0.0.1:8001"
DEFAULT_NAMESPACE = "default"

F = TypeVar("F", bound=Callable[..., Any])


class NotFound(CellMeshError):  # noqa: N818 - the state it is in
    """Discovery knows no such cell or instance."""


def discovery_options(function: F) -> F:
    """Add ``--discovery`` and ``--namespace``, and pass them as ``mesh``, the base URL of the mesh."""

    @functools.wraps(function)
    def wrapper(*args: Any, discovery: str, namespace: str | None, **kwargs: Any) -> Any:
        return function(*args, mesh=mesh_url(discovery, namespace), **kwargs)

    wrapper = click.option("--namespace", "-n", help="The mesh. [default: default]")(wrapper)
    return click.option(  # type: ignore[return-value]
        "--discovery",
        envvar="CELLMESH_DISCOVERY_URL",
        show_envvar=True,
        default=DEFAULT_DISCOVERY,
        show_default=True,
        metavar="URL",
        help="Where discovery is.",
    )(wrapper)


def mesh_url(discovery: str, namespace: str | None) -> str:
    """Return the base URL of a mesh in discovery.

    Args:
        discovery: discovery's URL, or that of a mesh in it, as cells are given it.
        namespace: the mesh; None: the one of the URL, else ``default``.

    """
    base, separator, named = discovery.rstrip("/").partition("/meshes/")
    mesh = namespace or (named if separator else "") or DEFAULT_NAMESPACE
    if urlsplit(base).scheme != "http":
        raise click.UsageError(f"{discovery!r} is no http:// URL; write for example {DEFAULT_DISCOVERY}")
    return f"{base}/meshes/{quote(mesh, safe='')}"


def peers(mesh: str, cell: str | None = None) -> list[dict[str, Any]]:
    """Return what discovery tells of the mesh, or of one cell of it, in a steady order."""
    query = f"?cell_id={quote(cell, safe='')}" if cell else ""
    found = http.get(f"{mesh}/peers{query}", who="discovery").get("peers")
    if not isinstance(found, list) or not all(isinstance(peer, dict) for peer in found):
        raise http.Unreachable(f"discovery at {http.base_of(mesh)} answered without peers", sent=True)
    return sorted(found, key=lambda peer: (str(peer.get("cell_id")), str(peer.get("instance"))))


def instances(mesh: str, cell: str, instance: str | None = None) -> list[Peer]:
    """Return the instances of a cell, or the one that is wanted.

    Raises:
        NotFound: there is none; says which there are.

    """
    found = addressable(peers(mesh, cell))
    chosen = [peer for peer in found if instance is None or peer.key == instance]
    if chosen:
        return chosen
    if found:
        names = ", ".join(safe(peer.key) for peer in found)
        raise NotFound(f"cell {cell} has no instance {instance}; there are {names}")
    cells = sorted({safe(peer.cell_id) for peer in addressable(peers(mesh))})
    known = f"cells here: {', '.join(cells[:20])}" if cells else "no cell is here"
    raise NotFound(f"no instance of cell {cell} is known in {mesh.rpartition('/')[2]}; {known}")


def addressable(found: list[dict[str, Any]]) -> list[Peer]:
    """Return peers that can be connected to; registrations are free to lack what is needed for it."""
    usable = []
    for raw in found:
        try:
            peer = msgspec.convert(raw, Peer)
        except msgspec.ValidationError:
            continue
        if peer.host:
            usable.append(peer)
    return usable
