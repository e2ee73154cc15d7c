"""A price table as CSV: columns by name, as the YAML form has them, with `match.` before some."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Final

from apportion.core.errors import PriceTableError
from apportion.cost.document import MAX_BYTES, Marked

if TYPE_CHECKING:
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


def read_table(path: Path, most_bytes: int = MAX_BYTES) -> list[tuple[int, dict[str, str]]]:
    """The rows of a CSV file with its line, by column name; empty cells are left out.

    Raises:
        PriceTableError: not CSV, a column without a name or twice, or a row that is too long.
    """
    lines = csv.reader(io.StringIO(read_csv_text(path, most_bytes)), strict=True)
    rows: list[tuple[int, dict[str, str]]] = []
    try:
        header = [cell.strip() for cell in next(lines, list[str]())]
        if not header or not all(header) or len(set(header)) < len(header):
            raise PriceTableError("the first line must name each column once", path=path, line=1)
        for cells in lines:
            if len(cells) > len(header):
                raise PriceTableError(
                    f"has {len(cells)} fields, the header {len(header)}: quote a field that has "
                    "commas",
                    path=path,
                    line=lines.line_num,
                )
            named = zip(header, map(str.strip, cells), strict=False)
            row = {name: cell for name, cell in named if cell}
            if row:
                rows.append((lines.line_num, row))
    except csv.Error as failure:
        raise PriceTableError(f"is not CSV: {failure}", path=path, line=lines.line_num) from failure
    if not rows:
        raise PriceTableError("has no row under its header", path=path)
    return rows


def read_csv_rows(path: Path) -> tuple[Marked, ...]:
    """The rows as the YAML form has them.

    Raises:
        PriceTableError: as `read_table`.
    """
    return tuple(_entry(line, row) for line, row in read_table(path))


def _entry(line: int, row: dict[str, str]) -> Marked:
    fields: dict[str, Marked] = {}
    match: dict[str, Marked] = {}
    labels: dict[str, Marked] = {}
    for name, text in row.items():
        value = Marked(text, line, text)
        inner = name.removeprefix(_MATCH)
        if inner == name:
            is_count = name == "devices" and text.isascii() and text.isdigit()
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
