"""Spans: each is in the ledger once, and whatever is charged to one is charged to one that ran."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import and_, func, or_, select

from apportion.core.units import NS_PER_HOUR, NS_PER_MINUTE
from apportion.cost.audit_deleted import Deleted
from apportion.cost.audit_finding import Checker, Finding
from apportion.cost.ledger.batch import ChargeKind
from apportion.cost.ledger.rows import rows
from apportion.cost.ledger.schema import charge, ring, ring_position, span, watermark

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from apportion.cost.audit_finding import Check, Names

HOLE_NS: Final = 10 * NS_PER_MINUTE
"""For so long a record that is missing may still come."""


def span_checks(connection: Connection, names: Names) -> list[Check]:
    """See the module."""
    return [_unique(connection, names), _known(connection, names)]


def _unique(connection: Connection, names: Names) -> Check:
    checker = Checker("unique", "each span is in the ledger once", "spans")
    keys = [span.c.agent_id, span.c.ring_key, span.c.number]
    twice = rows(
        connection,
        select(*keys, func.count(), func.min(span.c.start_ns), func.max(span.c.end_ns))
        .group_by(*keys)
        .having(func.count() > 1)
        .order_by(*keys)
        .limit(1),
    )
    for agent_id, ring_key, number, count, start_ns, end_ns in twice:
        subject = f"span {number} of ring {_ring(connection, agent_id, ring_key)}"
        checker.examine(
            Finding(names.node(agent_id), subject, start_ns, end_ns, "rows", "1", str(count))
        )
    checker.count(connection.execute(select(func.count()).select_from(span)).scalar_one())
    return checker.done()


def _known(connection: Connection, names: Names) -> Check:
    """A span that is open has no row yet, but lines for the hours that are over.

    So a line without a span is wrong when it was posted before its hour was over (the span had
    ended), or when its ring died long ago and lost no record.
    """
    checker = Checker("spans", "each line of a span has its span", "lines")
    line = charge.c
    seen = select(span.c.agent_id, span.c.ring_key, span.c.number).distinct().subquery("seen")
    settled = (
        select(watermark.c.agent_id, func.min(watermark.c.settled_ns).label("settled_ns"))
        .group_by(watermark.c.agent_id)
        .subquery("settled")
    )
    hour_end = line.start_ns - line.start_ns % NS_PER_HOUR + NS_PER_HOUR
    of_span = and_(
        line.kind == int(ChargeKind.CHARGE),
        line.ring_key.is_not(None),
        Deleted(connection).is_kept(line.agent_id, line.start_ns),
    )
    dead = and_(
        ring_position.c.ended_ns + HOLE_NS < settled.c.settled_ns,
        ring_position.c.lost == 0,
        ring_position.c.abandoned == 0,
    )
    source = (
        charge.outerjoin(
            seen,
            and_(
                seen.c.agent_id == line.agent_id,
                seen.c.ring_key == line.ring_key,
                seen.c.number == line.number,
            ),
        )
        .outerjoin(ring, and_(ring.c.agent_id == line.agent_id, ring.c.ring_key == line.ring_key))
        .outerjoin(
            ring_position,
            and_(
                ring_position.c.agent_id == line.agent_id,
                ring_position.c.ring_key == line.ring_key,
            ),
        )
        .outerjoin(settled, settled.c.agent_id == line.agent_id)
    )
    wrong = rows(
        connection,
        select(
            line.agent_id, line.charge_key, line.ring_key, line.number, line.start_ns, line.end_ns
        )
        .select_from(source)
        .where(
            of_span,
            seen.c.number.is_(None),
            or_(line.posted_ns < hour_end, ring.c.ring_key.is_(None), dead),
        )
        .order_by(line.agent_id, line.charge_key)
        .limit(1),
    )
    for agent_id, key, ring_key, number, start_ns, end_ns in wrong:
        subject = f"line {key}"
        quantity = f"span {number} of ring {_ring(connection, agent_id, ring_key)}"
        checker.examine(
            Finding(names.node(agent_id), subject, start_ns, end_ns, quantity, "there", "none")
        )
    count = connection.execute(select(func.count()).select_from(charge).where(of_span))
    checker.count(count.scalar_one())
    return checker.done()


def _ring(connection: Connection, agent_id: int, key: int) -> str:
    found = connection.execute(
        select(ring.c.ring).where(ring.c.agent_id == agent_id, ring.c.ring_key == key)
    ).scalar()
    return f"key {key}" if found is None else str(found)
