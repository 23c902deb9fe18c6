"""Kubernetes quantities, such as ``500m``, ``1Gi`` or ``12e6``, compared by what they mean."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from functools import lru_cache
from typing import Final

_PATTERN: Final = re.compile(
    r"(?P<sign>[+-]?)(?P<number>[0-9]{1,64}(?:\.[0-9]{0,64})?|\.[0-9]{1,64})"
    r"(?P<suffix>[eE][+-]?[0-9]{1,3}|[numkMGTPE]|[KMGTPE]i)?"
)
_DECIMAL: Final = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY: Final = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
#: The API server rounds anything finer up to this.
_NANO: Final = 10**9


@lru_cache(maxsize=1024)
def _read(text: str) -> Fraction:
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no quantity; write for example 500m, 2 or 1Gi")
    number = Fraction(match["number"].rstrip(".")) * (-1 if match["sign"] == "-" else 1)
    suffix = match["suffix"] or ""
    if suffix in _BINARY:
        number *= 2 ** _BINARY[suffix]
    else:
        number *= Fraction(10) ** (_DECIMAL[suffix] if suffix in _DECIMAL else int(suffix[1:]))
    return Fraction(math.ceil(number * _NANO), _NANO)


def quantity(value: object) -> Fraction:
    """Return the number that a quantity stands for.

    Args:
        value: as in JSON: text, or a number.

    Raises:
        ValueError: it is no quantity by the grammar of apimachinery's ``resource.Quantity``.

    """
    return _read(value if isinstance(value, str) else str(value))


def same_quantity(one: object, other: object) -> bool:
    """Tell whether two quantities mean the same; what is none is only equal to itself."""
    try:
        return quantity(one) == quantity(other)
    except ValueError:
        return one == other
