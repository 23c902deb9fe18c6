"""What has happened since the start."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """Counts of what one replica did; what it learned from others is not in them."""

    registrations: int = 0
    heartbeats: int = 0
    deregistrations: int = 0
    expired: int = 0
