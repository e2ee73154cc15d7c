"""How far an agent's rows are rolled up: every row is in its rollup, or it is outside. Never both.

Lines are numbered as they are posted, by the agent upwards from 1 and by commands downwards from
-1: those between two keys are in. Settlements of a device follow one another: those that start
before an instant are in. Spans have no such order. Their rollups are made hour by hour, and one
into which something comes later is stale until it is made again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import and_, delete, func, insert, select

from apportion.core.units import NS_PER_HOUR
from apportion.cost.ledger.rollup_tables import rollup_hour, rollup_mark
from apportion.cost.ledger.rows import rows
from apportion.cost.ledger.schema import SPAN_IS_LATE, accrual, charge, span
from apportion.cost.rollups.sources import hour_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import ColumnElement, Connection, Table


NEVER_NS: Final = -(1 << 62)
"""Before anything."""


class Mark(NamedTuple):
    """A row of `rollup_mark`: what of an agent's ledger is in its rollups, and what is left."""

    pieces: int = 0
    first_key: int = 0
    last_key: int = 0
    spans_until_ns: int | None = None
    seen_ns: int | None = None
    kept_from_ns: int | None = None
    rolled_from_ns: int | None = None

    @classmethod
    def load(cls, connection: Connection, agent_id: int) -> Mark:
        """The agent's; of one that was never rolled up, nothing is in."""
        return all_marks(connection).get(agent_id, cls())

    def store(self, connection: Connection, agent_id: int) -> None:
        """Write it over the one that is there."""
        connection.execute(delete(rollup_mark).where(rollup_mark.c.agent_id == agent_id))
        connection.execute(insert(rollup_mark).values((agent_id, *self)))

    def lines_outside(self) -> list[ColumnElement[bool]]:
        """SQL: the places of this agent's lines that are in no rollup yet."""
        return [charge.c.charge_key > self.last_key, charge.c.charge_key < self.first_key]


def all_marks(connection: Connection) -> dict[int, Mark]:
    """By agent."""
    return {row[0]: Mark(*row[1:]) for row in rows(connection, select(rollup_mark))}


def stale_hours(connection: Connection, agent_id: int) -> list[int]:
    """Hours whose spans are to be summed again, in order."""
    mine = and_(rollup_hour.c.agent_id == agent_id, rollup_hour.c.stale != 0)
    query = select(rollup_hour.c.start_ns).where(mine).order_by(rollup_hour.c.start_ns)
    return [row[0] for row in rows(connection, query)]


def hours_of_late_lines(
    connection: Connection, agent_id: int, mark: Mark, lines: ColumnElement[bool]
) -> list[int]:
    """Hours that are rolled up and in which spans ended that the agent's `lines` are about."""
    return _hours_of_spans(connection, agent_id, mark, charge, lines)


def hours_of_running(connection: Connection, agent_id: int, mark: Mark) -> list[int]:
    """Hours that are rolled up and in which spans ended of which something still runs."""
    return _hours_of_spans(connection, agent_id, mark, accrual, accrual.c.ring_key != 0)


def _hours_of_spans(
    connection: Connection, agent_id: int, mark: Mark, table: Table, term: ColumnElement[bool]
) -> list[int]:
    """`table` has rows about spans: `charge` or `accrual`."""
    if mark.spans_until_ns is None:
        return []
    row = table.c
    late = and_(
        row.agent_id == agent_id,
        term,
        row.ring_key.is_not(None),
        row.start_ns < mark.spans_until_ns,
    )
    start_ns = connection.execute(select(func.min(row.start_ns)).where(late)).scalar()
    if start_ns is None:
        return []
    spans = select(row.ring_key, row.number).where(late).distinct().subquery("late")
    # An expression: by the column itself SQLite would go through all spans that a ring ever had.
    ring = span.c.ring_key + 0
    query = (
        select(hour_of(span.c.end_ns))
        .distinct()
        .select_from(
            span.join(spans, and_(spans.c.ring_key == ring, spans.c.number == span.c.number))
        )
        .where(
            span.c.agent_id == agent_id,
            span.c.end_ns >= start_ns - start_ns % NS_PER_HOUR,
            span.c.end_ns < mark.spans_until_ns,
        )
    )
    hours = [found[0] for found in rows(connection, query)]
    return summable(connection, agent_id, mark, hours)


class LateSpans(NamedTuple):
    """Spans that came long after they had ended, since the last look."""

    hours: list[int]
    """Those that are rolled up and into which one came."""
    seen_ns: int
    """When the newest of all was posted."""


def late_spans(connection: Connection, agent_id: int, mark: Mark) -> LateSpans:
    """What came since the mark, by the index that has such spans only."""
    seen_ns = NEVER_NS if mark.seen_ns is None else mark.seen_ns
    came: list[Any] = [SPAN_IS_LATE, span.c.agent_id == agent_id, span.c.posted_ns > seen_ns]
    newest_ns = connection.execute(select(func.max(span.c.posted_ns)).where(*came)).scalar()
    if newest_ns is None:
        return LateSpans([], seen_ns)
    if mark.spans_until_ns is None:
        return LateSpans([], newest_ns)
    query = select(hour_of(span.c.end_ns)).where(*came, span.c.end_ns < mark.spans_until_ns)
    hours = [row[0] for row in rows(connection, query.distinct())]
    return LateSpans(summable(connection, agent_id, mark, hours), newest_ns)


def summable(connection: Connection, agent_id: int, mark: Mark, hours: Iterable[int]) -> list[int]:
    """Those of `hours` whose spans can be summed again, in order.

    Where retention has begun to take spans, or lines of spans, what was summed before stays.
    """
    if mark.kept_from_ns is None:
        return sorted(hours)
    found: list[int] = []
    for start_ns in sorted(hours):
        query = select(func.min(span.c.start_ns)).where(
            span.c.agent_id == agent_id,
            span.c.end_ns >= start_ns,
            span.c.end_ns < start_ns + NS_PER_HOUR,
        )
        begun_ns = connection.execute(query).scalar()
        if start_ns >= mark.kept_from_ns and (begun_ns is None or begun_ns >= mark.kept_from_ns):
            found.append(start_ns)
    return found


def out_of_date(connection: Connection, agent_id: int, mark: Mark) -> list[int]:
    """Hours whose rollups of spans are not right, or not any more, in order."""
    found = {
        hour_ns
        for lines in mark.lines_outside()
        for hour_ns in hours_of_late_lines(connection, agent_id, mark, lines)
    }
    found.update(hours_of_running(connection, agent_id, mark))
    found.update(late_spans(connection, agent_id, mark).hours)
    found.update(stale_hours(connection, agent_id))
    return summable(connection, agent_id, mark, found)
