"""CellMesh cells: direct, durable messages between processes that find each other through discovery.

Rooms, lowest first (a room imports only those below it; import-linter holds that):

``protocol``   what travels on the wire: messages, receipts, peers, errors. Pure.
``settings``   every setting of a cell, read once from the environment.
``inbox``      the SQLite file in which acknowledged messages live.
``transport``  connections to other cells and the coalescing of messages on them.
``discovery``  the client of the discovery service: who is where, and registration.
``service``    the rules: receiving, handling, sending, draining.
``app``        what the code of a cell is written with; loads and hosts it.
``api``        HTTP: the FastAPI app and the hot path in front of it.
``testing``    cells in the process of an author's tests.
``cli``        the ``cellmesh`` command.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cellmesh.app import Backoff, Broadcast, Cell, Message, Receiver, Reject, Retry, SendError, Sent

__version__ = "0.1.0"

__all__ = ["Backoff", "Broadcast", "Cell", "Message", "Receiver", "Reject", "Retry", "SendError", "Sent"]


def __getattr__(name: str) -> Any:
    # Only when it is asked for: `cellmesh send` and the operator do without.
    if name in __all__:
        from cellmesh import app

        return getattr(app, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
