"""Work on a ledger in pieces, each of which is done whole or not at all.

A piece is read in one transaction and written in another, short one, which first sees that no
other piece of the same agent was written meanwhile. So an agent's tick waits for milliseconds,
and two that work on the same ledger do no harm.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from sqlalchemy import func, select

from apportion.cost.ledger.engine import WRITES, ledger_errors
from apportion.cost.ledger.rows import rows
from apportion.cost.ledger.schema import agent
from apportion.cost.rollups.marks import Mark
from apportion.cost.rollups.sources import amounts, key_names
from apportion.cost.sums import joined

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from sqlalchemy import Connection, Engine, Subquery

    from apportion.cost.rollups.grains import Grains, Rolled

ROWS_AT_ONCE: Final = 20_000


class Piece(NamedTuple):
    """What is to be written, and the agent's mark once it is."""

    mark: Mark
    write: Callable[[Connection], None]


class Finder(Protocol):
    """Looks for something to do, with about `most` rows at once."""

    def __call__(
        self, connection: Connection, agent_id: int, mark: Mark, most: int
    ) -> Piece | None:
        """The next piece; None: there is nothing to do."""
        ...


class Pieces:
    """Does whatever `finders` find in a ledger; `name` is for messages.

    `reading` is an engine of its own for reading, see `open_engine`: PostgreSQL needs one.
    """

    def __init__(
        self,
        engine: Engine,
        name: str,
        finders: Iterable[Finder],
        *,
        most_rows: int,
        reading: Engine | None = None,
    ) -> None:
        self._engine = engine
        self._readable = reading or engine
        self._name = name
        self._finders = tuple(finders)
        self._most_rows = most_rows

    def agents(self) -> list[int]:
        """Whose rows there are."""
        with self._reading() as connection:
            return sorted(connection.execute(select(agent.c.agent_id)).scalars())

    def step(self, agent_id: int) -> bool:
        """Do the next piece about one agent; False: there is none.

        Raises:
            LedgerUnavailable: locked, full or gone for now; nothing was written.
        """
        with self._reading() as connection:
            mark = Mark.load(connection, agent_id)
            found = (find(connection, agent_id, mark, self._most_rows) for find in self._finders)
            piece = next((piece for piece in found if piece is not None), None)
        if piece is None:
            return False
        with self._writing(agent_id) as connection:
            if Mark.load(connection, agent_id) == mark:
                piece.write(connection)
                piece.mark._replace(pieces=mark.pieces + 1).store(connection, agent_id)
        return True

    def run(self) -> int:
        """Do everything there is to do; the number of pieces that it took.

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
        with ledger_errors(self._name, "be read"), self._readable.connect() as connection:
            yield connection

    @contextmanager
    def _writing(self, agent_id: int) -> Generator[Connection]:
        writing = self._engine.connect().execution_options(**{WRITES: True})
        with (
            ledger_errors(self._name, "be written"),
            writing as connection,
            connection.begin(),
        ):
            if connection.dialect.name == "postgresql":
                # Until the end of the transaction no other piece of the agent is written: what
                # SQLite's write lock does for all.
                connection.execute(select(func.pg_advisory_xact_lock(agent_id)))
            yield connection


def summed_up(connection: Connection, grains: Grains, source: Subquery) -> Rolled:
    """Rows in the shape of a rollup, added up by its key."""
    keys = [source.c[name] for name in key_names(grains.table)]
    others = {
        "lines": func.count(),
        "first_ns": func.min(source.c.first_ns) if "first_ns" in source.c else None,
        "last_ns": func.max(source.c.last_ns) if "last_ns" in source.c else None,
    }
    leading = [others[name] for name in grains.names if others.get(name) is not None]
    query = select(*keys, *leading, *amounts(source)).group_by(*keys)
    found: Rolled = {}
    for row in rows(connection, query):
        key, rest = row[: len(keys)], row[len(keys) :]
        sums = rest[len(leading) :]
        whole = (joined(sums[at], sums[at + 1]) for at in range(0, len(sums), 2))
        found[key] = (*rest[: len(leading)], *whole)
    return found
