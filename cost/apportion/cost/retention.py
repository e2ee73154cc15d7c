"""Lets go of a ledger's rows once they are old, hour by hour: what they add up to stays.

An hour may go when all of it is rolled up and its rollups are found equal to its rows. First the
mark says from when on rows are kept, then what lies before it goes in pieces. Reports say the
same before and after: which rows are in rollups does not depend on whether they are still there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import and_, delete, func, select

from apportion.core.errors import LedgerError
from apportion.core.units import NS_PER_HOUR
from apportion.cost.audit_finding import Names
from apportion.cost.audit_rolled_spans import span_differences
from apportion.cost.audit_rollups import Hours, differences
from apportion.cost.keeping import LEAST_NS, Keep
from apportion.cost.ledger.outbox import unshipped_since_ns
from apportion.cost.ledger.posted import keys_since
from apportion.cost.ledger.price_tables import price_rule, repricing
from apportion.cost.ledger.rollup_tables import (
    rollup_cost,
    rollup_hour,
    rollup_meter,
    rollup_part,
    rollup_span,
    rollup_step,
)
from apportion.cost.ledger.schema import (
    charge,
    evidence,
    settlement,
    settlement_part,
    span,
    watermark,
)
from apportion.cost.rollups.marks import Mark, out_of_date
from apportion.cost.rollups.meter_piece import meter_marks
from apportion.cost.rollups.piece import Piece, Pieces
from apportion.cost.rollups.sources import GRAINS

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection, Engine, Table

ROWS_AT_ONCE: Final = 5_000
_ROLLUPS: Final = (rollup_cost, rollup_meter, rollup_part, rollup_span, rollup_step)
_LONGEST_NS: Final = GRAINS[-1] * NS_PER_HOUR


class Retention(Pieces):
    """Deletes what is older than `keep`. A step may find that an hour differs from its rollups.

    What a shared ledger does not have yet stays, however old it is.

    Raises:
        LedgerError: (a step) an hour's rollups are not the sum of its rows; nothing is deleted.
    """

    def __init__(
        self,
        engine: Engine,
        name: str,
        keep: Keep,
        *,
        reading: Engine | None = None,
        most_rows: int = ROWS_AT_ONCE,
    ) -> None:
        for kept_ns in keep:
            if kept_ns is not None and kept_ns < LEAST_NS:
                message = f"nothing can be kept for less than a day; {kept_ns} ns are asked for"
                raise LedgerError(message)
        self._keep, self._ledger = keep, name
        finders = (_old_lines, _old_spans, self._next_hour, self._next_rollups)
        super().__init__(engine, name, finders, most_rows=most_rows, reading=reading)

    def _next_hour(
        self, connection: Connection, agent_id: int, mark: Mark, most: int
    ) -> Piece | None:
        """Set the mark an hour later, and delete the settlements before it."""
        del most  # an hour of settlements is little
        newest_ns = _newest(connection, agent_id)
        if self._keep.rows_ns is None or newest_ns is None:
            return None
        hour_ns = mark.kept_from_ns
        if hour_ns is None:
            hour_ns = _oldest_hour(connection, agent_id)
        end_ns = hour_ns + NS_PER_HOUR
        if end_ns > newest_ns - self._keep.rows_ns:
            return None
        if not _is_shipped(connection, agent_id, end_ns):
            return None
        if not _is_rolled_up(connection, agent_id, mark, hour_ns):
            return None
        self._prove(connection, Hours(agent_id, mark, hour_ns, end_ns))
        devices = meter_marks(connection, agent_id)

        def write(connection: Connection) -> None:
            for device, (rolled_ns, _) in devices.items():
                for table in (settlement, settlement_part):
                    before_ns = min(end_ns, rolled_ns)
                    place = and_(table.c.device_key == device, table.c.start_ns < before_ns)
                    _delete(connection, table, agent_id, place)
                row = evidence.c
                over = and_(row.start_ns < end_ns, row.end_ns <= end_ns)
                _delete(connection, evidence, agent_id, and_(row.device_key == device, over))

        return Piece(mark._replace(kept_from_ns=end_ns), write)

    def _prove(self, connection: Connection, hours: Hours) -> None:
        names = Names.load(connection)
        for accounts in (differences, span_differences):
            wrong = next((f for f in accounts(connection, names, hours) if f is not None), None)
            if wrong is not None:
                message = (
                    f"ledger {self._ledger} keeps rows that are old, because their rollup "
                    f"differs ({wrong}): run `apportion audit`"
                )
                raise LedgerError(message)

    def _next_rollups(
        self, connection: Connection, agent_id: int, mark: Mark, most: int
    ) -> Piece | None:
        """Delete a week of rollups whose rows are gone already."""
        del most
        newest_ns = _newest(connection, agent_id)
        if self._keep.rollups_ns is None or newest_ns is None or mark.kept_from_ns is None:
            return None
        before_ns = min(newest_ns - self._keep.rollups_ns, mark.kept_from_ns)
        query = select(func.min(rollup_cost.c.start_ns)).where(
            rollup_cost.c.hours == GRAINS[-1], rollup_cost.c.agent_id == agent_id
        )
        start_ns = connection.execute(query).scalar()
        if start_ns is None or start_ns + _LONGEST_NS > before_ns:
            return None
        end_ns = start_ns + _LONGEST_NS
        if not _is_shipped(connection, agent_id, end_ns):  # prices go with their rollups
            return None

        def write(connection: Connection) -> None:
            for table in _ROLLUPS:
                for hours in GRAINS:
                    place = and_(table.c.hours == hours, table.c.start_ns < end_ns)
                    _delete(connection, table, agent_id, place)
            for table in (rollup_hour, repricing, price_rule):
                _delete(connection, table, agent_id, table.c.start_ns < end_ns)

        return Piece(mark._replace(rolled_from_ns=end_ns), write)


def _old_lines(connection: Connection, agent_id: int, mark: Mark, most: int) -> Piece | None:
    """Lines that were posted before rows are kept."""
    if mark.kept_from_ns is None or not _is_shipped(connection, agent_id, mark.kept_from_ns):
        return None
    mine, key = charge.c.agent_id == agent_id, charge.c.charge_key
    since = keys_since(connection, agent_id, mark.kept_from_ns)
    lowest = connection.execute(select(func.min(key)).where(mine, key > 0)).scalar()
    highest = connection.execute(select(func.max(key)).where(mine, key < 0)).scalar()
    if lowest is not None and lowest < since.up:
        term = key.between(lowest, min(lowest + most, since.up, mark.last_key + 1) - 1)
    elif highest is not None and highest > since.down:
        term = key.between(max(highest - most, since.down, mark.first_key - 1) + 1, highest)
    else:
        return None

    def write(connection: Connection) -> None:
        _delete(connection, charge, agent_id, term)

    return Piece(mark, write)


def _old_spans(connection: Connection, agent_id: int, mark: Mark, most: int) -> Piece | None:
    """Spans that ended before rows are kept."""
    if mark.kept_from_ns is None or not _is_shipped(connection, agent_id, mark.kept_from_ns):
        return None
    old = and_(span.c.agent_id == agent_id, span.c.end_ns < mark.kept_from_ns)
    ends = select(span.c.end_ns).where(old).order_by(span.c.end_ns)
    first_ns = connection.execute(ends.limit(1)).scalar()
    if first_ns is None:
        return None
    end_ns = connection.execute(ends.offset(most).limit(1)).scalar()
    before_ns = mark.kept_from_ns if end_ns is None else max(end_ns, first_ns + 1)
    term = span.c.end_ns < before_ns

    def write(connection: Connection) -> None:
        _delete(connection, span, agent_id, term)

    return Piece(mark, write)


def _is_shipped(connection: Connection, agent_id: int, before_ns: int) -> bool:
    """Has a shared ledger, where there is one, whatever was posted about the time before?"""
    return before_ns <= unshipped_since_ns(connection, agent_id)


def _is_rolled_up(connection: Connection, agent_id: int, mark: Mark, hour_ns: int) -> bool:
    """Is everything in rollups that is about an hour, or was posted by its end?"""
    end_ns = hour_ns + NS_PER_HOUR
    since = keys_since(connection, agent_id, end_ns)
    return (
        since.up - 1 <= mark.last_key
        and since.down + 1 >= mark.first_key
        and (mark.spans_until_ns or hour_ns) >= end_ns
        and hour_ns not in out_of_date(connection, agent_id, mark)
        and all(
            rolled_ns >= min(settled_ns, end_ns)
            for rolled_ns, settled_ns in meter_marks(connection, agent_id).values()
        )
    )


def _newest(connection: Connection, agent_id: int) -> int | None:
    """How far anything is settled: what is old is told by the agent's own time."""
    query = select(func.max(watermark.c.settled_ns)).where(watermark.c.agent_id == agent_id)
    return connection.execute(query).scalar()


def _oldest_hour(connection: Connection, agent_id: int) -> int:
    settled = select(func.min(watermark.c.since_ns)).where(watermark.c.agent_id == agent_id)
    ended = select(func.min(span.c.end_ns)).where(span.c.agent_id == agent_id)
    known = [connection.execute(query).scalar() for query in (settled, ended)]
    oldest_ns = min(at for at in known if at is not None)
    return int(oldest_ns - oldest_ns % NS_PER_HOUR)


def _delete(connection: Connection, table: Table, agent_id: int, term: ColumnElement[bool]) -> None:
    connection.execute(delete(table).where(table.c.agent_id == agent_id, term))
