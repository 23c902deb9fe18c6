"""Test levels that need more than Python: skipped with reason and remedy, or failed where they are required."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def required() -> bool:
    """Tell whether a level that cannot run is a failure: on CI, and where CELLMESH_REQUIRE_LEVELS is set."""
    return os.environ.get("CI", "").lower() in {"1", "true"} or os.environ.get("CELLMESH_REQUIRE_LEVELS") == "1"


def missing(reason: str, remedy: str) -> NoReturn:
    """End a test whose level this machine cannot run.

    Args:
        reason: what is missing.
        remedy: what to do about it.

    """
    text = f"{reason}; {remedy}"
    if required():
        pytest.fail(f"{text} (this level is required: CI or CELLMESH_REQUIRE_LEVELS is set)", pytrace=False)
    pytest.skip(text)
