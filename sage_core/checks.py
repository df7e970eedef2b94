"""Checks of numbers and text that callers give, NumPy's numbers among them."""

from __future__ import annotations

from math import isfinite
from numbers import Integral, Real
from typing import Any

from sage_core.errors import OptionError

MIN_SEED, MAX_SEED = -(2**63), 2**64 - 1
"""The seeds that PyTorch takes; a negative one is the same as itself plus 2**64."""


def is_number(value: Any) -> bool:
    """Whether a value is a finite real number, of Python or NumPy, and no bool."""
    return isinstance(value, Real) and not isinstance(value, bool) and isfinite(value)


def as_integer(name: str, value: Any, least: int) -> int:
    """An integer of Python or NumPy as Python's.

    Raises:
        OptionError: it is none, or below ``least``.
    """
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise OptionError(f"{name} must be an integer of at least {least}: {value!r}")
    return int(value)


def as_seed(value: Any) -> int:
    """A seed that PyTorch takes, as an integer of Python.

    Raises:
        OptionError: it is none.
    """
    integer = isinstance(value, Integral) and not isinstance(value, bool)
    if not integer or not MIN_SEED <= value <= MAX_SEED:
        raise OptionError(f"seed must be an integer from -2**63 to 2**64 - 1: {value!r}")
    return int(value)


def no_utf8_at(text: str) -> int | None:
    """The place of the first character that is no Unicode, from 1; None if all are.

    It is half of a surrogate pair: so Python keeps bytes that are no UTF-8, and JSON can hold one.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return error.start + 1
    return None
