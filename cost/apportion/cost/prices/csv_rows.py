"""A price table as CSV: columns by name, as the YAML form has them, with `match.` before some."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Final, NamedTuple

from apportion.core.errors import PriceTableError
from apportion.cost.document import Marked
from apportion.cost.prices.row_reader import COUNTS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_MATCH: Final = "match."
_LABELS: Final = "labels."


def read_csv_text(path: Path, most_bytes: int) -> str:
    """The text of a CSV file.

    Raises:
        PriceTableError: it cannot be read, is too large or no UTF-8.
    """
    try:
        with path.open("rb") as file:
            content = file.read(most_bytes + 1)
    except OSError as failure:
        raise PriceTableError(
            f"cannot be read: {failure.strerror}. Give a CSV file that this user may read",
            path=path,
        ) from failure
    if len(content) > most_bytes:
        raise PriceTableError(f"is larger than {most_bytes} bytes", path=path)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as failure:
        line = content.count(b"\n", 0, failure.start) + 1
        raise PriceTableError("is not UTF-8 text; save it as UTF-8", path=path, line=line) from (
            failure
        )


class CsvTable(NamedTuple):
    """The names of the columns, and each row with the line on which it begins, by column name.

    Empty cells are left out of a row, and rows without any cell out of the table.
    """

    columns: tuple[str, ...]
    rows: list[tuple[int, dict[str, str]]]


def read_table(path: Path, most_bytes: int) -> CsvTable:
    """The rows of a CSV file.

    Raises:
        PriceTableError: not CSV, a column without a name or twice, or a row that is too long.
    """
    lines = csv.reader(io.StringIO(read_csv_text(path, most_bytes)), strict=True)
    rows: list[tuple[int, dict[str, str]]] = []
    line = 1
    try:
        columns = tuple(cell.strip() for cell in next(lines, list[str]()))
        if not columns or not all(columns) or len(set(columns)) < len(columns):
            raise PriceTableError("the first line must name each column once", path=path, line=1)
        line = lines.line_num + 1
        for cells in lines:
            if len(cells) > len(columns):
                raise PriceTableError(
                    f"has {len(cells)} fields, the header {len(columns)}: quote a field that has "
                    "commas",
                    path=path,
                    line=line,
                )
            named = zip(columns, map(str.strip, cells), strict=False)
            row = {name: cell for name, cell in named if cell}
            if row:
                rows.append((line, row))
            line = lines.line_num + 1
    except csv.Error as failure:
        raise PriceTableError(
            f"is not CSV: {failure}; the row begins here", path=path, line=line
        ) from failure
    if not rows:
        raise PriceTableError("has no row under its header", path=path)
    return CsvTable(columns, rows)


def read_list(path: Path, most_bytes: int, columns: Sequence[str], form: str) -> CsvTable:
    """The rows of a price list that has these `columns`; `form` says of what kind it is.

    Raises:
        PriceTableError: as `read_table`, or a column is not there.
    """
    table = read_table(path, most_bytes)
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise PriceTableError(
            f"is no {form}: it has no column {', '.join(missing)}", path=path, line=1
        )
    return table


def read_csv_rows(path: Path, most_bytes: int) -> tuple[Marked, ...]:
    """The rows as the YAML form has them.

    Raises:
        PriceTableError: as `read_table`.
    """
    return tuple(_entry(line, row) for line, row in read_table(path, most_bytes).rows)


def _entry(line: int, row: dict[str, str]) -> Marked:
    fields: dict[str, Marked] = {}
    match: dict[str, Marked] = {}
    labels: dict[str, Marked] = {}
    for name, text in row.items():
        value = Marked(text, line, text)
        inner = name.removeprefix(_MATCH)
        if inner == name:
            is_count = name in COUNTS and text.isascii() and text.isdigit() and len(text) < 19
            fields[name] = Marked(int(text), line, text) if is_count else value
        elif inner.startswith(_LABELS):
            labels[inner.removeprefix(_LABELS)] = value
        else:
            match[inner] = value
    if labels:
        match["labels"] = Marked(labels, line)
    if match:
        fields["match"] = Marked(match, line)
    return Marked(fields, line)
