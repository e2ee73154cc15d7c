"""Amounts on the command line: exact decimals, in and out."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Final

from apportion.core.errors import ConfigError

_LONGEST: Final = 40


def decimal_of(option: str, text: str) -> Fraction:
    """A number from 0 in plain decimal notation.

    Raises:
        ConfigError: it is none.
    """
    plain = text.replace(".", "", 1)
    if not (plain.isascii() and plain.isdigit()) or len(text) > _LONGEST:
        raise ConfigError(f"{option} {text!r} is not a decimal such as 2.49")
    return Fraction(Decimal(text))


def shown(amount: int, one: int) -> str:
    """`amount` out of a power of ten, with all its decimals."""
    return f"{amount // one}.{amount % one:0{len(str(one)) - 1}d}"
