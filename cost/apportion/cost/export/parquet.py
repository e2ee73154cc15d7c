"""Parquet files of one dataset, a file for each day: rows come in any order, and are not held.

A file gets its name when it is whole. Types are those that Spark and DuckDB read alike: money is
decimal(38, 12), which a unit of the ledger fits exactly, time is in microseconds of UTC.
"""

from __future__ import annotations

import importlib
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from apportion.core.errors import LedgerError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

ROWS_AT_ONCE: Final = 20_000
"""Of a day, before they are written as a row group."""


class Column(NamedTuple):
    """A column of a dataset. `kind`: text, integer, money, time or flag."""

    name: str
    kind: str


def pyarrow() -> Any:
    """The library; it has no types of its own.

    Raises:
        LedgerError: it is not installed.
    """
    try:
        importlib.import_module("pyarrow.parquet")
    except ModuleNotFoundError as error:
        message = "Parquet is written by pyarrow: pip install 'apportion[export]'"
        raise LedgerError(message) from error
    return importlib.import_module("pyarrow")


class Dataset:
    """`directory/name/day=YYYY-MM-DD/<file>.parquet`, the layout that engines call hive."""

    def __init__(
        self, directory: Path, columns: Sequence[Column], file: str, facts: Mapping[str, str]
    ) -> None:
        """`directory` is the dataset's, `file` each file's name without its ending."""
        arrow = self._arrow = pyarrow()
        kinds = {
            "text": arrow.string(),
            "integer": arrow.int64(),
            "money": arrow.decimal128(38, 12),
            "time": arrow.timestamp("us", tz="UTC"),
            "flag": arrow.bool_(),
        }
        fields = [arrow.field(column.name, kinds[column.kind]) for column in columns]
        self._schema = arrow.schema(fields, metadata=dict(facts))
        self._money = [column.kind == "money" for column in columns]
        self._directory, self._file = directory, file
        self._waiting: dict[str, list[tuple[Any, ...]]] = {}
        self._writers: dict[str, tuple[Path, Any]] = {}
        self.rows = 0

    def add(self, day: str, row: tuple[Any, ...]) -> None:
        """One row, as many values as columns: money in units, time in unix microseconds."""
        waiting = self._waiting.setdefault(day, [])
        waiting.append(row)
        if len(waiting) >= ROWS_AT_ONCE:
            self._write(day)

    def finish(self) -> int:
        """Give every file its name; how many there are."""
        for day in list(self._waiting):
            self._write(day)
        for path, writer in self._writers.values():
            writer.close()
            path.replace(path.with_suffix(""))
        return len(self._writers)

    def abandon(self) -> None:
        """Remove what was begun."""
        for path, writer in self._writers.values():
            writer.close()
            path.unlink(missing_ok=True)

    def _write(self, day: str) -> None:
        found = self._waiting.pop(day)
        if day not in self._writers:
            path = self._directory / f"day={day}" / f"{self._file}.parquet.part"
            path.parent.mkdir(parents=True, exist_ok=True)
            quote = self._arrow.parquet.ParquetWriter(path, self._schema, compression="zstd")
            self._writers[day] = path, quote
        columns = [
            [_money(value) for value in values] if is_money else list(values)
            for values, is_money in zip(zip(*found, strict=True), self._money, strict=True)
        ]
        arrays = [
            self._arrow.array(values, field.type)
            for values, field in zip(columns, self._schema, strict=True)
        ]
        self._writers[day][1].write_table(self._arrow.table(arrays, schema=self._schema))
        self.rows += len(found)


def _money(units: int | None) -> Decimal | None:
    """Exactly: built from its digits, it is not rounded to a context."""
    return None if units is None else Decimal(f"{units}E-12")
