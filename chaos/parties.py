"""Whom the writers of a ledger talk to, wherever that runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Party(Protocol):
    """One instance that is part of a mesh."""

    @property
    def cell(self) -> str:
        """Of which cell."""

    @property
    def namespace(self) -> str:
        """In which mesh."""


class Parties(Protocol):
    """All instances of a mesh, by the names that they have in the ledger."""

    @property
    def roles(self) -> Mapping[str, Party]:
        """The instances by name."""

    @property
    def namespace(self) -> str:
        """The mesh in which messages are sent."""

    @property
    def senders(self) -> list[str]:
        """Names of those that send."""

    def address(self, name: str) -> tuple[str, int]:
        """Return where an instance listens now.

        Raises:
            LookupError: that is not known.

        """

    def instance_at(self, url: str) -> str:
        """Return the name of the instance that has a URL; empty: none."""
