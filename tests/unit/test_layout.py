"""The layout that other things rely on."""

from __future__ import annotations

import operator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_the_standard_librarys_operator_is_not_shadowed() -> None:
    """`operator` is the standard library's, and the folder of that name is no package."""
    assert operator.itemgetter(0)([1]) == 1
    assert ROOT not in Path(str(operator.__file__)).resolve().parents
    assert not (ROOT / "operator" / "__init__.py").exists()


def test_tests_are_no_packages() -> None:
    """No `__init__.py` under tests: with importlib mode it could replace modules of the same name."""
    assert list((ROOT / "tests").rglob("__init__.py")) == []


@pytest.mark.parametrize("file", ["runtime.txt", "operator.txt", "dev.txt", "pip.txt"])
def test_every_pinned_requirement_has_hashes_and_no_index_address(file: str) -> None:
    """The pinned files name versions and hashes, and no address to fetch them from."""
    text = (ROOT / "requirements" / file).read_text()
    assert "://" not in text
    assert "--index" not in text
    pins = [line for line in text.splitlines() if line and not line.startswith((" ", "#"))]
    assert pins
    assert all("==" in line and line.endswith("\\") for line in pins)


def test_modules_stay_small_enough_to_know() -> None:
    """No module of the product is longer than 420 lines."""
    sizes = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for room in ("cell/src", "operator/src")
        for path in (ROOT / room).rglob("*.py")
    }
    assert {name: lines for name, lines in sizes.items() if lines > 420} == {}


def test_readme_leads_with_the_two_commands() -> None:
    """`make run` and `make test` are the first commands of the README."""
    text = (ROOT / "README.md").read_text()
    first = [line.strip() for line in text.splitlines() if line.strip().startswith("make ")]
    assert first[0].split("#")[0].strip() == "make run"
    assert first[1].split("#")[0].strip() == "make test"
