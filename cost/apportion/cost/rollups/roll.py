"""Brings rollups up to their ledger in small pieces: each is there whole, or not at all.

A piece is read in one transaction and written in another, short one, which first sees that no
other has written a piece of the same agent meanwhile. So an agent's tick waits for milliseconds,
and two that roll up the same ledger do no harm.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from sqlalchemy import select

from apportion.cost.ledger.engine import WRITES, ledger_errors
from apportion.cost.ledger.schema import agent
from apportion.cost.rollups.line_piece import lines_down, lines_up
from apportion.cost.rollups.marks import Mark
from apportion.cost.rollups.meter_piece import meters
from apportion.cost.rollups.piece import ROWS_AT_ONCE
from apportion.cost.rollups.span_piece import spans

if TYPE_CHECKING:
    from collections.abc import Generator

    from sqlalchemy import Connection, Engine

    from apportion.cost.rollups.piece import Finder

ORDER: Final[tuple[Finder, ...]] = (lines_up, lines_down, meters, spans)
"""Spans last: their cost is that of the lines that are rolled up."""


class Roller:
    """Rolls up the ledger behind `engine`; `name` is its name for messages."""

    def __init__(self, engine: Engine, name: str, *, most_rows: int = ROWS_AT_ONCE) -> None:
        self._engine = engine
        self._name = name
        self._most_rows = most_rows

    def agents(self) -> list[int]:
        """Whose rows there are."""
        with self._reading() as connection:
            return sorted(connection.execute(select(agent.c.agent_id)).scalars())

    def step(self, agent_id: int) -> bool:
        """Write the next piece of one agent's rollups; False where everything is rolled up.

        Raises:
            LedgerUnavailable: locked, full or gone for now; nothing was written.
        """
        with self._reading() as connection:
            mark = Mark.load(connection, agent_id)
            found = (find(connection, agent_id, mark, self._most_rows) for find in ORDER)
            piece = next((piece for piece in found if piece is not None), None)
        if piece is None:
            return False
        with self._writing() as connection:
            if Mark.load(connection, agent_id) == mark:
                piece.write(connection)
                piece.mark._replace(pieces=mark.pieces + 1).store(connection, agent_id)
        return True

    def run(self) -> int:
        """Roll up everything; the number of pieces that it took.

        Raises:
            LedgerUnavailable: locked, full or gone for now; what was written stays.
        """
        pieces = 0
        for agent_id in self.agents():
            while self.step(agent_id):
                pieces += 1
        return pieces

    @contextmanager
    def _reading(self) -> Generator[Connection]:
        with ledger_errors(self._name, "be read"), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Generator[Connection]:
        writing = self._engine.connect().execution_options(**{WRITES: True})
        with (
            ledger_errors(self._name, "be rolled up"),
            writing as connection,
            connection.begin(),
        ):
            yield connection
