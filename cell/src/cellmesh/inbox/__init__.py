"""The durable inbox: one SQLite file, one writer thread, readers beside it.

``inbox``    the whole, as the service uses it        ``files``   data directory: lock, checks, creation
``writer``   the thread and its group commit          ``schema``  tables and migrations
``store``    messages in, statement by statement      ``reader``  what is read
``leasing``  handing out and settling                 ``ready``   what can be handed out, in which order
``dead``     dead letters: put back, purged           ``upkeep``  expiry, trimming
``transaction``  what other work writes through       ``rows``    rows as messages
``clock``    time that no step of the wall clock changes
"""

from cellmesh.inbox.inbox import DeadOutcome, Inbox, InboxLimits
from cellmesh.inbox.leases import Holder, Leased, LeaseRequest, Settled, Settlement, Verb
from cellmesh.inbox.store import Outcome, Verdict
from cellmesh.inbox.transaction import Transaction, WorkFailed

__all__ = [
    "DeadOutcome",
    "Holder",
    "Inbox",
    "InboxLimits",
    "LeaseRequest",
    "Leased",
    "Outcome",
    "Settled",
    "Settlement",
    "Transaction",
    "Verb",
    "Verdict",
    "WorkFailed",
]
