"""Kubernetes quantities, such as ``500m``, ``1Gi`` or ``12e6``, as the numbers they stand for."""

from __future__ import annotations

import re
from fractions import Fraction

_PATTERN = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?P<suffix>[eE][+-]?[0-9]{1,2}|[numkMGTPE]|[KMGTPE]i)?")
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}


def quantity(value: int | str) -> Fraction:
    """Return the number that a quantity stands for.

    Raises:
        ValueError: it is none, which the schema does not let through.

    """
    match = _PATTERN.fullmatch(str(value))
    if match is None:
        raise ValueError(f"{value!r} is no quantity; write for example 512Mi")
    number, suffix = Fraction(match["number"].rstrip(".")), match["suffix"] or ""
    if suffix in _BINARY:
        return number * (1 << _BINARY[suffix])
    power: Fraction = Fraction(10) ** (_DECIMAL[suffix] if suffix in _DECIMAL else int(suffix[1:]))
    return number * power
