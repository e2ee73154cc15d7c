"""A list as a person or a program wants it: `--format table|json|csv`."""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Final

FORMATS: Final = ("table", "json", "csv")


def add_format(parser: argparse.ArgumentParser, default: str = "table") -> None:
    """The option that every list has."""
    parser.add_argument(
        "--format", choices=FORMATS, default=default, help=f"how to print it (default: {default})"
    )


def render(rows: Sequence[Mapping[str, object]], columns: Sequence[str], form: str) -> str:
    """`rows` with the given `columns`, ending in a newline. None is empty, or null in JSON."""
    if form == "json":
        chosen = [{column: row.get(column) for column in columns} for row in rows]
        return f"{json.dumps(chosen, indent=2, default=str)}\n"
    cells = [[_text(row.get(column)) for column in columns] for row in rows]
    if form == "csv":
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_unformulated(cell) for cell in line] for line in cells)
        return buffer.getvalue()
    head = [column.upper() for column in columns]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in (head, *cells)
    ]
    return "".join(f"{line}\n" for line in lines)


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple | dict):
        return json.dumps(value, default=str)
    # one row is one line, whatever a device or a file is called
    return "".join(letter if letter.isprintable() else "�" for letter in str(value))


def _unformulated(cell: str) -> str:
    """A name that a spreadsheet would run as a formula is quoted; numbers stay as they are."""
    is_number = cell[1:2].isdigit() and cell[0] in "+-"
    return f"'{cell}" if cell[:1] in {"=", "+", "-", "@"} and not is_number else cell
