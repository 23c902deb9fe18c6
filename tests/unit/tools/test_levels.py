"""`make test`: which levels run, and what is said of those that cannot."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from support import eventually
from tools.levels import LEVELS, Counts, Level, Outcome, counted, exit_code, judged, lacking, main, make, required

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


def report_of(folder: Path, tests: str) -> Path:
    """Return pytest's report about a file of these tests."""
    file, report = folder / "test_some.py", folder / "report.xml"
    file.write_text(f"import pytest\n{tests}")
    command = [sys.executable, "-m", "pytest", "-q", f"--rootdir={folder}", "-c", "/dev/null", f"--junitxml={report}"]
    subprocess.run([*command, str(file)], check=False, capture_output=True, cwd=folder)
    return report


def test_skipped_tests_are_counted_in_pytests_report(tmp_path: Path) -> None:
    """How many tests there were, how many of them were skipped, and why the first was."""
    report = report_of(tmp_path, "def test_a(): pass\ndef test_b(): pytest.skip('no Helm; run make tools')\n")
    assert counted(report) == Counts(2, 1, "no Helm; run make tools")


def test_a_level_without_a_report_has_no_counts(tmp_path: Path) -> None:
    """Lint writes none, and a pytest that was killed none or half of one."""
    assert counted(tmp_path / "none.xml") == Counts()
    (tmp_path / "half.xml").write_text("<testsuites><testsuite tests=")
    assert counted(tmp_path / "half.xml") == Counts()


@pytest.mark.parametrize(
    ("code", "counts", "word", "said"),
    [
        (0, Counts(), "passed", "passed"),
        (0, Counts(9, 0), "passed", "passed"),
        (0, Counts(9, 8, "no Helm"), "passed", "passed, 8 skipped"),
        (0, Counts(9, 9, "no Helm"), "not run", "every test was skipped: no Helm"),
        (2, Counts(9, 9, "no Helm"), "FAILED", "FAILED"),
        (None, Counts(), "FAILED", "not done within 20 minutes"),
    ],
)
def test_a_level_whose_tests_were_all_skipped_has_not_run(
    code: int | None, counts: Counts, word: str, said: str
) -> None:
    """Exit code 0 is a pass only if a test ran; how many were skipped is said."""
    outcome = judged(LEVEL, code, counts, 1)
    assert outcome.word == word
    assert said in outcome.line


def test_a_level_that_hangs_is_stopped_with_all_that_it_started(tmp_path: Path) -> None:
    """At its deadline it is told to end, as by Ctrl-C, and what is left of its session is killed."""
    script = tmp_path / "hangs"
    script.write_text(
        f"#!/bin/sh\ntrap 'touch {tmp_path}/told; exit 1' INT\nsleep 600 & echo $! >{tmp_path}/pid\nwait\n"
    )
    script.chmod(0o755)
    assert make("some", {}, 1, str(script)) is None
    assert (tmp_path / "told").exists()
    left = int((tmp_path / "pid").read_text())

    def gone() -> bool:
        return not psutil.pid_exists(left) or psutil.Process(left).status() == psutil.STATUS_ZOMBIE

    eventually(gone, within=5, message="the rest to be gone")


def test_without_a_deadline_the_exit_code_is_returned(tmp_path: Path) -> None:
    """The target is run with the variables that are given."""
    script = tmp_path / "ends"
    script.write_text("#!/bin/sh\nexit $CODE\n")
    script.chmod(0o755)
    assert make("some", {"CODE": "3"}, None, str(script)) == 3
    assert make("some", {"CODE": "0"}, 60, str(script)) == 0
