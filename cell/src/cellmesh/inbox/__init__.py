"""The durable inbox: one SQLite file, one writer thread, readers beside it.

``inbox``    the whole, as the service uses it        ``files``   data directory: lock, checks, creation
``writer``   the thread and its group commit          ``schema``  tables and migrations
``store``    what is written, statement by statement  ``reader``  what is read
``clock``    time that no step of the wall clock changes
"""

from cellmesh.inbox.inbox import Inbox, InboxLimits
from cellmesh.inbox.store import Outcome, Verdict

__all__ = ["Inbox", "InboxLimits", "Outcome", "Verdict"]
