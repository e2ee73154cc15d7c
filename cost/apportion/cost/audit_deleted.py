"""What retention has deleted: rollups stand for it, on both sides of the book.

Both sides were rolled up apart, so they prove one another still; and the meter's still follows
from instant to instant and costs what its rate says.
"""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import and_, false, func, not_, or_, select

from apportion.core.units import NS_PER_HOUR
from apportion.cost.audit_finding import Checker, Finding
from apportion.cost.audit_rates import rate_facts
from apportion.cost.ledger.batch import ChargeKind
from apportion.cost.ledger.rollup_tables import (
    rollup_cost,
    rollup_meter,
    rollup_meter_mark,
    rollup_part,
)
from apportion.cost.ledger.rows import rows, stream
from apportion.cost.ledger.schema import charge, settlement_part
from apportion.cost.rollups.marks import NEVER_NS, all_marks
from apportion.cost.sums import joined, wide_sum

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sqlalchemy import ColumnElement, Connection, Table

    from apportion.cost.audit_finding import Check, Names
    from apportion.cost.audit_rates import RateFacts

Place = tuple[int, int, int, int]
"""Hour, agent, group, category."""
Sums = tuple[int, int, int, int]
"""device_ns, units, energy_mj, and the device_ns without units."""


class Deleted:
    """Which rows are gone, by agent; nothing where there is no retention."""

    def __init__(self, connection: Connection) -> None:
        marks = all_marks(connection)
        self._marks = {key: mark for key, mark in marks.items() if mark.kept_from_ns is not None}

    def kept_from(self, agent_id: int) -> int:
        """From when on an agent's rows are there."""
        mark = self._marks.get(agent_id)
        return NEVER_NS if mark is None or mark.kept_from_ns is None else mark.kept_from_ns

    def has(self, agent_id: int, instant_ns: int) -> bool:
        """Is an instant before that?"""
        return instant_ns < self.kept_from(agent_id)

    def is_kept(
        self, agent_id: ColumnElement[int], instant_ns: ColumnElement[int]
    ) -> ColumnElement[bool]:
        """SQL: is it an instant from when on the agent's rows are there?"""
        return not_(self.gone(agent_id, instant_ns))

    def gone(
        self, agent_id: ColumnElement[int], instant_ns: ColumnElement[int]
    ) -> ColumnElement[bool]:
        """SQL: is it an instant before that?"""
        gone = [and_(agent_id == key, instant_ns < self.kept_from(key)) for key in self._marks]
        return or_(false(), *gone)

    def lines(self) -> ColumnElement[bool]:
        """SQL: lines that count beside the rollups of what is deleted."""
        line = charge.c
        came = [
            and_(line.agent_id == key, or_(*mark.lines_outside()))
            for key, mark in self._marks.items()
        ]
        return or_(self.is_kept(line.agent_id, line.start_ns), *came)

    def parts(self) -> ColumnElement[bool]:
        """SQL: parts of settlements that count beside the rollups of what is deleted."""
        part, mark = settlement_part.c, rollup_meter_mark.c
        rolled_ns = (
            select(mark.rolled_ns)
            .where(mark.agent_id == part.agent_id, mark.device_key == part.device_key)
            .scalar_subquery()
        )
        return or_(self.is_kept(part.agent_id, part.start_ns), part.start_ns >= rolled_ns)

    def posted(self, connection: Connection) -> dict[Place, Sums]:
        """What the rollups of deleted charges say."""
        return self._sums(connection, rollup_cost, rollup_cost.c.kind == int(ChargeKind.CHARGE))

    def given(self, connection: Connection) -> dict[Place, Sums]:
        """What the rollups of deleted parts say."""
        return self._sums(connection, rollup_part)

    def adjustments(self, connection: Connection) -> dict[tuple[int, int, int, int, int], int]:
        """Units of deleted adjustments by hour, agent, group, category and rate."""
        row = rollup_cost.c
        keys = [row.start_ns, row.agent_id, row.group_key, row.category, row.rate_key]
        adjusts = row.kind == int(ChargeKind.ADJUSTMENT)
        gone = self.gone(row.agent_id, row.start_ns)
        sums = (wide_sum(row.units_high), wide_sum(row.units_low))
        query = select(*keys, *sums).where(row.hours == 1, gone, adjusts).group_by(*keys)
        return {found[:5]: joined(*found[5:]) or 0 for found in rows(connection, query)}

    def _sums(
        self, connection: Connection, table: Table, *terms: ColumnElement[bool]
    ) -> dict[Place, Sums]:
        row = table.c
        keys = [row.start_ns, row.agent_id, row.group_key, row.category]
        sums = (row.device_ns, row.units_high, row.units_low, row.energy_mj, row.unpriced_ns)
        gone = self.gone(row.agent_id, row.start_ns)
        query = select(*keys, *map(wide_sum, sums)).where(row.hours == 1, gone, *terms)
        return {
            found[:4]: (found[4], joined(found[5], found[6]) or 0, found[7] or 0, found[8])
            for found in rows(connection, query.group_by(*keys))
        }

    def settled_until(self, connection: Connection) -> dict[tuple[int, int], int]:
        """By agent and device where the settlements begin that are kept."""
        row = rollup_meter.c
        ends: dict[tuple[int, int], int] = {}
        for agent_id in self._marks:
            gone = and_(row.agent_id == agent_id, row.start_ns < self.kept_from(agent_id))
            query = select(row.device_key, func.max(row.last_ns)).where(row.hours == 1, gone)
            for device, end_ns in rows(connection, query.group_by(row.device_key)):
                ends[agent_id, device] = end_ns
        return ends


