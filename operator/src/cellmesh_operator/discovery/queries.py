"""What a request asks for: query parameters and conditional headers, parsed and checked. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cellmesh.protocol.fields import MAX_ID
from cellmesh.protocol.problems import invalid
from cellmesh_operator.discovery.registration import check_cell_id
from cellmesh_operator.discovery.versions import Scope

#: Longest ``wait``, seconds.
MAX_WAIT = 60
#: What ``wait`` may be; the bound is part of it, so that the OpenAPI document tells the whole rule.
WAIT_PATTERN = r"^(([0-9]|[1-5][0-9])(\.[0-9]{1,6})?s?|60(\.0{1,6})?s?|([0-9]|[1-9][0-9]{1,3}|[1-5][0-9]{4}|60000)ms)$"

_WAIT = re.compile(WAIT_PATTERN)
_ETAG = re.compile(r'(?:W/)?"([^"]*)"')


@dataclass(frozen=True, slots=True)
class PeersQuery:
    """A checked ``GET /peers``: of what, and whether to wait ``wait`` seconds for something newer."""

    scope: Scope
    version: str | None
    wait: float


@dataclass(frozen=True, slots=True)
class DeregisterQuery:
    """A checked ``DELETE /peer/{cell_id}``."""

    cell_id: str
    instance: str | None
    uid: str | None


def parse_peers(mesh: str, parameters: Iterable[tuple[str, str]]) -> PeersQuery:
    """Check the parameters of ``GET /peers``; unknown ones are ignored.

    Raises:
        Problem: ``invalid_field`` (422) naming the parameter.

    """
    given = _single(parameters, ("cell_id", "version", "wait"))
    cell_id = given.get("cell_id")
    if cell_id is not None:
        check_cell_id("cell_id", cell_id)
    wait = given.get("wait")
    return PeersQuery(Scope(mesh, cell_id), given.get("version"), 0.0 if wait is None else parse_wait(wait))


def parse_deregister(cell_id: str, parameters: Iterable[tuple[str, str]]) -> DeregisterQuery:
    """Check the path and the parameters of ``DELETE /peer/{cell_id}``; unknown ones are ignored.

    Raises:
        Problem: ``invalid_field`` (422) naming the parameter.

    """
    check_cell_id("cell_id", cell_id)
    given = _single(parameters, ("instance", "uid"))
    for name, value in given.items():
        if not 1 <= len(value) <= MAX_ID:
            raise invalid(name, f"must have 1 to {MAX_ID} characters; leave it out if there is none")
    return DeregisterQuery(cell_id, given.get("instance"), given.get("uid"))


def parse_wait(text: str) -> float:
    """Return the seconds of ``30s``, ``30``, ``1.5s`` or ``500ms``.

    Raises:
        Problem: ``invalid_field`` naming ``wait``.

    """
    if not _WAIT.fullmatch(text):
        raise invalid("wait", f"{text[:80]!r} must be a duration such as 30s or 500ms, at most {MAX_WAIT}s")
    if text.endswith("ms"):
        return int(text[:-2]) / 1000
    return float(text.removesuffix("s"))


def etag_matches(if_none_match: str, etag: str) -> bool:
    """Tell whether ``If-None-Match`` names this entity tag (its text, without quotes), or any.

    Weak comparison, as RFC 9110 wants for this header; what is not a list of entity tags matches nothing.
    """
    return if_none_match.strip() == "*" or etag in _ETAG.findall(if_none_match)


def _single(parameters: Iterable[tuple[str, str]], names: tuple[str, ...]) -> Mapping[str, str]:
    given: dict[str, str] = {}
    for name, value in parameters:
        if name not in names:
            continue
        if name in given:
            raise invalid(name, "given more than once; give it once")
        given[name] = value
    return given
