"""Every setting of discovery, read once from the environment.

Names are ``CELLMESH_DISCOVERY_`` plus the field in capitals. A value that cannot be used ends the start
with one line that names the variable; a variable that is no setting is reported by ``unknown``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from cellmesh.protocol.fields import CELL_ID_PATTERN, is_cell_id
from cellmesh.protocol.peers import EXPIRY, HEARTBEAT_INTERVAL
from cellmesh_operator import environment
from cellmesh_operator.environment import LOG_LEVELS, wrong

PREFIX = "CELLMESH_DISCOVERY_"
#: Read by cells: where discovery is.
_OF_CELLS = {PREFIX + "URL"}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of one replica of discovery. Durations are seconds."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 8001
    """Port to listen on; 0 takes any free one."""
    default_mesh: str = "default"
    """The mesh of requests without ``/meshes/<namespace>``."""
    expiry: float = EXPIRY
    """Silence after which a registered cell is gone; cells beat every 5 s."""
    max_registrations: int = 200
    """Registrations at most, over all meshes; then 429. Renewals are never refused."""
    settle: float = HEARTBEAT_INTERVAL + 1
    """After the start, until every living cell has been heard: one beat and a second to spare."""
    allowed_hosts: tuple[str, ...] = ()
    """Names besides its own under which clients may address this server; ``*`` for any."""
    allowed_origins: tuple[str, ...] = ()
    """Web origins whose pages may use this server; ``*`` for any."""
    kubernetes: bool = False
    """Tell the pods of Cells, and share registrations with other replicas by Leases."""
    namespaces: tuple[str, ...] = ()
    """With ``kubernetes``: the namespaces whose Cells and pods are told; empty: those of the whole cluster."""
    namespace: str = ""
    """With ``kubernetes``: the namespace of the Leases, discovery's own; there must be one."""
    log_level: str = "info"
    """debug, info, warning or error."""

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Settings:
        """Read the settings from environment variables; an empty one counts as absent.

        Raises:
            SettingsError: names the variable and what it may be.

        """
        return cls(**environment.read(cls, PREFIX, environ))

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            SettingsError: names the variable and what it may be.

        """
        if not self.host:
            raise wrong(PREFIX, "host", self.host, "an address or name to listen on")
        if not 0 <= self.port <= 65535:
            raise wrong(PREFIX, "port", self.port, "0 (any free port) to 65535")
        if not is_cell_id(self.default_mesh):
            raise wrong(PREFIX, "default_mesh", self.default_mesh, f"a name that matches {CELL_ID_PATTERN}")
        if not (math.isfinite(self.expiry) and self.expiry > 0):
            raise wrong(PREFIX, "expiry", self.expiry, "more than 0 seconds")
        if self.max_registrations < 1:
            raise wrong(PREFIX, "max_registrations", self.max_registrations, "at least 1")
        if not (math.isfinite(self.settle) and self.settle >= 0):
            raise wrong(PREFIX, "settle", self.settle, "0 or more seconds")
        for name in self.namespaces:
            if not is_cell_id(name):
                raise wrong(PREFIX, "namespaces", name, "names of namespaces, separated by commas")
        if self.kubernetes and not is_cell_id(self.namespace):
            raise wrong(PREFIX, "namespace", self.namespace, "the namespace that discovery runs in")
        if self.log_level not in LOG_LEVELS:
            raise wrong(PREFIX, "log_level", self.log_level, "debug, info, warning or error")


def unknown(environ: Mapping[str, str]) -> list[str]:
    """Return the ``CELLMESH_DISCOVERY_`` variables that are no setting, most likely misspelt."""
    return [name for name in environment.unknown(Settings, PREFIX, environ) if name not in _OF_CELLS]
