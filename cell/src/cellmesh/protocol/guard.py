"""What a request must look like before its body is read: its media type, and where it comes from.

A cell on a laptop listens where every web page the user opens can reach it. A page can send a POST to
127.0.0.1, and by DNS rebinding even under a name of its own; it cannot forge ``Host`` or ``Origin``.
So a ``Host`` that is a public name nobody configured, and an ``Origin`` that is not this server, are
refused (403). Pure functions; cells and discovery both use them.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache

from cellmesh.protocol.problems import Problem


def split_host(host: str) -> str:
    """Return the name or address of a ``Host`` header without its port, lower-cased."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def host_allowed(host: str, allowed: frozenset[str]) -> bool:
    """Tell whether a ``Host`` header is one that a program on purpose addresses this server by.

    Addresses and single-label names (``localhost``, a container's name) cannot be rebound by a foreign
    DNS zone; any other name must be in ``allowed``, which may hold ``*``.
    """
    name = split_host(host)
    if not name:
        return False
    if name in allowed or "*" in allowed or "." not in name.rstrip("."):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def origin_allowed(origin: str, host: str, allowed: frozenset[str]) -> bool:
    """Tell whether an ``Origin`` header is this server itself (its own documentation page) or configured."""
    if origin in allowed or "*" in allowed:
        return True
    scheme, separator, rest = origin.partition("://")
    return bool(separator) and scheme in {"http", "https"} and bool(host) and rest.lower() == host.lower()


@lru_cache(maxsize=256)
def check_origin(
    host: str | None, origin: str | None, hosts: frozenset[str], origins: frozenset[str]
) -> Problem | None:
    """Return the problem with a request's ``Host`` or ``Origin``, or None. Cached: peers repeat theirs."""
    if host is not None and not host_allowed(host, hosts):
        return Problem(
            "forbidden_host",
            f"Host: {host[:100]!r} is not a name of this server; use its address or a configured name",
            field="Host",
        )
    if origin is not None and not origin_allowed(origin, host or "", origins):
        return Problem(
            "forbidden_origin",
            f"Origin: {origin[:100]!r} may not use this server; add it to the allowed origins if it should",
            field="Origin",
        )
    return None


def media_type(content_type: str | None) -> str:
    """Return the media type of a ``Content-Type`` header, without its parameters."""
    return (content_type or "").partition(";")[0].strip().lower()


@lru_cache(maxsize=64)
def check_json(content_type: str | None) -> Problem | None:
    """Return the problem with a ``Content-Type`` that should be JSON, or None.

    RFC 8259 has no charset parameter; one that says UTF-8 is harmless and accepted.
    """
    media, _, parameters = (content_type or "").partition(";")
    charset = ""
    for parameter in parameters.split(";"):
        key, _, value = parameter.partition("=")
        if key.strip().lower() == "charset":
            charset = value.strip().strip('"').lower()
    if media.strip().lower() == "application/json" and charset in {"", "utf-8", "utf8", "us-ascii"}:
        return None
    return Problem(
        "unsupported_media_type",
        f"Content-Type: {(content_type or 'absent')[:100]!r} is not JSON; send application/json",
        field="Content-Type",
    )
