"""`make test`: which levels run, and what is said of those that cannot."""

from __future__ import annotations

import pytest

from tools.levels import LEVELS, Level, Outcome, exit_code, lacking, main, required

LEVEL = Level("test-some", "something")


def outcome(word: str) -> Outcome:
    """Return what became of a level."""
    return Outcome(LEVEL, word)


@pytest.mark.parametrize(
    ("words", "needed", "code"),
    [
        (["passed", "passed"], False, 0),
        (["passed", "passed"], True, 0),
        (["passed", "FAILED"], False, 1),
        (["passed", "not run"], False, 0),
        (["passed", "not run"], True, 1),
    ],
)
def test_a_level_that_is_missing_fails_only_where_it_is_required(words: list[str], needed: bool, code: int) -> None:
    """A failed level always fails; one that cannot run does on CI only."""
    assert exit_code([outcome(word) for word in words], required=needed) == code


@pytest.mark.parametrize(
    ("environ", "answer"),
    [
        ({}, False),
        ({"CI": "true"}, True),
        ({"CI": "1"}, True),
        ({"CI": "false"}, False),
        ({"CELLMESH_REQUIRE_LEVELS": "1"}, True),
    ],
)
def test_ci_requires_every_level(environ: dict[str, str], answer: bool) -> None:
    """CI and CELLMESH_REQUIRE_LEVELS say that a level may not be left out."""
    assert required(environ) is answer


def test_what_is_missing_is_the_last_line_of_the_check() -> None:
    """A level's check says in one line what is missing; the script's name before it is not repeated."""
    check = ("sh", "-c", "echo looking around >&2; echo 'tools.sh: no Go; install Go' >&2; exit 1")
    assert lacking(Level("test-some", "something", check)) == "no Go; install Go"


def test_nothing_is_missing_where_the_check_succeeds() -> None:
    """A check that exits 0, and a level without one, can run."""
    assert lacking(Level("test-some", "something", ("true",))) == ""
    assert lacking(LEVEL) == ""


def test_an_unknown_level_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """A misspelt level is refused with the names there are."""
    assert main(["test-untit"]) == 2
    said = capsys.readouterr().err
    assert "test-untit" in said
    assert all(level.name in said for level in LEVELS)
