"""Spans into `rollup_span` and `rollup_step`: a whole hour at once, of which all should be there.

An hour into which a span or a line of its spans comes later is stale, and summed again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from sqlalchemy import and_, func, select, true

from apportion.core.category import SpanKind
from apportion.core.units import NS_PER_HOUR
from apportion.cost.ledger.posted import keys_since
from apportion.cost.ledger.rollup_tables import rollup_span
from apportion.cost.ledger.rows import rows
from apportion.cost.ledger.schema import LATE_NS, charge, span, watermark
from apportion.cost.rollups.grains import Grains
from apportion.cost.rollups.hours import flag_stale, hours_of, write_hours
from apportion.cost.rollups.marks import (
    NEVER_NS,
    Mark,
    late_spans,
    stale_hours,
    summable,
)
from apportion.cost.rollups.piece import Piece
from apportion.cost.rollups.spans import (
    SpanSums,
    figures,
    root_spans,
    spans_with_cost,
    step_ranges,
)
from apportion.cost.rollups.steps import Range, StepsOf, replace_steps

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection

    from apportion.cost.rollups.grains import Rolled

SPAN: Final = Grains(rollup_span)


class HourOfSpans(NamedTuple):
    """One hour's spans, added up. `posted_ns` is when the newest of them or their lines was."""

    figures: Rolled
    steps: dict[StepsOf, list[Range]]
    posted_ns: int | None


def spans(connection: Connection, agent_id: int, mark: Mark, most: int) -> Piece | None:
    """A stale hour, or the next one that is over."""
    del most  # an hour is whole
    newest_ns = connection.execute(
        select(func.max(watermark.c.settled_ns)).where(watermark.c.agent_id == agent_id)
    ).scalar()
    if newest_ns is None:
        return None
    late, seen_ns = late_spans(connection, agent_id, mark)
    stale = [*stale_hours(connection, agent_id), *late]
    if stale:
        hour_ns, after = stale[0], mark._replace(seen_ns=seen_ns)
    else:
        over_ns = newest_ns - LATE_NS
        over_ns -= over_ns % NS_PER_HOUR
        hour_ns = _next_hour(connection, agent_id, mark, over_ns)
        after = mark._replace(spans_until_ns=hour_ns + NS_PER_HOUR, seen_ns=seen_ns)
        if hour_ns >= over_ns:
            if over_ns <= (mark.spans_until_ns or NEVER_NS):
                return None
            after = mark._replace(spans_until_ns=over_ns, seen_ns=seen_ns)
            return Piece(after, _nothing)
    found: HourOfSpans | None = None
    if summable(connection, agent_id, mark, [hour_ns]):
        found = sum_hour(connection, agent_id, mark, hour_ns)

    def write(connection: Connection) -> None:
        flag_stale(connection, agent_id, late)
        hour = hours_of(connection, agent_id, [hour_ns])[hour_ns]._replace(stale=0)
        if found is not None:
            SPAN.replace(connection, agent_id, hour_ns, found.figures)
            replace_steps(connection, agent_id, hour_ns, found.steps)
            hour = hour._replace(spans_posted_ns=found.posted_ns)
        write_hours(connection, agent_id, {hour_ns: hour})

    return Piece(after, write)


def _nothing(connection: Connection) -> None:
    """Only the mark is written."""
    del connection


def _next_hour(connection: Connection, agent_id: int, mark: Mark, over_ns: int) -> int:
    """The first hour that is not rolled up and has a span; `over_ns` where there is none."""
    query = select(func.min(span.c.end_ns)).where(span.c.agent_id == agent_id)
    if mark.spans_until_ns is not None:
        query = query.where(span.c.end_ns >= mark.spans_until_ns)
    end_ns = connection.execute(query).scalar()
    return over_ns if end_ns is None else int(end_ns - end_ns % NS_PER_HOUR)


def sum_hour(connection: Connection, agent_id: int, mark: Mark, hour_ns: int) -> HourOfSpans:
    """Everything about the spans that ended in an hour, by the lines that are rolled up."""
    inside = (
        span.c.agent_id == agent_id,
        span.c.end_ns >= hour_ns,
        span.c.end_ns < hour_ns + NS_PER_HOUR,
    )
    begun_ns = connection.execute(
        select(func.min(span.c.start_ns)).where(*root_spans(*inside))
    ).scalar()
    if begun_ns is None:
        return HourOfSpans({}, {}, None)
    since = keys_since(connection, agent_id, begun_ns)
    key = charge.c.charge_key
    places: list[ColumnElement[bool]] = [
        and_(charge.c.agent_id == agent_id, key.between(since.up, mark.last_key)),
        and_(charge.c.agent_id == agent_id, key.between(mark.first_key, since.down)),
    ]
    row = spans_with_cost(inside, places, settled=true())
    keys = [row.c.agent_id, row.c.start_ns, row.c.entity_key, row.c.kind]
    query = select(*keys, *figures(row), func.max(row.c.posted_ns)).group_by(*keys)
    width, sums, posted, kinds = len(keys), dict[tuple[int, ...], SpanSums](), [0], set[int]()
    for *values, posted_ns in rows(connection, query):
        sums[tuple(values[:width])] = SpanSums.of(values[width:])
        posted.append(posted_ns or 0)
        kinds.add(values[width - 1])
    steps: dict[StepsOf, list[Range]] = {}
    if SpanKind.STEP in kinds:
        for entity, charged, first, last in rows(connection, step_ranges(row, ["entity_key"])):
            steps.setdefault(StepsOf(entity, charged), []).append((first, last))
    return HourOfSpans(dict(sums), steps, max(posted) or None)
