"""Errors of a cell that are not an answer to a request.

CellMeshError
├── SettingsError        a setting is missing or wrong; names it
├── ManifestError        a Cell manifest is wrong; names file and field
├── AppError             the code of a cell cannot be used; names file and line
└── InboxError           the inbox cannot be used
    ├── InboxLocked      another process has the data directory
    ├── InboxForeign     the file is not an inbox of ours, or of a newer version
    └── InboxDamaged     the file is damaged; it is left as it is
"""

from __future__ import annotations


class CellMeshError(Exception):
    """Base of the errors that end a command with one line for the user."""


class SettingsError(CellMeshError):
    """A setting is missing or has a value that cannot be used."""


class ManifestError(CellMeshError):
    """A Cell manifest is not valid."""


class AppError(CellMeshError):
    """The code of a cell cannot be loaded, or failed as it was started."""


class InboxError(CellMeshError):
    """The inbox cannot be opened."""


class InboxLocked(InboxError):  # noqa: N818 - the state it is in
    """Another process holds the data directory."""


class InboxForeign(InboxError):  # noqa: N818 - the state it is in
    """The database file is not an inbox, or one of a newer version; it was not touched."""


class InboxDamaged(InboxError):  # noqa: N818 - the state it is in
    """The database file fails SQLite's integrity check; it was not touched."""
