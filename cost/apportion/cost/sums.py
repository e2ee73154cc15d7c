"""Sums that never overflow: int64 columns added up exactly on every database.

A line of the ledger fits int64, a fleet's year does not. SQLite's SUM stops with an error there
and PostgreSQL's SUM of bigint is already numeric, so one construct compiles to each: on SQLite
the high and the low 32 bits are summed apart and put together again in Python.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import BigInteger, cast, func, literal_column
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import UserDefinedType

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Dialect
    from sqlalchemy.sql.compiler import SQLCompiler
    from sqlalchemy.sql.type_api import _ResultProcessorType

_HALF_BITS: Final = 32
_LOW_MASK: Final = (1 << _HALF_BITS) - 1


def _whole(value: Any) -> int | None:
    """The sum as one integer: SQLite answers `high:low`, others a number."""
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, Decimal):
        return int(value)
    high, _, low = str(value).partition(":")
    return (int(high) << _HALF_BITS) + int(low)


class _WideInteger(UserDefinedType[Any]):
    """The result of a wide sum: an integer of any size, or None over no values."""

    cache_ok = True

    def get_col_spec(self, **_options: object) -> str:
        """What a cast to it would say."""
        return "NUMERIC"

    def result_processor(self, dialect: Dialect, coltype: object) -> _ResultProcessorType[Any]:
        """See `_whole`."""
        del dialect, coltype
        return _whole


class WideSum(FunctionElement[int]):
    """SUM of an integer column; NULLs are left out, and nothing but NULLs gives None."""

    name = "wide_sum"
    type = _WideInteger()
    inherit_cache = True


@compiles(WideSum)
def _numeric(element: WideSum, compiler: SQLCompiler, **options: Any) -> str:
    return f"SUM(CAST({compiler.process(element.clauses, **options)} AS NUMERIC))"


@compiles(WideSum, "sqlite")
def _halves(element: WideSum, compiler: SQLCompiler, **options: Any) -> str:
    # >> keeps the sign and & takes the low bits of two's complement: high * 2^32 + low is the
    # value for negative ones too.
    column = compiler.process(element.clauses, **options)
    return f"(SUM(({column}) >> {_HALF_BITS}) || ':' || SUM(({column}) & {_LOW_MASK}))"


def wide_sum(column: ColumnElement[int] | ColumnElement[int | None]) -> WideSum:
    """The exact sum of an integer `column` (units, millijoules, nanoseconds, tokens)."""
    return WideSum(column)


Halves = tuple["ColumnElement[Any]", "ColumnElement[Any]"]
"""The high and the low 32 bits of an integer, as two columns."""


def halves(column: ColumnElement[int] | ColumnElement[int | None]) -> Halves:
    """An integer `column` in halves; NULL is NULL in both."""
    # Written out: PostgreSQL shifts a bigint by an integer only, and a bound one is a bigint.
    bits: ColumnElement[int] = literal_column(str(_HALF_BITS))
    mask: ColumnElement[int] = literal_column(str(_LOW_MASK))
    return column.bitwise_rshift(bits), column.bitwise_and(mask)


def sums_of_halves(*pairs: Halves) -> list[ColumnElement[Any]]:
    """Two sums for each pair, for `joined`.

    Where rows come by the thousand they are read much faster than wide sums.
    """
    return [_narrow(half) for pair in pairs for half in pair]


def narrow_sums(*columns: ColumnElement[Any]) -> list[ColumnElement[Any]]:
    """Sums that fit 64 bits whatever happens: of things, of tokens, of one span's time."""
    return [_narrow(column) for column in columns]


def _narrow(column: ColumnElement[Any]) -> ColumnElement[Any]:
    # PostgreSQL makes it numeric, which its driver reads slowly and cannot be shifted.
    return cast(func.sum(column), BigInteger)  # noqa: TID251 - of halves 2^31 fit


def joined(high: int | None, low: int | None) -> int | None:
    """The integer of two halves or of their sums; None where both are."""
    return None if high is None or low is None else (high << _HALF_BITS) + low


def split(value: int | None) -> tuple[int | None, int | None]:
    """`value` in halves, as they are stored."""
    return (None, None) if value is None else (value >> _HALF_BITS, value & _LOW_MASK)
