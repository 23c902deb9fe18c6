"""Who may ask: media types, Host and Origin."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellmesh.protocol.guard import check_json, check_origin, host_allowed, split_host

OWN = frozenset({"pure.default.svc.cluster.local", "mesh.example.org"})
NONE: frozenset[str] = frozenset()


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "localhost:8000", "LOCALHOST:8000", "pure", "pure:8002", "20302eb1df3f:8002",
        "127.0.0.1", "127.0.0.1:8000", "10.1.2.3:8002", "[::1]", "[::1]:8000", "[fe80::1]:8000",
        "mesh.example.org", "mesh.example.org:80", "MESH.example.org", "pure.default.svc.cluster.local:8002",
    ],
)  # fmt: skip
def test_addresses_plain_names_and_configured_names_are_taken(host: str) -> None:
    """Expect no problem with names that no foreign DNS zone can point here."""
    assert check_origin(host, None, OWN, NONE) is None


@pytest.mark.parametrize(
    "host",
    [
        "evil.com", "evil.com:8000", "127.0.0.1.nip.io", "localhost.evil.com:8000", "rebind.network",
        "127.0.0.1.evil.com", "10.0.0.256", "1.2.3", "mesh.example.org.evil.com", "example.org", "",
        ":8000", "[", "[]:80", "[evil.com]:80", "user@evil.com", "127.0.0.1@evil.com", "evil.com.",
        "mesh.example.org@evil.com",
    ],
)  # fmt: skip
def test_names_that_a_foreign_zone_may_point_here_are_refused(host: str) -> None:
    """Expect 403, so that a page cannot reach a laptop's cell by DNS rebinding."""
    problem = check_origin(host, None, OWN, NONE)
    assert problem is not None
    assert (problem.http_status, problem.code, problem.field) == (403, "forbidden_host", "Host")


def test_a_request_without_a_host_is_not_refused_for_it() -> None:
    """Expect HTTP/1.0 clients, which no browser is, taken."""
    assert check_origin(None, None, NONE, NONE) is None


def test_any_host_is_taken_where_the_settings_say_so() -> None:
    """Expect ``*`` to allow every name."""
    assert host_allowed("evil.com:1", frozenset({"*"}))


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://localhost:8000", "localhost:8000"),
        ("https://localhost:8000", "localhost:8000"),
        ("http://LOCALHOST:8000", "localhost:8000"),
        ("http://[::1]:8000", "[::1]:8000"),
        ("https://app.example.org", "127.0.0.1:8000"),
    ],
)
def test_this_servers_own_pages_and_configured_ones_may_ask(origin: str, host: str) -> None:
    """Expect no problem."""
    assert check_origin(host, origin, OWN, frozenset({"https://app.example.org"})) is None


@pytest.mark.parametrize(
    "origin",
    [
        "null", "", "http://evil.com", "https://evil.com:8000", "http://localhost", "http://localhost:8001",
        "http://127.0.0.1:8000", "file://", "file://localhost:8000", "chrome-extension://localhost:8000",
        "localhost:8000", "http://localhost:8000/", "http://localhost:8000.evil.com", "http://x@localhost:8000",
        "http://app.example.org", "https://app.example.org.evil.com", "http://localhost:8000, http://evil.com",
    ],
)  # fmt: skip
def test_other_pages_may_not_ask(origin: str) -> None:
    """Expect 403 for foreign pages, sandboxed ones (``null``), files and extensions."""
    problem = check_origin("localhost:8000", origin, OWN, frozenset({"https://app.example.org"}))
    assert problem is not None
    assert (problem.http_status, problem.code, problem.field) == (403, "forbidden_origin", "Origin")


def test_a_page_that_names_no_host_may_not_ask() -> None:
    """Expect an origin without a Host to compare with refused."""
    assert check_origin(None, "http://", OWN, NONE) is not None


@pytest.mark.parametrize(
    "media",
    [
        "application/json", "APPLICATION/JSON", "application/json; charset=utf-8", "application/json;charset=UTF-8",
        'application/json; charset="utf-8"', " application/json ", "application/json; x=y", "application/json;",
    ],
)  # fmt: skip
def test_json_is_taken_however_it_is_written(media: str) -> None:
    """Expect no problem."""
    assert check_json(media) is None


@pytest.mark.parametrize(
    "media",
    [
        None, "", "text/plain", "text/json", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x",
        "application/cloudevents+json", "application/cloudevents-batch+json", "application/xml", "application/jsonp",
        "application/json; charset=utf-16", "application/json; charset=latin-1", "json", "application/json, text/plain",
    ],
)  # fmt: skip
def test_what_is_not_json_is_refused(media: str | None) -> None:
    """Expect 415, which also keeps a page from posting without asking first."""
    problem = check_json(media)
    assert problem is not None
    assert (problem.http_status, problem.code, problem.field) == (415, "unsupported_media_type", "Content-Type")


@given(host=st.text(max_size=60), origin=st.none() | st.text(max_size=60), media=st.none() | st.text(max_size=60))
def test_no_header_breaks_the_checks(host: str, origin: str | None, media: str | None) -> None:
    """Expect a problem or none, for any text."""
    assert split_host(host) == split_host(host).lower()
    check_origin(host, origin, OWN, NONE)
    check_json(media)
