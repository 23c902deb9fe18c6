"""Every setting of the reconciler, read once from the environment.

Names are ``CELLMESH_RECONCILER_`` plus the field in capitals. A value that cannot be used ends the start
with one line that names the variable; a variable that is no setting is reported by ``unknown``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

from cellmesh_operator import environment
from cellmesh_operator.decisions.actions import BuildSettings
from cellmesh_operator.environment import LOG_LEVELS, wrong

PREFIX = "CELLMESH_RECONCILER_"
PULL_POLICIES = ("", "Always", "IfNotPresent", "Never")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of the reconciler. Durations are seconds."""

    namespaces: tuple[str, ...] = ()
    """Namespaces whose Cells are served; empty: those of the whole cluster."""
    cell_image: str = f"cellmesh-cell:{version('cellmesh')}"
    """Image of Cells that name none."""
    image_pull_policy: str = ""
    """Pull policy of Cells that name none: Always, IfNotPresent or Never; empty: the API server's default."""
    discovery_url: str = ""
    """Where cells ask for others: ``http://host:port``. Has to be given."""
    cluster_domain: str = "cluster.local"
    """Domain of the cluster's Services."""
    max_concurrent: int = 5
    """Cells to which a change of the operator, such as a new image, is rolled out at a time."""
    workers: int = 16
    """Cells that are worked on at a time; each makes one request at a time."""
    resync: float = 60.0
    """Between two comparisons of what is remembered with complete lists, per kind."""
    max_backoff: float = 60.0
    """At most between two attempts for a Cell that fails."""
    host: str = "0.0.0.0"  # noqa: S104 - probes and Prometheus come from outside the pod
    """Address of /healthz, /readyz and /metrics."""
    port: int = 8080
    """Port of /healthz, /readyz and /metrics; 0 takes any free one."""
    log_level: str = "info"
    """debug, info, warning or error."""

    @classmethod
    def from_environ(cls, environ: Mapping[str, str], **given: Any) -> Settings:
        """Read the settings from environment variables; an empty one counts as absent.

        Args:
            environ: the environment.
            given: settings that win over the environment.

        Raises:
            SettingsError: names the variable and what it may be.

        """
        return cls(**(environment.read(cls, PREFIX, environ) | given))

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            SettingsError: names the variable and what it may be.

        """
        if self.image_pull_policy not in PULL_POLICIES:
            raise wrong(PREFIX, "image_pull_policy", self.image_pull_policy, "Always, IfNotPresent or Never")
        if not _is_base_url(self.discovery_url):
            raise wrong(PREFIX, "discovery_url", self.discovery_url, "the base URL of discovery, http://host:port")
        for name in ("max_concurrent", "workers"):
            if getattr(self, name) < 1:
                raise wrong(PREFIX, name, getattr(self, name), "at least 1")
        for name in ("resync", "max_backoff"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 1):
                raise wrong(PREFIX, name, getattr(self, name), "at least 1 second")
        if not 0 <= self.port <= 65535:
            raise wrong(PREFIX, "port", self.port, "0 (any free port) to 65535")
        if self.log_level not in LOG_LEVELS:
            raise wrong(PREFIX, "log_level", self.log_level, "debug, info, warning or error")

    @property
    def build(self) -> BuildSettings:
        """The settings that go into the children of Cells."""
        return BuildSettings(
            cell_image=self.cell_image,
            image_pull_policy=self.image_pull_policy,
            discovery_url=self.discovery_url.rstrip("/"),
            cluster_domain=self.cluster_domain,
            max_concurrent=self.max_concurrent,
        )

    @property
    def scopes(self) -> tuple[str | None, ...]:
        """The namespaces to list and watch; None stands for all."""
        return self.namespaces or (None,)


def unknown(environ: Mapping[str, str]) -> list[str]:
    """Return the ``CELLMESH_RECONCILER_`` variables that are no setting, most likely misspelt."""
    return environment.unknown(Settings, PREFIX, environ)


def _is_base_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return usable and not (parts.query or parts.fragment or parts.username)
