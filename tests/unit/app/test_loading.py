"""``MODULE:OBJECT``: found, or said in one line why not, with file and line where the author's code fails."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cellmesh import Cell
from cellmesh.app.loading import load
from cellmesh.errors import AppError

GOOD = "from cellmesh import Cell\ncell = Cell('pure')\nother = 1\nclass Box:\n    inner = Cell('inner')\n"


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Forget what was imported."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def write(directory: Path, name: str, text: str) -> None:
    """Write a module."""
    file = directory / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def error_of(app: str, directory: Path) -> str:
    """Return what is said of an app that cannot be loaded."""
    with pytest.raises(AppError) as error:
        load(app, directory)
    text = str(error.value)
    assert "\n" not in text
    return text


def test_a_cell_is_found_in_its_module(tmp_path: Path) -> None:
    """Expect modules of the directory, of packages in it, and objects inside of others."""
    write(tmp_path, "load_good.py", GOOD)
    write(tmp_path, "load_package/__init__.py", "")
    write(tmp_path, "load_package/module.py", "from load_good import cell\n")
    found = load("load_good:cell", tmp_path)
    assert isinstance(found, Cell)
    assert found.name == "pure"
    assert load("load_package.module:cell", tmp_path) is found
    assert load("load_good:Box.inner", tmp_path).name == "inner"


@pytest.mark.parametrize(
    "app", ["", "module", "module:", ":cell", "mod ule:cell", "../module:cell", "a:b:c", "a.py:b-c"]
)
def test_what_is_no_module_and_object_is_refused(tmp_path: Path, app: str) -> None:
    """Expect the form with an example."""
    assert error_of(app, tmp_path) == f"app: {app!r} must be MODULE:OBJECT, for example my_module:cell"


def test_a_module_that_is_not_there_is_said_with_where_it_was_looked_for(tmp_path: Path) -> None:
    """Expect the directory named."""
    assert error_of("load_absent:cell", tmp_path) == (
        f"app: there is no module 'load_absent' in {tmp_path} or on PYTHONPATH"
    )
    write(tmp_path, "load_package/__init__.py", "")
    assert "no module 'load_package.absent'" in error_of("load_package.absent:cell", tmp_path)


def test_an_object_that_is_not_there_is_said_with_those_there_are(tmp_path: Path) -> None:
    """Expect the file, and the cells in it."""
    write(tmp_path, "load_good.py", GOOD)
    file = tmp_path / "load_good.py"
    assert error_of("load_good:sell", tmp_path) == f"app: {file} has no 'sell'; its cells: cell"
    write(tmp_path, "load_empty.py", "")
    assert error_of("load_empty:cell", tmp_path).endswith("has no 'cell'; it has no cellmesh.Cell")
    assert error_of("load_good:other", tmp_path) == f"app: 'other' of {file} must be a cellmesh.Cell, got int"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\n\nvalue = unknown\n", "NameError: name 'unknown' is not defined ({file} line 3)"),
        ("value = 1\ndef broken(:\n", "SyntaxError: invalid syntax ({file} line 2)"),
        ("\nimport load_nowhere\n", "ModuleNotFoundError: No module named 'load_nowhere' ({file} line 2)"),
        ("import sys\nsys.exit(3)\n", "SystemExit: 3 ({file} line 2)"),
        ("import json\n\njson.loads('x')\n", "JSONDecodeError: Expecting value: line 1 column 1 (char 0) ("),
        ("from cellmesh import Cell\nCell('no blanks')\n", "ValueError: name: 'no blanks' must match"),
        ("raise ValueError('one\\ntwo')", "ValueError: one ({file} line 1)"),
        ("raise ValueError", "ValueError ({file} line 1)"),
    ],
)  # fmt: skip
def test_a_module_that_fails_is_said_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    """Expect the author's line, also where a library or we raised it."""
    write(tmp_path, "load_broken.py", text)
    line = error_of("load_broken:cell", tmp_path)
    assert line.startswith("app: load_broken cannot be imported: " + said.format(file=tmp_path / "load_broken.py"))


def test_at_level_debug_the_stack_trace_is_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Expect it there and only there."""
    write(tmp_path, "load_broken.py", "1 / 0\n")
    for level, there in (("INFO", False), ("DEBUG", True)):
        with caplog.at_level(level):
            error_of("load_broken:cell", tmp_path)
        assert ("Traceback" in caplog.text) is there


def test_the_line_is_that_of_the_module_that_fails(tmp_path: Path) -> None:
    """Expect it of a module that the named one imports."""
    write(tmp_path, "load_outer.py", "import load_inner\n")
    write(tmp_path, "load_inner.py", "\n1 / 0\n")
    assert error_of("load_outer:cell", tmp_path).endswith(f"({tmp_path / 'load_inner.py'} line 2)")
