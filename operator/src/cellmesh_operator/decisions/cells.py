"""A Cell as read from the API server, as a typed value.

The API server has checked it and filled in the schema's defaults. A Cell stored before a field existed may
lack it, so that each has the same default here; a test holds the two equal.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from cellmesh.protocol.handlers import handler_url
from cellmesh_operator.decisions.hashing import digest
from cellmesh_operator.naming import cell_selector

Object = Mapping[str, Any]

#: Fields of the spec that only discovery reads: editing them leaves the children as they are.
SHOWN_TO_PEERS: Final = frozenset({"type", "branch", "services"})


@dataclass(frozen=True, kw_only=True)
class Volume:
    """An inbox on a volume of its own, one for each instance."""

    size: str = "1Gi"
    class_name: str | None = None
    """None: the cluster's default class."""
    access_modes: tuple[str, ...] = ("ReadWriteOnce",)
    when_deleted: str = "Retain"
    when_scaled: str = "Retain"


@dataclass(frozen=True, kw_only=True)
class Ephemeral:
    """An inbox that lives as long as its pod."""

    size_limit: str | None = None


@dataclass(frozen=True, kw_only=True)
class Mailbox:
    """Bounds of each instance's inbox; sizes are quantities, durations seconds."""

    max_messages: int = 1_000_000
    max_bytes: str | int = "512Mi"
    history: int = 10_000
    dedupe_window: int = 600
    max_deliveries: int = 5


@dataclass(frozen=True, kw_only=True)
class Handler:
    """Where each instance pushes its messages to."""

    url: str = ""
    timeout_seconds: int = 30
    max_concurrency: int = 8
    types: tuple[str, ...] = ()
    """Empty: all."""


@dataclass(frozen=True, kw_only=True)
class CellSpec:
    """What a Cell asks for. Parts that Kubernetes defines are kept as they are.

    The names of the fields are part of ``Cell.spec_hash``: renaming one rolls every cell out.
    """

    replicas: int = 1
    image: str = ""
    """Empty: the reconciler's default."""
    image_pull_policy: str = ""
    port: int = 8000
    storage: Volume | Ephemeral = field(default_factory=Volume)
    mailbox: Mailbox = field(default_factory=Mailbox)
    app: str = ""
    """The cell's own code, MODULE:OBJECT; empty: none, or what the image says."""
    handler: Handler | None = None
    resources: Object | None = None
    """None: the default requests of ``resources.pod_template``."""
    env: Sequence[Object] = ()
    env_from: Sequence[Object] = ()
    volume_mounts: Sequence[Object] = ()
    service_account_annotations: Object = field(default_factory=dict)
    template: Object = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A Cell: who it is, what it asks for, and what was last said of it."""

    name: str
    namespace: str
    uid: str
    generation: int
    deleting: bool
    spec: CellSpec
    status: Object

    @property
    def selector(self) -> str:
        """The label selector of the cell's pods, as text."""
        return ",".join(f"{name}={value}" for name, value in cell_selector(self.name).items())

    @property
    def spec_hash(self) -> str:
        """Hash of what the Cell's author has asked of the children.

        What equals its default does not count: a field that is new in the schema, with its default filled
        in by the API server, is no change by the author.
        """
        return digest(_written(self.spec))

    def condition(self, kind: str) -> Object | None:
        """Return a condition as it was last reported, if it was."""
        found = [item for item in self.status.get("conditions") or () if item.get("type") == kind]
        return found[0] if found else None


def read_cell(data: Object) -> Cell:
    """Return a Cell object of the API server as a value."""
    metadata = data["metadata"]
    return Cell(
        name=metadata["name"],
        namespace=metadata["namespace"],
        uid=metadata["uid"],
        generation=metadata.get("generation", 0),
        deleting=metadata.get("deletionTimestamp") is not None,
        spec=_spec(data.get("spec") or {}),
        status=data.get("status") or {},
    )


def _spec(spec: Object) -> CellSpec:
    return CellSpec(
        **_given(
            replicas=spec.get("replicas"),
            image=spec.get("image"),
            image_pull_policy=spec.get("imagePullPolicy"),
            port=spec.get("port"),
            app=spec.get("app"),
            env=tuple(spec.get("env") or ()),
            env_from=tuple(spec.get("envFrom") or ()),
            volume_mounts=tuple(spec.get("volumeMounts") or ()),
            resources=spec.get("resources") or None,
            service_account_annotations=(spec.get("serviceAccount") or {}).get("annotations"),
            template=_template(spec.get("template") or {}),
        ),
        storage=_storage(spec.get("storage") or {}),
        mailbox=_mailbox(spec.get("mailbox") or {}),
        handler=_handler(spec.get("handler")),
    )


def _storage(storage: Object) -> Volume | Ephemeral:
    if storage.get("ephemeral") is not None:
        return Ephemeral(**_given(size_limit=_text(storage["ephemeral"].get("sizeLimit"))))
    retention = storage.get("retention") or {}
    return Volume(
        **_given(
            size=_text(storage.get("size")),
            class_name=storage.get("className"),
            access_modes=tuple(storage.get("accessModes") or ()) or None,
            when_deleted=retention.get("whenDeleted"),
            when_scaled=retention.get("whenScaled"),
        )
    )


def _mailbox(mailbox: Object) -> Mailbox:
    return Mailbox(
        **_given(
            max_messages=mailbox.get("maxMessages"),
            max_bytes=mailbox.get("maxBytes"),
            history=mailbox.get("history"),
            dedupe_window=mailbox.get("dedupeWindow"),
            max_deliveries=mailbox.get("maxDeliveries"),
        )
    )


def _handler(handler: Object | None) -> Handler | None:
    if handler is None:
        return None
    return Handler(
        url=handler_url(handler),
        **_given(
            timeout_seconds=handler.get("timeoutSeconds"),
            max_concurrency=handler.get("maxConcurrency"),
            types=tuple(handler.get("types") or ()),
        ),
    )


def _template(template: Object) -> Object:
    """Return the template without what is empty, which says no more than its absence.

    An empty list of spread constraints does say something: none, in place of the default ones.
    """
    metadata = {name: value for name, value in (template.get("metadata") or {}).items() if value}
    kept = {
        name: value
        for name, value in template.items()
        if name != "metadata"
        and (value not in ({}, [], None, "") or (name == "topologySpreadConstraints" and value == []))
    }
    return {**kept, "metadata": metadata} if metadata else kept


def _text(quantity: object) -> str | None:
    return None if quantity is None else str(quantity)


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _written(value: Any) -> dict[str, Any]:
    """Return the fields of a dataclass that differ from their defaults, nested ones alike."""
    written: dict[str, Any] = {}
    defaults = type(value)()
    for item in dataclasses.fields(value):
        given = getattr(value, item.name)
        if isinstance(given, (Volume, Ephemeral, Mailbox, Handler)):
            nested = _written(given)
            if nested or isinstance(given, Ephemeral):
                written[item.name] = {type(given).__name__: nested}
        elif given != getattr(defaults, item.name):
            written[item.name] = given
    return written
