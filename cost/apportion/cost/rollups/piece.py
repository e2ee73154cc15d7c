"""One step of rolling up: read at one moment, and written if nobody was quicker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from sqlalchemy import func, select

from apportion.cost.rollups.grains import Grains
from apportion.cost.rollups.sources import amounts, key_names
from apportion.cost.ledger.rows import rows
from apportion.cost.sums import joined

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection, Subquery

    from apportion.cost.rollups.grains import Rolled
    from apportion.cost.rollups.marks import Mark

ROWS_AT_ONCE: Final = 20_000


class Piece(NamedTuple):
    """What is to be written, and the agent's mark once it is."""

    mark: Mark
    write: Callable[[Connection], None]


class Finder(Protocol):
    """Looks for something that is not rolled up yet; at most about `most` rows of it."""

    def __call__(
        self, connection: Connection, agent_id: int, mark: Mark, most: int
    ) -> Piece | None:
        """The next piece; None: there is nothing to do."""
        ...


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
