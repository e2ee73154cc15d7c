"""Brings rollups up to their ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apportion.cost.rollups.line_piece import lines_down, lines_up
from apportion.cost.rollups.meter_piece import meters
from apportion.cost.rollups.piece import ROWS_AT_ONCE, Pieces
from apportion.cost.rollups.span_piece import spans

if TYPE_CHECKING:
    from sqlalchemy import Engine


class Roller(Pieces):
    """Rolls up what is posted and settled, then the spans of hours that are over.

    Spans come last: their cost is that of the lines that are rolled up.
    """

    def __init__(
        self,
        engine: Engine,
        name: str,
        *,
        reading: Engine | None = None,
        most_rows: int = ROWS_AT_ONCE,
    ) -> None:
        finders = (lines_up, lines_down, meters, spans)
        super().__init__(engine, name, finders, most_rows=most_rows, reading=reading)
