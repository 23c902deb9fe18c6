"""Query parameters and conditional headers."""

import pytest

from cellmesh.protocol.problems import Problem
from cellmesh_operator.discovery.queries import etag_matches, parse_deregister, parse_peers, parse_wait


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("30", 30), ("1.5s", 1.5), ("500ms", 0.5), ("0", 0), ("60", 60), ("60.0s", 60), ("60000ms", 60)],
)
def test_durations(text: str, seconds: float) -> None:
    """Expect seconds, with and without unit, and milliseconds."""
    assert parse_wait(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "x", "-1", "61", "60.1s", "60001ms", "1m", "1e1", "nan", "inf", "1 s", "٣", "30s\n", "1" * 5000]
)
def test_what_is_no_duration_up_to_a_minute_is_refused(text: str) -> None:
    """Expect 422 naming wait."""
    with pytest.raises(Problem) as caught:
        parse_wait(text)
    assert (caught.value.http_status, caught.value.field) == (422, "wait")


def test_a_parameter_given_twice_is_refused() -> None:
    """Expect 422: which one is meant is not guessed."""
    with pytest.raises(Problem, match="cell_id"):
        parse_peers("default", [("cell_id", "a"), ("cell_id", "b")])


def test_unknown_parameters_are_ignored() -> None:
    """Expect a newer client to be served by an older discovery."""
    assert parse_peers("default", [("new", "1"), ("new", "2")]).version is None


@pytest.mark.parametrize(("name", "value"), [("instance", ""), ("uid", ""), ("uid", "x" * 257)])
def test_a_name_of_no_or_too_many_characters_is_refused(name: str, value: str) -> None:
    """Expect 422 naming the parameter."""
    with pytest.raises(Problem) as caught:
        parse_deregister("pure", [(name, value)])
    assert caught.value.field == name


@pytest.mark.parametrize(
    ("header", "matches"),
    [
        ('W/"abc"', True),
        ('"abc"', True),
        ("*", True),
        (' "x", W/"abc" , "y"', True),
        ('"x,y", "abc"', True),
        ("", False),
        ("abc", False),
        ('"ABC"', False),
        ('"abcd"', False),
    ],
)
def test_if_none_match(header: str, matches: bool) -> None:
    """Expect weak comparison over a list, and any tag for a star."""
    assert etag_matches(header, "abc") is matches
