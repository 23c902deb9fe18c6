"""Hashes of what was applied, and of what it was built from: unchanged means nothing to write."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from cellmesh_operator.naming import APPLIED_HASH, SPEC_HASH


def digest(value: Any) -> str:
    """Return a hash of JSON data that does not depend on the order of keys; 20 characters."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=10).hexdigest()


def sealed(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return an object with the hash of its body among its annotations."""
    metadata = body["metadata"]
    annotations = {**metadata.get("annotations", {}), APPLIED_HASH: digest(body)}
    return {**body, "metadata": {**metadata, "annotations": annotations}}


def applied_hash(live: Mapping[str, Any]) -> str | None:
    """Return the hash of what was last applied to an object; None if it does not say."""
    return _annotation(live, APPLIED_HASH)


def spec_hash(live: Mapping[str, Any]) -> str | None:
    """Return the hash of the Cell's spec that an object was last built from; None if it does not say."""
    return _annotation(live, SPEC_HASH)


def _annotation(live: Mapping[str, Any], name: str) -> str | None:
    annotations = live["metadata"].get("annotations") or {}
    value: str | None = annotations.get(name)
    return value
