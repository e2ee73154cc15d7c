"""Aligned tables of plain text that fit a page."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

GAP: Final = "  "
INDENT: Final = "  "
SHORTEST_TEXT: Final = 8
CUT: Final = ".."


@dataclass(slots=True)
class Table:
    """Columns by name; the first `texts` of them are text (to the left, cut where the page ends).

    The others are figures: to the right, never cut.
    """

    title: str
    columns: Sequence[str]
    texts: int
    rows: list[Sequence[str]] = field(default_factory=list["Sequence[str]"])

    def add(self, *cells: str) -> None:
        """One more row, as wide as `columns`."""
        self.rows.append([printable(cell) for cell in cells])

    def lines(self, width: int) -> list[str]:
        """The title, the header and the rows; each at most `width` long if figures leave room."""
        widths = [
            max(columns_of(cell) for cell in column)
            for column in zip(self.columns, *self.rows, strict=True)
        ]
        excess = len(INDENT) + sum(widths) + len(GAP) * (len(widths) - 1) - width
        while excess > 0:
            widest = max(range(self.texts), key=lambda index: widths[index])
            if widths[widest] <= SHORTEST_TEXT:
                break
            widths[widest] -= 1
            excess -= 1
        return [self.title, *(self._line(row, widths) for row in (self.columns, *self.rows))]

    def _line(self, row: Sequence[str], widths: Sequence[int]) -> str:
        cells = [
            _filled(_cut(cell, width), width) if index < self.texts else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return (INDENT + GAP.join(cells)).rstrip()


def printable(text: str) -> str:
    """Names come from workloads: nothing in them may steer a terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def columns_of(text: str) -> int:
    """How wide a terminal shows `text`: East Asian characters take two columns, accents none."""
    if text.isascii():
        return len(text)
    return sum(map(_columns_of_one, text))


def _columns_of_one(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _filled(text: str, width: int) -> str:
    return text + " " * (width - columns_of(text))


def _cut(text: str, width: int) -> str:
    if columns_of(text) <= width:
        return text
    while columns_of(text) > width - len(CUT):
        text = text[:-1]
    return text + CUT
