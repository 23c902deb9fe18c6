"""Manifests that are right: as values, and as the environment of each instance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cellmesh.errors import ManifestError
from cellmesh.manifests.documents import Document, read_documents
from cellmesh.manifests.locally import Variable, local_faults, unused_fields, variables
from cellmesh.manifests.schema import faults, with_defaults
from cellmesh.protocol.handlers import handler_url
from cellmesh.protocol.quantities import quantity


@dataclass(frozen=True, kw_only=True)
class HandlerManifest:
    """Where messages are pushed to; durations are seconds."""

    url: str
    port: int | None
    """Of a program that runs beside the instances, here by whoever wrote the manifest; None: the URL is elsewhere."""
    timeout: int
    concurrency: int
    types: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class CellManifest:
    """A Cell whose manifest has been checked, defaults filled in."""

    name: str
    namespace: str
    replicas: int
    port: int
    type: str
    branch: str
    services: tuple[str, ...]
    max_messages: int
    max_bytes: int
    history: int
    dedupe_window: int
    max_deliveries: int
    env: tuple[Variable, ...]
    app: str = ""
    """Its own code, MODULE:OBJECT; empty: none."""
    directory: Path = Path()
    """Where its manifest is, and its code."""
    handler: HandlerManifest | None = None
    unused: tuple[str, ...] = ()
    """Fields of the manifest that have an effect in a cluster only, as paths."""

    @property
    def instances(self) -> list[str]:
        """Names of the instances, in order."""
        return [f"{self.name}-{ordinal}" for ordinal in range(self.replicas)]


def load(paths: Sequence[str], *, namespace: str = "default", check_ports: bool = True) -> list[CellManifest]:
    """Read Cells from files, ``-`` being standard input.

    Args:
        paths: YAML or JSON files of one or many documents.
        namespace: the mesh of Cells that name none.
        check_ports: refuse two Cells with one port, which one machine cannot give them.

    Raises:
        ManifestError: one line for each fault of all files.

    """
    documents, lines = read_documents(paths)
    cells: list[tuple[Document, CellManifest]] = []
    for document in documents:
        found = faults(document.data) or local_faults(document.data)
        lines += [f"{document.where}: {fault}" for fault in found]
        if not found:
            cells.append((document, _cell(document, namespace)))
    lines += _collisions(cells, check_ports=check_ports)
    if lines:
        raise ManifestError("\n".join(lines))
    return [cell for _, cell in cells]


def instance_environ(
    cell: CellManifest, ordinal: int, *, host: str, port: int, data_dir: Path, discovery_url: str
) -> dict[str, str]:
    """Return the environment that makes a process this instance of the cell.

    Settings without a value are there and empty, so that none is inherited from whoever starts the process.
    """
    instance, handler = cell.instances[ordinal], cell.handler
    of_pod = {"metadata.name": instance, "metadata.namespace": cell.namespace}
    return {
        **{variable.name: of_pod.get(variable.field, variable.value) for variable in cell.env},
        "CELLMESH_CELL_ID": cell.name,
        "CELLMESH_INSTANCE": instance,
        "CELLMESH_UID": "",
        "CELLMESH_NAMESPACE": cell.namespace,
        "CELLMESH_REPLICAS": str(cell.replicas),
        "CELLMESH_HOST": host,
        "CELLMESH_PORT": str(port),
        "CELLMESH_DATA_DIR": str(data_dir / cell.namespace / instance),
        "CELLMESH_DISCOVERY_URL": f"{discovery_url}/meshes/{cell.namespace}",
        "CELLMESH_TYPE": cell.type,
        "CELLMESH_BRANCH": cell.branch,
        "CELLMESH_SERVICES": ",".join(cell.services),
        "CELLMESH_MAX_MESSAGES": str(cell.max_messages),
        "CELLMESH_MAX_BYTES": str(cell.max_bytes),
        "CELLMESH_HISTORY": str(cell.history),
        "CELLMESH_DEDUPE_WINDOW": str(cell.dedupe_window),
        "CELLMESH_MAX_DELIVERIES": str(cell.max_deliveries),
        "CELLMESH_APP": cell.app,
        "CELLMESH_APP_DIR": str(cell.directory) if cell.app else "",
        "CELLMESH_HANDLER_URL": handler.url if handler else "",
        "CELLMESH_HANDLER_TIMEOUT": str(handler.timeout) if handler else "",
        "CELLMESH_HANDLER_CONCURRENCY": str(handler.concurrency) if handler else "",
        "CELLMESH_HANDLER_TYPES": ",".join(handler.types) if handler else "",
    }


def _cell(document: Document, namespace: str) -> CellManifest:
    written = document.data
    data = with_defaults(written)
    spec, metadata = data["spec"], data["metadata"]
    mailbox = spec["mailbox"]
    return CellManifest(
        name=metadata["name"],
        namespace=metadata.get("namespace") or namespace,
        replicas=spec["replicas"],
        port=spec["port"],
        type=spec["type"],
        branch=spec["branch"],
        services=tuple(spec["services"]),
        max_messages=mailbox["maxMessages"],
        max_bytes=int(quantity(mailbox["maxBytes"])),
        history=mailbox["history"],
        dedupe_window=mailbox["dedupeWindow"],
        max_deliveries=mailbox["maxDeliveries"],
        env=variables(spec["env"]),
        app=spec.get("app") or "",
        directory=document.directory,
        handler=_handler(spec.get("handler")),
        unused=unused_fields(written.get("spec") or {}),
    )


def _handler(handler: dict[str, Any] | None) -> HandlerManifest | None:
    if handler is None:
        return None
    return HandlerManifest(
        url=handler_url(handler),
        port=handler.get("port"),
        timeout=handler["timeoutSeconds"],
        concurrency=handler["maxConcurrency"],
        types=tuple(handler["types"]),
    )


def _collisions(cells: list[tuple[Document, CellManifest]], *, check_ports: bool) -> list[str]:
    """Return what Cells that are right by themselves cannot have together on one machine."""
    lines: list[str] = []
    names: dict[tuple[str, str], str] = {}
    ports: dict[int, str] = {}
    for document, cell in cells:
        first = names.setdefault((cell.namespace, cell.name), document.where)
        if first != document.where:
            lines.append(f"{document.where}: metadata.name: taken by {first}; rename one")
            continue
        if not cell.replicas or not check_ports:
            continue
        first = ports.setdefault(cell.port, document.where)
        if first != document.where:
            lines.append(f"{document.where}: spec.port: {cell.port} is the port of {first}; give it another")
    # Each pod has its own 127.0.0.1, this machine has one for all.
    for document, cell in cells:
        port = cell.handler.port if cell.handler and cell.replicas and check_ports else None
        if port in ports:
            lines.append(
                f"{document.where}: spec.handler.port: {port} is the port of {ports[port]}; "
                "let the handler listen on another on this machine"
            )
    return lines
