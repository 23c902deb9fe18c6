"""Every setting of a cell, read once from the environment.

Names are ``CELLMESH_`` plus the field in capitals. A value that cannot be used ends the start with one
line that names the variable; an unknown ``CELLMESH_`` variable is reported by ``unknown``.
"""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from cellmesh.errors import SettingsError
from cellmesh.protocol.fields import CELL_ID_PATTERN, is_cell_id
from cellmesh.protocol.handlers import is_handler_url

PREFIX = "CELLMESH_"
#: Longest time a handler may be given, in seconds, and the most messages pushed to it at the same time.
MAX_HANDLER_TIMEOUT = 3600.0
MAX_HANDLER_CONCURRENCY = 256

_BLANKS = " \t\r\n"
_AT_LEAST_ONE = (
    "max_messages",
    "outbox_messages",
    "max_bytes",
    "max_deliveries",
    "max_body",
    "max_batch_messages",
    "max_batch_bytes",
)
_NOT_NEGATIVE = ("replicas", "history", "history_seconds", "dedupe_window", "disk_reserve", "drain_accept")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of one instance of a cell. Durations are seconds, sizes bytes, unless a field says otherwise."""

    cell_id: str
    """Name of the cell; required."""
    instance: str = ""
    """Name of this instance, in a cluster its pod's name; default ``<cell_id>-0``."""
    uid: str = ""
    """Identity of this life of the instance, in a cluster the pod's UID; default random."""
    namespace: str = "default"
    """The mesh this cell belongs to."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 8000
    """Port to listen on; 0 takes any free one."""
    advertise_host: str = ""
    """Address or name that other cells connect to; default: ``host``, or this machine's own when listening on all."""
    data_dir: Path = Path(".data")
    """Directory of the inbox; one process at a time."""
    durability: str = "volume"
    """``volume`` or ``ephemeral``: what receipts say of the data directory. It is fsynced either way."""
    discovery_url: str = ""
    """Base URL of the mesh in discovery, ``http://host:port/meshes/<namespace>``; empty: no discovery."""
    register: bool = True
    """Register with discovery and beat; false where discovery knows the cell from its pod."""
    replicas: int = 0
    """How many instances the cell should have, told when it registers; 0: not known here."""
    type: str = ""
    """Free text shown to peers."""
    branch: str = ""
    """Free text shown to peers."""
    services: tuple[str, ...] = ()
    """Names shown to peers, separated by commas."""
    max_messages: int = 1_000_000
    """Messages pending or leased at most; then 429."""
    outbox_messages: int = 1_000_000
    """Messages queued to be sent at most; then 429."""
    max_bytes: int = 512 * 1024 * 1024
    """Size of the files of inbox and outbox at most; then 429."""
    history: int = 10_000
    """Consumed, and dead, messages kept: the newest so many of each."""
    history_seconds: float = 86_400.0
    """How long consumed and dead messages are kept at most."""
    dedupe_window: float = 600.0
    """How long, at least, a message is recognised when it comes again."""
    max_deliveries: int = 5
    """How often a message is handed out at most; then it is a dead letter."""
    disk_reserve: int = 32 * 1024 * 1024
    """Free space below which new messages are refused with 507."""
    max_body: int = 1024 * 1024
    """Largest body of a request with one message."""
    max_batch_messages: int = 256
    """Most messages in one batch, offered to senders."""
    max_batch_bytes: int = 2 * 1024 * 1024
    """Largest body of a batch, offered to senders."""
    link_messages: int = 10_000
    """Messages waiting for one peer instance at most; then 429."""
    link_bytes: int = 64 * 1024 * 1024
    """Bytes waiting for one peer instance at most; then 429."""
    drain_accept: float = 2.0
    """After SIGTERM new messages are still accepted this long, while peers learn that this instance goes."""
    drain_timeout: float = 25.0
    """After SIGTERM work in flight may take this long."""
    handler_url: str = ""
    """URL that messages are pushed to, http:// only; empty: consumers ask for them."""
    handler_timeout: float = 30.0
    """How long the handler may take to answer, at most 3600; then the message is tried again."""
    handler_concurrency: int = 8
    """Messages pushed at the same time at most, 1 to 256."""
    handler_types: tuple[str, ...] = ()
    """Types of the messages that are pushed, separated by commas; empty: all."""
    app: str = ""
    """The cell's own code, MODULE:OBJECT, for example ``my_module:cell``; empty: none."""
    app_dir: Path = Path()
    """Where that module is looked for before all other places; default the current directory."""
    allowed_hosts: tuple[str, ...] = ()
    """Names besides its own under which clients may address this cell; ``*`` for any."""
    allowed_origins: tuple[str, ...] = ()
    """Web origins whose pages may use this cell; ``*`` for any."""
    log_level: str = "info"
    """debug, info, warning or error."""

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Settings:
        """Read the settings from environment variables.

        Raises:
            SettingsError: names the variable and what it may be.

        """
        hints = get_type_hints(cls)
        values: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            name = PREFIX + field.name.upper()
            text = environ.get(name)
            if text is None or (text == "" and field.name != "discovery_url"):
                continue
            values[field.name] = _read(name, text, hints[field.name])
        if not values.get("cell_id"):
            raise SettingsError(f"{PREFIX}CELL_ID: required and absent; set it to the cell's name")
        return cls(**values)

    def __post_init__(self) -> None:
        """Fill in the defaults that depend on other fields, and check the values."""
        if not is_cell_id(self.cell_id):
            raise SettingsError(f"{PREFIX}CELL_ID: {self.cell_id!r} must match {CELL_ID_PATTERN}")
        if not self.instance:
            object.__setattr__(self, "instance", f"{self.cell_id}-0")
        if not self.uid:
            object.__setattr__(self, "uid", secrets.token_hex(16))
        if self.durability not in {"volume", "ephemeral"}:
            raise SettingsError(f"{PREFIX}DURABILITY: {self.durability!r} must be volume or ephemeral")
        if self.log_level.lower() not in {"debug", "info", "warning", "error"}:
            raise SettingsError(f"{PREFIX}LOG_LEVEL: {self.log_level!r} must be debug, info, warning or error")
        if not 0 <= self.port <= 65535:
            raise SettingsError(f"{PREFIX}PORT: {self.port} must be 0 (any free port) to 65535")
        if self.discovery_url and not self.discovery_url.startswith("http://"):
            raise SettingsError(f"{PREFIX}DISCOVERY_URL: must start with http://")
        self._check_handler()
        for name in _AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise SettingsError(f"{PREFIX}{name.upper()}: {getattr(self, name)} must be at least 1")
        for name in _NOT_NEGATIVE:
            if getattr(self, name) < 0:
                raise SettingsError(f"{PREFIX}{name.upper()}: {getattr(self, name)} must not be negative")

    def _check_handler(self) -> None:
        if self.app and self.handler_url:
            raise SettingsError(
                f"{PREFIX}HANDLER_URL: messages are handled by {PREFIX}APP ({self.app}) or pushed to a URL, not both"
            )
        if self.handler_url and not is_handler_url(self.handler_url):
            raise SettingsError(f"{PREFIX}HANDLER_URL: must be http://HOST or http://HOST:PORT, perhaps with a path")
        if not 0 < self.handler_timeout <= MAX_HANDLER_TIMEOUT:
            most = f"greater than 0 and at most {MAX_HANDLER_TIMEOUT:g}"
            raise SettingsError(f"{PREFIX}HANDLER_TIMEOUT: {self.handler_timeout:g} must be {most}")
        if not 1 <= self.handler_concurrency <= MAX_HANDLER_CONCURRENCY:
            raise SettingsError(
                f"{PREFIX}HANDLER_CONCURRENCY: {self.handler_concurrency} must be 1 to {MAX_HANDLER_CONCURRENCY}"
            )


def unknown(environ: Mapping[str, str]) -> list[str]:
    """Return the ``CELLMESH_`` variables that are no setting, most likely misspelt."""
    known = {PREFIX + field.name.upper() for field in dataclasses.fields(Settings)}
    # Other programs of ours read their own variables.
    others = (PREFIX + "DISCOVERY_", PREFIX + "E2E_", PREFIX + "TEST_")
    return sorted(
        name for name in environ if name.startswith(PREFIX) and name not in known and not name.startswith(others)
    )


def _read(name: str, text: str, kind: Any) -> Any:
    try:
        if kind is bool:
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.lower()]
        if kind is int:
            return int(text)
        if kind is float:
            return float(text)
        if kind is Path:
            return Path(text)
        if kind is str:
            return text
    except (ValueError, KeyError):
        wanted = {bool: "true or false", int: "a whole number", float: "a number of seconds"}[kind]
        raise SettingsError(f"{name}: {text!r} must be {wanted}") from None
    # Blanks of ASCII only: others may belong to a message type.
    return tuple(part.strip(_BLANKS) for part in text.split(",") if part.strip(_BLANKS))
