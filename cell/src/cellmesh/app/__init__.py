"""What the code of a cell is written with: ``from cellmesh import Cell``.

``cell``      the cell as its author declares it: handlers, hooks, and what it can send
``message``   a message as a handler gets it         ``errors``   what handlers raise, and what sending raises
``loading``   ``module:object`` to a cell            ``host``     a declared cell inside a running one
``calls``     requests to send and their answers     ``threads``  where handlers run that are not coroutines
"""

from cellmesh.app.calls import Broadcast, Receiver, Sent
from cellmesh.app.cell import Cell
from cellmesh.app.errors import Reject, Retry, SendError
from cellmesh.app.message import Message
from cellmesh.service.outcomes import Backoff

__all__ = ["Backoff", "Broadcast", "Cell", "Message", "Receiver", "Reject", "Retry", "SendError", "Sent"]
