"""The durable outbox: messages to be sent, in the file of the inbox and written by its writer."""

from cellmesh.outbox.outbox import Outbox, OutboxLimits
from cellmesh.outbox.parcels import Parcel

__all__ = ["Outbox", "OutboxLimits", "Parcel"]
