"""Rollups against the rows that they are sums of, for as long as those are kept.

As everywhere in an audit the sums are made anew, by other statements than those that wrote them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import BigInteger, and_, case, cast, func, null, select

from apportion.core.units import NS_PER_HOUR
from apportion.cost.audit_finding import Checker, Finding
from apportion.cost.audit_hours import Row, by_hour, side_by_side
from apportion.cost.ledger.rollup_tables import (
    rollup_cost,
    rollup_meter,
    rollup_meter_mark,
    rollup_part,
)
from apportion.cost.ledger.rows import stream
from apportion.cost.ledger.schema import charge, settlement, settlement_part
from apportion.cost.quantity import Lacks
from apportion.cost.rollups.marks import NEVER_NS, Mark, all_marks
from apportion.cost.sums import joined, wide_sum

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from sqlalchemy import ColumnElement, Connection, Executable, Subquery, Table

    from apportion.cost.audit_finding import Check, Names


class Hours(NamedTuple):
    """Hours of one agent that are compared: [start_ns, end_ns), what is rolled up of them."""

    agent_id: int
    mark: Mark
    start_ns: int
    end_ns: int | None = None

    def hold(self, instant_ns: ColumnElement[int]) -> ColumnElement[bool]:
        """SQL: is an instant in them?"""
        inside = instant_ns >= self.start_ns
        return inside if self.end_ns is None else and_(inside, instant_ns < self.end_ns)


def kept_hours(connection: Connection) -> list[Hours]:
    """By agent the hours of which all rows are there."""
    return [
        Hours(agent_id, mark, NEVER_NS if mark.kept_from_ns is None else mark.kept_from_ns)
        for agent_id, mark in sorted(all_marks(connection).items())
    ]


def rollup_check(connection: Connection, names: Names) -> Check:
    """Every hour of which the rows are there."""
    checker = Checker(
        "rolled up", "each rollup is the sum of its rows, as long as they are kept", "rollups"
    )
    for hours in kept_hours(connection):
        for finding in differences(connection, names, hours):
            checker.examine(finding)
    return checker.done()


def differences(connection: Connection, names: Names, hours: Hours) -> Iterator[Finding | None]:
    """For each rollup of lines, settlements and parts what is wrong with it; None: nothing is."""
    for table, rows_of in _ROWS_OF.items():
        keys = [column.name for column in table.primary_key if column.name != "hours"]
        rows = by_hour(stream(connection, rows_of(hours)), len(keys))
        rolled = by_hour(map(_whole, stream(connection, _rolled(table, keys, hours))), len(keys))
        for start_ns, expected, found in side_by_side(rows, rolled):
            for key in sorted({*expected, *found}):
                if expected.get(key) == found.get(key):
                    yield None
                    continue
                said = ", ".join(f"{n} {v}" for n, v in zip(keys[2:], key, strict=True))
                yield Finding(
                    names.node(hours.agent_id),
                    f"{table.name} ({said})",
                    start_ns,
                    start_ns + NS_PER_HOUR,
                    "figures",
                    str(expected.get(key)),
                    str(found.get(key)),
                )


def _rolled(table: Table, keys: Sequence[str], hours: Hours) -> Executable:
    row = table.c
    figures = [column for column in row if column.name not in {"hours", *keys}]
    return (
        select(*(row[name] for name in keys), *figures)
        .where(row.hours == 1, row.agent_id == hours.agent_id, hours.hold(row.start_ns))
        .order_by(row.start_ns)
    )


def _whole(row: Row) -> Row:
    """The amount of a rollup in one figure: it stands in halves before the energy."""
    return (*row[:-3], joined(row[-3], row[-2]), row[-1])


def _lines(hours: Hours) -> Executable:
    line, mark = charge.c, hours.mark
    incomplete = case((line.incomplete != 0, int(Lacks.RECORDS)), else_=0)
    inner = (
        select(
            line.agent_id,
            _hour(line.start_ns),
            func.coalesce(line.entity_key, 0).label("entity_key"),
            line.category,
            (_no_energy(line.energy_mj) + incomplete).label("lacks"),
            func.coalesce(line.phase, 0).label("phase"),
            line.kind,
            line.group_key,
            func.coalesce(line.rate_key, 0).label("rate_key"),
            line.method_key,
            line.device_ns,
            line.units,
            line.energy_mj,
            line.priced_ns,
        )
        .where(
            line.agent_id == hours.agent_id,
            line.charge_key.between(mark.first_key, mark.last_key),
            hours.hold(line.start_ns),
        )
        .subquery("line")
    )
    return _added_up(inner, func.count())


def _meters(hours: Hours) -> Executable:
    row = settlement.c
    by_weights = and_(row.energy_mj.is_not(None), row.idle_mw.is_(None))
    no_power = case((by_weights, int(Lacks.IDLE_POWER)), else_=0)
    inner = (
        select(
            row.agent_id,
            _hour(row.start_ns),
            row.device_key,
            func.coalesce(row.rate_key, 0).label("rate_key"),
            func.coalesce(row.energy_source, "").label("energy_source"),
            (_no_energy(row.energy_mj) + no_power).label("lacks"),
            row.start_ns.label("first_ns"),
            row.end_ns.label("last_ns"),
            (row.end_ns - row.start_ns).label("device_ns"),
            row.units,
            row.energy_mj,
            cast(null(), BigInteger).label("priced_ns"),
        )
        .where(*_rolled_settlements(settlement, hours))
        .subquery("meter")
    )
    return _added_up(inner, func.min(inner.c.first_ns), func.max(inner.c.last_ns))


def _parts(hours: Hours) -> Executable:
    row = settlement_part.c
    inner = (
        select(
            row.agent_id,
            _hour(row.start_ns),
            row.device_key,
            row.category,
            _no_energy(row.energy_mj).label("lacks"),
            row.group_key,
            row.device_ns,
            row.units,
            row.energy_mj,
            cast(null(), BigInteger).label("priced_ns"),
        )
        .where(*_rolled_settlements(settlement_part, hours))
        .subquery("part")
    )
    return _added_up(inner)


_FIGURES: Final = frozenset({"first_ns", "last_ns", "device_ns", "units", "energy_mj", "priced_ns"})
_ROWS_OF: Final[Mapping[Table, Callable[[Hours], Executable]]] = {
    rollup_cost: _lines,
    rollup_meter: _meters,
    rollup_part: _parts,
}


def _added_up(row: Subquery, *leading: ColumnElement[Any]) -> Executable:
    """By all columns that are no figures: `leading`, time, unpriced time, units and energy."""
    keys = [column for column in row.c if column.name not in _FIGURES]
    return (
        select(
            *keys,
            *leading,
            wide_sum(row.c.device_ns),
            wide_sum(
                case((row.c.units.is_(None), row.c.device_ns), else_=0)
                - func.coalesce(row.c.priced_ns, 0)
            ),
            wide_sum(row.c.units),
            wide_sum(row.c.energy_mj),
        )
        .group_by(*keys)
        .order_by(row.c.start_ns)
    )


def _rolled_settlements(table: Table, hours: Hours) -> list[ColumnElement[bool]]:
    mark = rollup_meter_mark.c
    rolled_ns = (
        select(mark.rolled_ns)
        .where(mark.agent_id == table.c.agent_id, mark.device_key == table.c.device_key)
        .scalar_subquery()
    )
    return [
        table.c.agent_id == hours.agent_id,
        hours.hold(table.c.start_ns),
        table.c.start_ns < func.coalesce(rolled_ns, NEVER_NS),
    ]


def _hour(start_ns: ColumnElement[int]) -> ColumnElement[int]:
    return (start_ns - start_ns % NS_PER_HOUR).label("start_ns")


def _no_energy(energy_mj: ColumnElement[int | None]) -> ColumnElement[int]:
    return case((energy_mj.is_(None), int(Lacks.ENERGY)), else_=0)
