"""The statements of a report: SQLAlchemy Core, the same on SQLite and PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, select

from apportion.cost.ledger.schema import agent, device, rate, watermark
from apportion.cost.rollups.sources import amounts
from apportion.cost.rollups.spans import figures, step_ranges

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import ColumnElement, Executable, Subquery

    from apportion.cost.report_scope import Source


def quantities(source: Source, names: Sequence[str], *terms: ColumnElement[bool]) -> Executable:
    """The columns `names` and `lacks`, then the sums that `quantity.summed` reads."""
    keys = [source.row.c[name] for name in (*names, "lacks")]
    return select(*keys, *amounts(source.row)).where(source.term, *terms).group_by(*keys)


def span_figures(source: Source, names: Sequence[str]) -> Executable:
    """The columns `names` and `kind`, then the sums that `SpanSums.of` reads."""
    keys = [source.row.c[name] for name in (*names, "kind")]
    return select(*keys, *figures(source.row)).where(source.term).group_by(*keys)


def rolled_steps(source: Source, names: Sequence[str]) -> Executable:
    """The columns `names`, whether charged, and ranges of step numbers: first and last."""
    row = source.row.c
    keys: list[ColumnElement[Any]] = [row[name] for name in names]
    return select(*keys, row.charged, row.first_step, row.last_step).where(source.term)


def live_steps(row: Subquery, names: Sequence[str]) -> Executable:
    """The same of spans that are in no rollup."""
    return step_ranges(row, names)


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


def devices() -> Executable:
    """Every device with its node, and from when to when it is settled."""
    return select(
        device.c.agent_id,
        device.c.device_key,
        agent.c.node,
        device.c.device,
        device.c.name,
        device.c.simulated,
        watermark.c.since_ns,
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
