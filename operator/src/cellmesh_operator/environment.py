"""Settings of a program from its environment: a dataclass, each field of it a variable.

A variable is the program's prefix plus the field in capitals. The kinds of fields are ``str``, ``bool``,
``int``, ``float`` (seconds) and ``tuple[str, ...]`` (separated by commas).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, get_type_hints

from cellmesh_operator.errors import SettingsError

LOG_LEVELS = ("debug", "info", "warning", "error")
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


def read(settings: type, prefix: str, environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the values of those fields whose variables are there; an empty variable counts as absent.

    Raises:
        SettingsError: a value is not of its field's kind; names the variable.

    """
    hints = get_type_hints(settings)
    values: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        name = prefix + field.name.upper()
        text = environ.get(name)
        if text and not (field.name == "port" and _is_service_link(text)):
            values[field.name] = _value(name, text, hints[field.name])
    return values


def unknown(settings: type, prefix: str, environ: Mapping[str, str]) -> list[str]:
    """Return the variables with the prefix that are no setting, most likely misspelt, sorted."""
    known = {prefix + field.name.upper() for field in dataclasses.fields(settings)}
    # Written by Kubernetes for every Service that is named like the program.
    links = (prefix + "SERVICE_", prefix + "PORT_")
    return sorted(
        name for name in environ if name.startswith(prefix) and name not in known and not name.startswith(links)
    )


def split(text: str) -> tuple[str, ...]:
    """Return the parts of a list separated by commas, each once, in order."""
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def wrong(prefix: str, field: str, value: object, wanted: str) -> SettingsError:
    """Return the error of a setting that cannot be used: the variable, its value, and what it may be."""
    return SettingsError(f"{prefix}{field.upper()}: {value!r} must be {wanted}")


def _is_service_link(text: str) -> bool:
    """Tell whether Kubernetes wrote this port: it does so for every Service that is named like the program."""
    return text.startswith(("tcp://", "udp://", "sctp://"))


def _value(name: str, text: str, kind: Any) -> Any:
    if kind is str:
        return text
    if kind is bool:
        if text.lower() not in _BOOLEANS:
            raise SettingsError(f"{name}: {text!r} must be true or false")
        return _BOOLEANS[text.lower()]
    try:
        if kind is int:
            return int(text)
        if kind is float:
            return float(text)
    except ValueError:
        wanted = "a whole number" if kind is int else "a number of seconds"
        raise SettingsError(f"{name}: {text!r} must be {wanted}") from None
    return split(text)
