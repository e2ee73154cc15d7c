"""What is in each hour's rollup: `rollup_hour`, written beside the rollups themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import and_, delete, insert, select

from apportion.cost.ledger.rollup_tables import rollup_hour
from apportion.cost.ledger.rows import rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sqlalchemy import Connection
    from typing_extensions import Self


class Hour(NamedTuple):
    """An hour's row without its key. Its lines have keys in [first_key, last_key]."""

    first_key: int = 0
    last_key: int = 0
    posted_ns: int | None = None
    spans_posted_ns: int | None = None
    stale: int = 0

    def with_lines(self, first_key: int, last_key: int, posted_ns: int) -> Self:
        """The same with more lines in it."""
        return self._replace(
            first_key=min(self.first_key, first_key),
            last_key=max(self.last_key, last_key),
            posted_ns=max(self.posted_ns or posted_ns, posted_ns),
        )


def hours_of(connection: Connection, agent_id: int, starts: Iterable[int]) -> dict[int, Hour]:
    """The agent's hours that start then, those without a row included."""
    wanted = sorted(starts)
    query = select(rollup_hour).where(
        rollup_hour.c.agent_id == agent_id, rollup_hour.c.start_ns.in_(wanted)
    )
    found = {row[1]: Hour(*row[2:]) for row in rows(connection, query)}
    return {start_ns: found.get(start_ns, Hour()) for start_ns in wanted}


def write_hours(connection: Connection, agent_id: int, found: Mapping[int, Hour]) -> None:
    """Write hours over those that are there."""
    if not found:
        return
    place = and_(rollup_hour.c.agent_id == agent_id, rollup_hour.c.start_ns.in_(sorted(found)))
    connection.execute(delete(rollup_hour).where(place))
    names = rollup_hour.c.keys()
    new = [
        dict(zip(names, (agent_id, start_ns, *hour), strict=True))
        for start_ns, hour in found.items()
    ]
    connection.execute(insert(rollup_hour), new)


def flag_stale(connection: Connection, agent_id: int, starts: Iterable[int]) -> None:
    """The spans of these hours are to be summed again."""
    known = hours_of(connection, agent_id, starts)
    write_hours(
        connection, agent_id, {start: hour._replace(stale=1) for start, hour in known.items()}
    )
