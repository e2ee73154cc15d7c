"""Rollups of spans against the spans and their lines, for as long as those are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import and_, select, true

from apportion.core.units import NS_PER_HOUR
from apportion.cost.audit_finding import Checker, Finding
from apportion.cost.audit_hours import by_hour, side_by_side, steps_by_hour
from apportion.cost.audit_rollups import kept_hours
from apportion.cost.ledger.rollup_tables import rollup_span, rollup_step
from apportion.cost.ledger.rows import stream
from apportion.cost.ledger.schema import charge, span
from apportion.cost.rollups.marks import NEVER_NS, out_of_date
from apportion.cost.rollups.reach import hours_begun_before
from apportion.cost.rollups.spans import SpanSums, figures, spans_with_cost, step_ranges

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import ColumnElement, Connection, Table
    from sqlalchemy.sql.selectable import FromClause

    from apportion.cost.audit_finding import Check, Names
    from apportion.cost.audit_hours import Hour
    from apportion.cost.audit_rollups import Hours


def rolled_spans_check(connection: Connection, names: Names) -> Check:
    """Every hour that is rolled up and into which nothing came since."""
    checker = Checker(
        "rolled spans", "each rollup of spans says what the spans and their lines say", "hours"
    )
    for hours in kept_hours(connection):
        for finding in span_differences(connection, names, hours):
            checker.examine(finding)
    return checker.done()


def span_differences(
    connection: Connection, names: Names, hours: Hours
) -> Iterator[Finding | None]:
    """For each hour of spans, and then of steps, what is wrong with it; None: nothing is."""
    agent_id, mark = hours.agent_id, hours.mark
    left_out = {
        *out_of_date(connection, agent_id, mark),
        *hours_begun_before(connection, agent_id, hours.start_ns),
    }
    until_ns = NEVER_NS if mark.spans_until_ns is None else mark.spans_until_ns
    end_ns = span.c.end_ns
    mine = and_(span.c.agent_id == agent_id, hours.hold(end_ns), end_ns < until_ns)
    lines = charge.c.charge_key.between(mark.first_key, mark.last_key)
    row = spans_with_cost([mine], [and_(charge.c.agent_id == agent_id, lines)], settled=true())

    def rolled(table: Table) -> ColumnElement[bool]:
        start_ns = table.c.start_ns
        return and_(table.c.hours == 1, table.c.agent_id == agent_id, hours.hold(start_ns))

    steps = rollup_step.c
    numbers = (steps.entity_key, steps.charged, steps.first_step, steps.last_step)
    held = select(steps.agent_id, steps.start_ns, *numbers).where(rolled(rollup_step))
    accounts = {
        rollup_span: (
            _figures(connection, row, true()),
            _figures(connection, rollup_span, rolled(rollup_span)),
        ),
        rollup_step: (
            steps_by_hour(
                stream(connection, step_ranges(row, ("agent_id", "start_ns", "entity_key")))
            ),
            steps_by_hour(stream(connection, held.order_by(steps.start_ns, *numbers))),
        ),
    }
    for table, sides in accounts.items():
        for start_ns, expected, found in side_by_side(*sides):
            if start_ns not in left_out:
                yield _difference(names, agent_id, table, start_ns, expected, found)


def _figures(
    connection: Connection, row: FromClause, term: ColumnElement[bool]
) -> Iterator[tuple[int, Hour]]:
    keys = [row.c[name] for name in ("agent_id", "start_ns", "entity_key", "kind")]
    query = select(*keys, *figures(row)).where(term).group_by(*keys).order_by(row.c.start_ns)
    found = ((*said[:4], *SpanSums.of(said[4:])) for said in stream(connection, query))
    return by_hour(found, len(keys))


def _difference(
    names: Names, agent_id: int, table: Table, start_ns: int, expected: Hour, found: Hour
) -> Finding | None:
    for key in sorted({*expected, *found}):
        if expected.get(key) != found.get(key):
            return Finding(
                names.node(agent_id),
                f"{table.name} of entity {key[0]}",
                start_ns,
                start_ns + NS_PER_HOUR,
                "figures",
                str(expected.get(key)),
                str(found.get(key)),
            )
    return None
