"""The tables that the API server is held to, held against what `cellmesh up` says."""

from __future__ import annotations

import pytest

from cell_tables import ACCEPTED, REFUSED, RIGHT_NAMES, WRONG_NAMES, cell
from cellmesh.manifests.rules import RULES
from cellmesh.manifests.schema import _rule_faults, _validator, cell_schema, faults, with_defaults


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_cell_that_is_right_is_taken(name: str) -> None:
    """Also fields that have an effect in a cluster only."""
    assert faults(cell(ACCEPTED[name])) == []


@pytest.mark.parametrize("name", REFUSED)
def test_a_cell_that_is_wrong_is_refused_by_its_field(name: str) -> None:
    """The first line begins with the field, and says why."""
    spec, field, why = REFUSED[name]

    lines = faults(cell(spec))

    assert [line for line in lines if line.startswith(f"{field}: ") and why in line], lines


@pytest.mark.parametrize("name", WRONG_NAMES)
def test_a_name_that_is_wrong_is_refused(name: str) -> None:
    """Names are DNS-1035 labels of at most 52 characters."""
    assert [line for line in faults(cell(name=name)) if line.startswith("metadata.name: ")]


@pytest.mark.parametrize("name", RIGHT_NAMES)
def test_a_name_that_is_right_is_taken(name: str) -> None:
    """Up to the longest."""
    assert faults(cell(name=name)) == []


def test_every_rule_refuses_something_in_the_table() -> None:
    """A rule that nobody has seen refuse anything may not work."""
    cells = [*(cell(spec) for spec, _, _ in REFUSED.values()), *(cell(name=name) for name in WRONG_NAMES)]
    # Rules rely on the types that have been checked before.
    checked = [whole for whole in map(with_defaults, cells) if _validator().is_valid(whole)]

    broken = {fault.validator_value for whole in checked for fault in _rule_faults(whole, cell_schema(), ())}

    assert broken == set(RULES)
