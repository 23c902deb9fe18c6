"""Quantities are compared by what they mean."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellmesh.protocol.quantities import quantity, same_quantity


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1", 1),
        (2, 2),
        (0.5, Fraction(1, 2)),
        ("500m", Fraction(1, 2)),
        ("1000m", 1),
        ("1Gi", 2**30),
        ("1024Mi", 2**30),
        ("1.5Gi", 3 * 2**29),
        (".5Ki", 512),
        ("5.", 5),
        ("1G", 10**9),
        ("12e6", 12 * 10**6),
        ("1E3", 1000),
        ("1E", 10**18),
        ("-3", -3),
        ("+3k", 3000),
        ("100n", Fraction(1, 10**7)),
        ("0.1n", Fraction(1, 10**9)),
        ("7u", Fraction(7, 10**6)),
    ],
)
def test_a_quantity_is_the_number_that_it_means(text: object, number: object) -> None:
    """Suffixes of both kinds and exponents count; what is finer than a billionth is rounded up."""
    assert quantity(text) == number


@pytest.mark.parametrize(
    "text", ["", "Gi", "1 Gi", "1gi", "1KI", "1.2.3", "one", "1e", "0x10", "1Gi\n", "٣", True, None]
)
def test_what_is_no_quantity_is_refused(text: object) -> None:
    """Anything outside the grammar is an error that shows it."""
    with pytest.raises(ValueError, match="is no quantity"):
        quantity(text)


@given(number=st.integers(min_value=0, max_value=2**40))
def test_each_way_to_write_a_number_is_the_same(number: int) -> None:
    """Thousandths, exponents and powers of 1024 of the same number are equal to it."""
    assert same_quantity(f"{number * 1000}m", number)
    assert same_quantity(f"{number}Ki", f"{number * 1024}")
    assert same_quantity(f"{number}e3", f"{number}k")


@given(one=st.integers(0, 10**6), other=st.integers(0, 10**6))
def test_different_numbers_differ(one: int, other: int) -> None:
    """Two quantities are the same only if their numbers are."""
    assert same_quantity(f"{one}m", f"{other}m") == (one == other)


def test_what_is_no_quantity_equals_only_itself() -> None:
    """A value that cannot be read is compared as it stands."""
    assert same_quantity("much", "much")
    assert not same_quantity("much", "1")
