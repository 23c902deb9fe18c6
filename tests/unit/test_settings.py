"""Settings of a cell, read from the environment."""

from __future__ import annotations

import pytest

from cellmesh.errors import SettingsError
from cellmesh.settings import Settings


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("MAX_DELIVERIES", "0"),
        ("MAX_DELIVERIES", "many"),
        ("HANDLER_URL", "https://a/"),
        ("HANDLER_URL", "http://a:65536/"),
        ("HANDLER_URL", "http://u@a/"),
        ("HANDLER_URL", "http://a/\r\n"),
        ("HANDLER_TIMEOUT", "0"),
        ("HANDLER_TIMEOUT", "nan"),
        ("HANDLER_TIMEOUT", "3601"),
        ("HANDLER_CONCURRENCY", "0"),
        ("HANDLER_CONCURRENCY", "257"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_its_variable(name: str, text: str) -> None:
    """One line names the variable."""
    with pytest.raises(SettingsError, match=f"^CELLMESH_{name}: [^\n]*$"):
        Settings.from_environ({"CELLMESH_CELL_ID": "alpha", f"CELLMESH_{name}": text})


@pytest.mark.parametrize("url", ["http://127.0.0.1:9000/x?y=z", "http://handler", "http://[::1]:65535/"])
def test_a_handler_may_be_anywhere(url: str) -> None:
    """By name or address, of either family."""
    settings = Settings.from_environ({"CELLMESH_CELL_ID": "alpha", "CELLMESH_HANDLER_URL": url})
    assert settings.handler_url == url


def test_lists_keep_what_is_no_ascii_blank() -> None:
    """A message type may hold any other character."""
    given = {"CELLMESH_CELL_ID": "alpha", "CELLMESH_HANDLER_TYPES": " query , a b,\u00a0x,"}
    assert Settings.from_environ(given).handler_types == ("query", "a b", "\u00a0x")
