"""The ledger's files: what is written is read again, and a writer that is killed spoils nothing."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos.ledger import KINDS, Attempt, Found, Ledger, LedgerError, Record, parse, payload, read, seal

ROOT = Path(__file__).parents[3]
VALUES: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(-5, 2**40),
    float: st.floats(0, 2e9, allow_nan=False),
    str: st.text(max_size=8),
    bool: st.booleans(),
    bool | None: st.none() | st.booleans(),
}


@st.composite
def any_record(draw: st.DrawFn) -> Record:
    """Return a record of any class with any values."""
    kind = draw(st.sampled_from(sorted(KINDS)))
    hints = get_type_hints(KINDS[kind])
    return KINDS[kind](**{field.name: draw(VALUES[hints[field.name]]) for field in dataclasses.fields(KINDS[kind])})


@given(st.lists(any_record()))
def test_what_is_written_is_read_again(records: list[Record]) -> None:
    """Every class, every field, line breaks in texts included."""
    assert list(parse(b"".join(record.line() for record in records).decode())) == records


def test_each_class_has_its_name() -> None:
    """No class is missing from the table by which lines are read."""
    assert {kind.__name__ for kind in KINDS.values()} == {kind.__name__ for kind in Record.__subclasses__()}


@given(st.lists(any_record(), min_size=1), st.data())
def test_a_torn_last_line_is_left_out(records: list[Record], data: st.DataObject) -> None:
    """Wherever it is torn."""
    whole = b"".join(record.line() for record in records)
    torn = data.draw(st.integers(1, len(records[-1].line())))
    text = whole[:-torn].decode(errors="ignore")
    assert list(parse(text)) == records[:-1]


@pytest.mark.parametrize("bad", ["{", "[]", '{"record":"nobody"}', '{"record":"found","sequence":1}', "{}", ""])
def test_another_line_that_is_no_record_is_an_error(bad: str) -> None:
    """It names the file and the line: a ledger with holes proves nothing."""
    good = Attempt(number=1, began=1.0, ended=2.0, entry="alpha-0", status=200).line().decode()
    with pytest.raises(LedgerError, match=r"one, line 2: "):
        list(parse(f"{good}{bad}\n{good}", "one"))


def test_every_life_of_a_writer_has_a_file_of_its_own(tmp_path: Path) -> None:
    """Two of the same name do not write into one file."""
    records = [Found(at=1.0, cell="c", instance="c-0", seq=n, number=n, seal="", state="pending") for n in range(3)]
    with Ledger(tmp_path, "reader") as first, Ledger(tmp_path, "reader") as second:
        assert first.path != second.path
        first.write(records[0], records[1])
        second.write(records[2])
    assert list(read(tmp_path)) == records


def test_a_writer_that_is_killed_takes_back_nothing_it_has_written(tmp_path: Path) -> None:
    """What `write` has returned from is with the kernel."""
    program = """
        import os, signal, sys
        from pathlib import Path
        from chaos.ledger import Gone, Ledger
        ledger = Ledger(Path(sys.argv[1]), "writer")
        for number in range(100):
            ledger.write(Gone(consumer=str(number), at=0.5))
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program), tmp_path], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert [getattr(record, "consumer", "") for record in read(tmp_path)] == [str(number) for number in range(100)]


def test_a_message_carries_its_identity() -> None:
    """The seal depends on the run and on the number."""
    assert payload("run", 7, more=1) == {"run": "run", "number": 7, "seal": seal("run", 7), "more": 1}
    assert len({seal("run", 7), seal("run", 8), seal("run 7", 8), seal("other", 7)}) == 4


def test_it_needs_nothing_but_python() -> None:
    """Writers run in a pod that has nothing else."""
    program = "import sys; sys.path[:] = [p for p in sys.path if 'site-packages' not in p]; import chaos.ledger"
    subprocess.run([sys.executable, "-S", "-c", program], cwd=ROOT, check=True)
