"""Both sides of the book, summed: one SQLAlchemy Core statement for each figure of a report.

The same statements run on SQLite and PostgreSQL. `span_query` has those that count spans.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import (
    BigInteger,
    SmallInteger,
    Subquery,
    and_,
    case,
    cast,
    func,
    literal,
    null,
    select,
    union_all,
)

from apportion.cost.ledger.batch import ChargeKind
from apportion.cost.ledger.price_tables import price_rule, repricing
from apportion.cost.ledger.schema import (
    accrual,
    agent,
    charge,
    device,
    entity,
    idle_power,
    rate,
    settlement,
    settlement_part,
    watermark,
)
from apportion.cost.sums import wide_sum

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import ColumnElement, Executable

    from apportion.cost.period import Period

DIMENSIONS: Final = {
    "cluster": agent.c.cluster,
    "node": agent.c.node,
    "workload": func.coalesce(entity.c.workload, entity.c.owner),
    "run": entity.c.run,
    "attempt": entity.c.attempt,
    "tenant": entity.c.tenant,
    "model": entity.c.model,
}
"""What lines can be grouped by. Cost of an unknown process goes under its owner's name."""


def dimensions(by: Sequence[str]) -> list[ColumnElement[Any]]:
    """The columns of DIMENSIONS that `by` names."""
    return [DIMENSIONS[name].label(name) for name in by]


def where_null(column: ColumnElement[Any], value: ColumnElement[Any]) -> ColumnElement[Any]:
    """`value` where `column` is NULL, else NULL."""
    return case((column.is_(None), value))


def unpriced_ns(line: Any) -> ColumnElement[Any]:
    """The time of a line that has no price; an adjustment takes away what it gave one to."""
    return case((line.units.is_(None), line.device_ns), else_=-line.priced_ns)


def lines(period: Period) -> Subquery:
    """Every posted line and every running sum of the period; `open` tells them apart."""
    posted = select(
        charge.c.agent_id,
        charge.c.category,
        charge.c.phase,
        charge.c.entity_key,
        charge.c.kind,
        charge.c.device_ns,
        charge.c.energy_mj,
        charge.c.units,
        charge.c.incomplete,
        charge.c.priced_ns,
        literal(0).label("open"),
    ).where(period.holds(charge.c.agent_id, charge.c.start_ns))
    running = select(
        accrual.c.agent_id,
        accrual.c.category,
        cast(null(), SmallInteger).label("phase"),
        func.nullif(accrual.c.entity_key, 0).label("entity_key"),
        literal(int(ChargeKind.CHARGE)).label("kind"),
        accrual.c.device_ns,
        accrual.c.energy_mj,
        accrual.c.units,
        accrual.c.incomplete,
        cast(null(), BigInteger).label("priced_ns"),
        literal(1).label("open"),
    ).where(period.holds(accrual.c.agent_id, accrual.c.bucket_ns))
    return union_all(posted, running).subquery("line")


def cost_by(period: Period, by: Sequence[str]) -> Executable:
    """Quantities by the dimensions of `by`, category, phase, kind, and whether still open."""
    line = lines(period)
    keys = [*dimensions(by), line.c.category, line.c.phase, line.c.kind, line.c.open]
    return (
        select(
            *keys,
            wide_sum(line.c.device_ns),
            wide_sum(line.c.units),
            wide_sum(line.c.energy_mj),
            wide_sum(unpriced_ns(line.c)),
            wide_sum(where_null(line.c.energy_mj, line.c.device_ns)),
            wide_sum(case((line.c.incomplete != 0, line.c.units))),
        )
        .select_from(
            line.join(agent, agent.c.agent_id == line.c.agent_id).outerjoin(
                entity,
                and_(
                    entity.c.agent_id == line.c.agent_id, entity.c.entity_key == line.c.entity_key
                ),
            )
        )
        .group_by(*keys)
    )


def metered(period: Period) -> Executable:
    """The meter by agent, device, rate and energy source; last what had no power at rest."""
    keys = [
        settlement.c.agent_id,
        settlement.c.device_key,
        settlement.c.rate_key,
        settlement.c.energy_source,
    ]
    duration = settlement.c.end_ns - settlement.c.start_ns
    return (
        select(
            *keys,
            wide_sum(duration),
            wide_sum(settlement.c.units),
            wide_sum(settlement.c.energy_mj),
            wide_sum(where_null(settlement.c.units, duration)),
            wide_sum(where_null(settlement.c.energy_mj, duration)),
            wide_sum(where_null(settlement.c.idle_mw, settlement.c.energy_mj)),
        )
        .where(period.holds(settlement.c.agent_id, settlement.c.start_ns))
        .group_by(*keys)
    )


def parts(period: Period) -> Executable:
    """Where the meter's time went, by agent, device and category."""
    part = settlement_part.c
    keys = [part.agent_id, part.device_key, part.category]
    return (
        select(
            *keys,
            wide_sum(part.device_ns),
            wide_sum(part.units),
            wide_sum(part.energy_mj),
            wide_sum(where_null(part.units, part.device_ns)),
            wide_sum(where_null(part.energy_mj, part.device_ns)),
        )
        .where(period.holds(part.agent_id, part.start_ns))
        .group_by(*keys)
    )


def repriced(period: Period) -> Executable:
    """New prices by agent, device, rate before and after: units and time."""
    row = repricing.c
    keys = [row.agent_id, row.device_key, row.from_rate_key, row.to_rate_key]
    return (
        select(*keys, wide_sum(row.units), wide_sum(row.end_ns - row.start_ns))
        .where(period.holds(row.agent_id, row.start_ns))
        .group_by(*keys)
    )


def by_rule(period: Period) -> Executable:
    """What rules of price rows added, by agent, the device that it stands beside, and rate."""
    row = price_rule.c
    keys = [row.agent_id, row.device_key, row.rate_key]
    return (
        select(*keys, wide_sum(row.units))
        .where(period.holds(row.agent_id, row.start_ns))
        .group_by(*keys)
    )


def rates() -> Executable:
    """Every rate: agent, key, and what a report says of it."""
    return select(
        rate.c.agent_id,
        rate.c.rate_key,
        rate.c.device_name,
        rate.c.per_hour,
        rate.c.currency,
        rate.c.covers,
        rate.c.basis,
        rate.c.source,
        rate.c.as_of,
    )


def idle_powers() -> Executable:
    """The power at rest of every device and state in which it is known, mW."""
    known = idle_power.c
    return (
        select(known.agent_id, known.device_key, known.state, known.power_mw)
        .where(known.power_mw.is_not(None))
        .order_by(known.state)
    )


def devices() -> Executable:
    """Every device with its node and how far it is settled."""
    return select(
        device.c.agent_id,
        device.c.device_key,
        agent.c.node,
        device.c.device,
        device.c.name,
        device.c.simulated,
        watermark.c.settled_ns,
    ).select_from(
        device.join(agent, agent.c.agent_id == device.c.agent_id).outerjoin(
            watermark,
            and_(
                watermark.c.agent_id == device.c.agent_id,
                watermark.c.device_key == device.c.device_key,
            ),
        )
    )
