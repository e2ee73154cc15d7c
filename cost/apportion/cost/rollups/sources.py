"""The ledger's rows in the shape of rollups, as if each were the rollup of itself.

What is summed from these and what is read from rollups have the same columns, so that a report
adds up either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Subquery, case, func, literal, literal_column, select, union_all

from apportion.core.units import NS_PER_HOUR
from apportion.cost.ledger.batch import ChargeKind
from apportion.cost.ledger.rollup_tables import rollup_cost, rollup_meter, rollup_part
from apportion.cost.ledger.schema import accrual, charge, settlement, settlement_part
from apportion.cost.quantity import Lacks
from apportion.cost.sums import Halves, halves, narrow_sums, sums_of_halves

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import ColumnElement, Table
    from sqlalchemy.sql.selectable import FromClause

GRAINS: Final = (1, 24, 168)
"""Lengths of rollups in hours; each is whole in the next."""


def hour_of(instant_ns: ColumnElement[int]) -> ColumnElement[int]:
    """The start of the hour of node time."""
    return instant_ns - instant_ns % NS_PER_HOUR


def lines(*places: ColumnElement[bool], also: Sequence[str] = ()) -> Subquery:
    """Posted lines in any of `places`, with the columns of `rollup_cost` and `also` their own.

    No line is in two of them. They are asked for one after the other: for one condition made of
    both, SQLite would go through all lines of an agent.
    """
    line = charge.c
    query = select(
        line.agent_id,
        hour_of(line.start_ns).label("start_ns"),
        func.coalesce(line.entity_key, 0).label("entity_key"),
        line.category,
        _lacks(line.energy_mj, line.incomplete),
        func.coalesce(line.phase, 0).label("phase"),
        line.kind,
        line.group_key,
        func.coalesce(line.rate_key, 0).label("rate_key"),
        line.method_key,
        *(line[name] for name in also),
        *_amounts(line.device_ns, line.units, line.energy_mj, func.coalesce(unpriced_ns(line), 0)),
    )
    return union_all(*(query.where(place) for place in places)).subquery("line")


def running(*terms: ColumnElement[bool], also: Sequence[str] = ()) -> Subquery:
    """Running sums for which `terms` hold, with the columns of `rollup_cost` and `also` theirs."""
    row = accrual.c
    return (
        select(
            row.agent_id,
            hour_of(row.bucket_ns).label("start_ns"),
            row.entity_key,
            row.category,
            _lacks(row.energy_mj, row.incomplete),
            literal(0).label("phase"),
            literal(int(ChargeKind.CHARGE)).label("kind"),
            row.group_key,
            row.rate_key,
            row.method_key,
            *(row[name] for name in also),
            *_amounts(row.device_ns, row.units, row.energy_mj),
        )
        .where(*terms)
        .subquery("running_sum")
    )


def meters(*terms: ColumnElement[bool]) -> Subquery:
    """Settlements for which `terms` hold, with the columns of `rollup_meter`."""
    row = settlement.c
    return (
        select(
            row.agent_id,
            hour_of(row.start_ns).label("start_ns"),
            row.device_key,
            func.coalesce(row.rate_key, 0).label("rate_key"),
            func.coalesce(row.energy_source, "").label("energy_source"),
            _lacks(row.energy_mj, idle_mw=row.idle_mw),
            row.start_ns.label("first_ns"),
            row.end_ns.label("last_ns"),
            *_amounts(row.end_ns - row.start_ns, row.units, row.energy_mj),
        )
        .where(*terms)
        .subquery("meter")
    )


def parts(*terms: ColumnElement[bool]) -> Subquery:
    """Parts of settlements for which `terms` hold, with the columns of `rollup_part`."""
    row = settlement_part.c
    return (
        select(
            row.agent_id,
            hour_of(row.start_ns).label("start_ns"),
            row.device_key,
            row.category,
            _lacks(row.energy_mj),
            row.group_key,
            *_amounts(row.device_ns, row.units, row.energy_mj),
        )
        .where(*terms)
        .subquery("part")
    )


SOURCE_OF: Final = {
    rollup_cost.name: lines,
    rollup_meter.name: meters,
    rollup_part.name: parts,
}
"""By rollup table, what it is the sum of."""


def amounts(row: FromClause, *, at_once: bool = False) -> list[ColumnElement[Any]]:
    """Eight sums over rows of this shape: device_ns, unpriced_ns, units and energy_mj in halves.

    `apportion.cost.quantity.summed` reads them. `at_once`: rows that are added up start at the same
    time, so that all but money fits 64 bits whole, and the other half is 0.
    """
    units: Halves = row.c.units_high, row.c.units_low
    if at_once:
        high: ColumnElement[Any] = literal_column("0")
        time, unpriced, energy = narrow_sums(row.c.device_ns, row.c.unpriced_ns, row.c.energy_mj)
        return [high, time, high, unpriced, *sums_of_halves(units), high, energy]
    times = halves(row.c.device_ns), halves(row.c.unpriced_ns)
    return sums_of_halves(*times, units, halves(row.c.energy_mj))


def unpriced_ns(line: Any) -> ColumnElement[Any]:
    """The time of a line that has no price; an adjustment takes away what it gave one to."""
    return case((line.units.is_(None), line.device_ns), else_=-line.priced_ns)


def key_names(table: Table) -> list[str]:
    """The columns of a rollup's key but for its length."""
    return [column.name for column in table.primary_key if column.name != "hours"]


def _lacks(
    energy_mj: ColumnElement[int | None],
    incomplete: ColumnElement[int] | None = None,
    idle_mw: ColumnElement[int | None] | None = None,
) -> ColumnElement[int]:
    choices = [(energy_mj.is_(None), int(Lacks.ENERGY))]
    if idle_mw is not None:
        choices.append((idle_mw.is_(None), int(Lacks.IDLE_POWER)))
    lacks: ColumnElement[int] = case(*choices, else_=0)
    if incomplete is not None:
        lacks = lacks + case((incomplete != 0, int(Lacks.RECORDS)), else_=0)
    return lacks.label("lacks")


def _amounts(
    device_ns: ColumnElement[int],
    units: ColumnElement[int | None],
    energy_mj: ColumnElement[int | None],
    unpriced: ColumnElement[int] | None = None,
) -> list[ColumnElement[Any]]:
    high, low = halves(units)
    if unpriced is None:
        unpriced = case((units.is_(None), device_ns), else_=0)
    return [
        literal(1).label("lines"),
        device_ns.label("device_ns"),
        unpriced.label("unpriced_ns"),
        high.label("units_high"),
        low.label("units_low"),
        energy_mj.label("energy_mj"),
    ]
