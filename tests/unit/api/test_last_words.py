"""What an instance says of itself when it ends, and how it is read."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from cellmesh.api import last_words
from cellmesh.protocol.last_words import LastWords, read_last_words


def test_what_is_written_is_what_the_reconciler_reads(tmp_path: Path) -> None:
    """Expect one JSON object, in place of anything longer that was there."""
    path = tmp_path / "termination-log"
    path.write_text("x" * 200)

    last_words.write(12, 3, path)

    assert json.loads(path.read_text()) == {"remaining": 12, "unsent": 3}
    assert read_last_words(path.read_text()) == LastWords(remaining=12, unsent=3)


def test_where_nobody_reads_nothing_is_written(tmp_path: Path) -> None:
    """Expect no file on a machine that is no pod."""
    path = tmp_path / "termination-log"

    last_words.write(1, 0, path)

    assert not path.exists()


def test_a_file_that_cannot_be_written_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Expect a line in the log, and the end to go on."""
    with caplog.at_level(logging.WARNING):
        last_words.write(1, 0, tmp_path)

    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "panic: out of memory",
        "[]",
        "5",
        "{}",
        '{"remaining":1}',
        '{"remaining":-1,"unsent":0}',
        '{"remaining":1.5,"unsent":0}',
        '{"remaining":1,"uns',
        "\udc80",
    ],
)
def test_what_no_cell_has_written_says_nothing(text: str) -> None:
    """Expect anything else that a container may end with to be left alone."""
    assert read_last_words(text) is None
