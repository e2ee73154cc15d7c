"""The statements of a report: SQLAlchemy Core, the same on SQLite and PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, func, or_, select

from apportion.cost.ledger.price_tables import price_rule, repricing
from apportion.cost.ledger.rollup_tables import rollup_span
from apportion.cost.ledger.schema import agent, device, idle_power, rate, watermark
from apportion.cost.rollups.sources import amounts, key_names
from apportion.cost.rollups.spans import figures, step_ranges
from apportion.cost.sums import wide_sum

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import ColumnElement, Executable, Subquery

    from apportion.cost.report_scope import Scope, Source


def quantities(source: Source, names: Sequence[str], *terms: ColumnElement[bool]) -> Executable:
    """The columns `names` and `lacks`, then the sums that `quantity.summed` reads."""
    keys = [source.row.c[name] for name in (*names, "lacks")]
    sums = amounts(source.row, at_once={"agent_id", "start_ns"} <= set(names))
    return select(*keys, *sums).where(source.term, *terms).group_by(*keys)


def span_figures(source: Source, names: Sequence[str]) -> Executable:
    """The columns `names` and `kind`, then the sums that `SpanSums.of` reads."""
    keys = [source.row.c[name] for name in (*names, "kind")]
    if source.row is rollup_span and set(key_names(rollup_span)) <= {*names, "kind"}:
        # Each of its rows, of one length, is alone in its group.
        return select(*keys, *figures(source.row, summed=False)).where(source.term)
    return select(*keys, *figures(source.row)).where(source.term).group_by(*keys)


def rolled_steps(source: Source, names: Sequence[str]) -> Executable:
    """The columns `names`, whether charged, and ranges of step numbers: first and last."""
    row = source.row.c
    keys: list[ColumnElement[Any]] = [row[name] for name in names]
    return select(*keys, row.charged, row.first_step, row.last_step).where(source.term)


def live_steps(row: Subquery, names: Sequence[str]) -> Executable:
    """The same of spans that are in no rollup."""
    return step_ranges(row, names)


def spells(source: Source, places: Iterable[tuple[int, int]]) -> Executable:
    """From when to when, by hour, agents metered devices: agent and device, hour, start, end."""
    row = source.row.c
    keys = [row.agent_id, row.device_key, row.start_ns]
    asked = [and_(row.agent_id == agent_id, row.device_key == key) for agent_id, key in places]
    return (
        select(*keys, func.min(row.first_ns), func.max(row.last_ns))
        .where(source.term, or_(*asked))
        .group_by(*keys)
    )


def repriced(scope: Scope) -> Executable:
    """New prices by agent, device, rate before and after: units and time."""
    row = repricing.c
    keys = [row.agent_id, row.device_key, row.from_rate_key, row.to_rate_key]
    return (
        select(*keys, wide_sum(row.units), wide_sum(row.end_ns - row.start_ns))
        .where(scope.holds(repricing))
        .group_by(*keys)
    )


def by_rule(scope: Scope) -> Executable:
    """What rules of price rows added, by agent, the device that it stands beside, and rate."""
    row = price_rule.c
    keys = [row.agent_id, row.device_key, row.rate_key]
    return select(*keys, wide_sum(row.units)).where(scope.holds(price_rule)).group_by(*keys)


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