class _Metered(NamedTuple):
    """One device and hour at one rate, as its rollups say."""

    agent_id: int
    device: int
    hour_ns: int
    rate: int
    first_ns: int
    last_ns: int
    device_ns: int
    units: int | None


def rolled_meter_check(connection: Connection, names: Names) -> Check:
    """The meter's side of every hour that is rolled up, whether its rows are kept or not."""
    checker = Checker(
        "rolled meter",
        "each device is metered from hour to hour without a gap, at its rates",
        "hours",
    )
    rates = rate_facts(connection)
    before: tuple[int, int, int] | None = None
    for (agent_id, device, hour_ns), found in groupby(
        _metered(connection), key=itemgetter(0, 1, 2)
    ):
        hour = list(found)
        first_ns, last_ns = min(row.first_ns for row in hour), max(row.last_ns for row in hour)
        time_ns = sum(row.device_ns for row in hour)
        wrong: tuple[str, object, object] | None = None
        if before is not None and before[:2] == (agent_id, device) and before[2] != first_ns:
            wrong = "start", before[2], first_ns
        elif last_ns - first_ns != time_ns:
            wrong = "device_ns", last_ns - first_ns, time_ns
        else:
            wrong = next(filter(None, (_wrong_units(rates, row) for row in hour)), None)
        before = agent_id, device, last_ns
        checker.examine(
            None
            if wrong is None
            else Finding(
                names.node(agent_id),
                f"rollups of {names.device(agent_id, device)}",
                hour_ns,
                hour_ns + NS_PER_HOUR,
                wrong[0],
                str(wrong[1]),
                str(wrong[2]),
            )
        )
    return checker.done()


def _wrong_units(
    rates: Mapping[tuple[int, int], RateFacts], row: _Metered
) -> tuple[str, object, object] | None:
    """What is wrong with the amount; a rate that comes and goes within an hour is not told."""
    known = rates.get((row.agent_id, row.rate))
    if known is None:
        wanted = f"a row of rate {row.rate}" if row.rate else None
        return None if row.units is None and not row.rate else ("units", wanted, row.units)
    if row.last_ns - row.first_ns != row.device_ns:
        return None
    units = known.units(row.first_ns, row.last_ns)
    return None if units == row.units else ("units", units, row.units)


def _metered(connection: Connection) -> Iterator[_Metered]:
    row = rollup_meter.c
    keys = [row.agent_id, row.device_key, row.start_ns, row.rate_key]
    query = select(
        *keys,
        func.min(row.first_ns),
        func.max(row.last_ns),
        wide_sum(row.device_ns),
        wide_sum(row.units_high),
        wide_sum(row.units_low),
    )
    query = query.where(row.hours == 1).group_by(*keys).order_by(*keys)
    for *place, device_ns, high, low in stream(connection, query):
        yield _Metered._make((*place, device_ns, joined(high, low)))


def moves_of_deleted(connection: Connection, deleted: Deleted) -> list[tuple[Any, ...]]:
    """Hour, agent, group and sums of the moves within hours whose lines are gone."""
    row = rollup_cost.c
    keys = [row.start_ns, row.agent_id, row.group_key]
    gone = deleted.gone(row.agent_id, row.start_ns)
    sums = (row.device_ns, row.units_high, row.units_low, row.energy_mj)
    query = select(*keys, *map(wide_sum, sums)).where(
        row.hours == 1, row.kind == int(ChargeKind.REALLOCATION), gone
    )
    return [
        (*found[:4], joined(found[4], found[5]), found[6])
        for found in rows(connection, query.group_by(*keys))
    ]
