"""What the guide for authors shows works as it stands there."""

from __future__ import annotations

import asyncio
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

GUIDE = Path(__file__).parents[3] / "docs" / "python.md"


def block(beginning: str) -> str:
    """Return the block of the guide that begins with a line."""
    blocks = re.findall(r"(?:^    .*\n|^\n(?=    ))+", GUIDE.read_text(), re.MULTILINE)
    (found,) = [textwrap.dedent(one) for one in blocks if textwrap.dedent(one).lstrip("\n").startswith(beginning)]
    return found


def test_the_first_cell_and_its_test_are_as_the_guide_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect both to run, without a word changed."""
    code = block("# word_count.py").partition("$ cellmesh cell")[0]
    (tmp_path / "word_count.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "word_count", raising=False)
    found: dict[str, Any] = {}
    exec(block("from cellmesh.testing import mesh"), found)  # noqa: S102 - it is our own text
    asyncio.run(found["test_words_are_counted"]())
    sys.modules.pop("word_count", None)
