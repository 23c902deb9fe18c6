"""Environment of a cell's container: its settings, made from the Cell, and what the Cell's author adds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from cellmesh.protocol.quantities import quantity
from cellmesh_operator.decisions.actions import BuildSettings
from cellmesh_operator.decisions.cells import Cell, Handler, Volume
from cellmesh_operator.naming import DATA_DIR

#: Settings of a cell, see ``cellmesh.settings``; a test holds every name made here to be one.
PREFIX = "CELLMESH_"
#: Seconds that a stopping instance still takes messages, while the others learn that it goes.
DRAIN_ACCEPT = 2.0
#: Seconds of the grace period kept for what follows the drain: unanswered connections, closing the inbox.
CLOSING = 10.0


def build_environment(cell: Cell, settings: BuildSettings, *, grace: int) -> list[dict[str, Any]]:
    """Return the variables of the cell's container.

    ``type``, ``branch`` and ``services`` are not among them: discovery reads them off the Cell, so that
    editing them restarts nothing.

    Args:
        cell: the Cell.
        settings: what the reconciler adds.
        grace: the pod's grace period in seconds; the drain fits into it.

    """
    own = [
        *(_from_pod(name, path) for name, path in _FROM_POD.items()),
        *({"name": f"{PREFIX}{name}", "value": value} for name, value in _settings(cell, settings, grace).items()),
    ]
    # Ours stand first: those of the allowed hosts refer to one before them, and none to the author's.
    return [*own, *(_as_written(item) for item in cell.spec.env)]


_FROM_POD = {"INSTANCE": "metadata.name", "UID": "metadata.uid", "NAMESPACE": "metadata.namespace"}


def _settings(cell: Cell, settings: BuildSettings, grace: int) -> dict[str, str]:
    mailbox = cell.spec.mailbox
    drain = max(grace - CLOSING, grace / 2)
    base = settings.discovery_url.rstrip("/")
    return {
        "CELL_ID": cell.name,
        # IPv4: "::" would do for both families, and fail where the kernel has none of IPv6.
        "HOST": "0.0.0.0",  # noqa: S104 - in a pod of its own
        "PORT": str(cell.spec.port),
        "ALLOWED_HOSTS": ",".join(_hosts(cell, settings)),
        "DATA_DIR": DATA_DIR,
        "DURABILITY": "volume" if isinstance(cell.spec.storage, Volume) else "ephemeral",
        "REGISTER": "false",
        "DISCOVERY_URL": f"{base}/meshes/{cell.namespace}" if base else "",
        "MAX_MESSAGES": str(mailbox.max_messages),
        "MAX_BYTES": str(math.floor(quantity(mailbox.max_bytes))),
        "HISTORY": str(mailbox.history),
        "DEDUPE_WINDOW": str(mailbox.dedupe_window),
        "MAX_DELIVERIES": str(mailbox.max_deliveries),
        "DRAIN_ACCEPT": _seconds(min(DRAIN_ACCEPT, drain)),
        "DRAIN_TIMEOUT": _seconds(drain),
        # Without one nothing at all: the image may bring its own.
        **({"APP": cell.spec.app} if cell.spec.app else {}),
        **_handler(cell.spec.handler),
    }


def _handler(handler: Handler | None) -> dict[str, str]:
    """Return the settings of a handler; nothing at all without one, so that such cells stay as they are."""
    if handler is None:
        return {}
    return {
        "HANDLER_URL": _literal(handler.url),
        "HANDLER_TIMEOUT": str(handler.timeout_seconds),
        "HANDLER_CONCURRENCY": str(handler.max_concurrency),
        "HANDLER_TYPES": _literal(",".join(handler.types)),
    }


def _hosts(cell: Cell, settings: BuildSettings) -> list[str]:
    """Return the names with a dot that the headless Service gives the cell and this instance.

    A cell answers to its addresses and to names without a dot as it is.
    """
    suffixes = ("", f".{cell.namespace}", f".{cell.namespace}.svc", f".{cell.namespace}.svc.{settings.cluster_domain}")
    return [
        *(f"{cell.name}{suffix}" for suffix in suffixes[1:]),
        *(f"$({PREFIX}INSTANCE).{cell.name}{suffix}" for suffix in suffixes),
    ]


def _seconds(value: float) -> str:
    return f"{value:g}"


def _from_pod(name: str, path: str) -> dict[str, Any]:
    return {"name": f"{PREFIX}{name}", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}


def _as_written(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return an author's variable so that its value arrives as it was written."""
    if item.get("valueFrom") is not None:
        return {"name": item["name"], "valueFrom": item["valueFrom"]}
    return {"name": item["name"], "value": _literal(str(item.get("value", "")))}


def _literal(value: str) -> str:
    """Return a value that arrives as it was written.

    The kubelet would expand ``$(NAME)``; the schema promises that nothing is, on a laptop as in a cluster.
    """
    return value.replace("$", "$$")
