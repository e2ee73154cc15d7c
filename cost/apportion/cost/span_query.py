"""What spans counted and what they cost: one SQLAlchemy Core statement for each figure."""

from __future__ import annotations

from sqlite3 import sqlite_version_info
from typing import TYPE_CHECKING, Any

from sqlalchemy import CTE, Executable, Subquery, and_, case, func, null, select

from apportion.core.category import INPUT_PHASES, Category, SpanKind, SpanStatus
from apportion.cost.ledger.schema import accrual, agent, charge, entity, span, watermark
from apportion.cost.report_query import dimensions, unpriced_ns
from apportion.cost.sums import wide_sum

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import ColumnElement

    from apportion.cost.period import Period


def _charged() -> Subquery:
    """Spans that have a posted line."""
    return (
        select(charge.c.agent_id, charge.c.ring_key, charge.c.number)
        .where(charge.c.ring_key.is_not(None))
        .distinct()
        .subquery("charged")
    )


def _running() -> Subquery:
    """Spans of which something is not posted yet."""
    return (
        select(accrual.c.agent_id, accrual.c.ring_key, accrual.c.number)
        .where(accrual.c.ring_key != 0)
        .distinct()
        .subquery("running")
    )


def _posted() -> CTE:
    """Every posted line of a span.

    Written out first and joined from the outside by all callers: joined as a table, SQLite would
    look lines up by agent alone and take a day over a day's ledger.
    """
    posted = (
        select(
            charge.c.agent_id,
            charge.c.ring_key,
            charge.c.number,
            charge.c.category,
            charge.c.phase,
            charge.c.units,
            charge.c.device_ns,
            charge.c.priced_ns,
        )
        .where(charge.c.ring_key.is_not(None))
        .cte("posted")
    )
    # Older ones do not know the word, and do not need it in an outer join of sums.
    if sqlite_version_info >= (3, 35):
        posted = posted.prefix_with("MATERIALIZED", dialect="sqlite")
    return posted


def _of_span(other: Any) -> ColumnElement[bool]:
    return and_(
        other.c.agent_id == span.c.agent_id,
        other.c.ring_key == span.c.ring_key,
        other.c.number == span.c.number,
    )


def _spans(period: Period, kind: SpanKind) -> list[ColumnElement[bool]]:
    """Root spans of `kind` that ended in the period."""
    return [
        span.c.kind == int(kind),
        span.c.parent == 0,
        period.holds(span.c.agent_id, span.c.end_ns),
    ]


def _with_names(source: Any) -> Any:
    return source.join(agent, agent.c.agent_id == span.c.agent_id).outerjoin(
        entity,
        and_(entity.c.agent_id == span.c.agent_id, entity.c.entity_key == span.c.entity_key),
    )


def requests(period: Period, by: Sequence[str]) -> Executable:
    """Requests that ended in the period: how many, their tokens, and tokens to divide cost by.

    The latter are of those whose cost is posted to the end and has a first token to divide it.
    """
    charged, running = _charged(), _running()
    divided = and_(
        charged.c.number.is_not(None),
        running.c.number.is_(None),
        span.c.first_token_ns.is_not(None),
    )
    keys = dimensions(by)
    source = span.outerjoin(charged, _of_span(charged)).outerjoin(running, _of_span(running))
    return (
        select(
            *keys,
            func.count(),
            wide_sum(span.c.input_tokens),
            wide_sum(span.c.cached_input_tokens),
            wide_sum(span.c.output_tokens),
            wide_sum(case((divided, span.c.input_tokens))),
            wide_sum(case((divided, span.c.cached_input_tokens))),
            wide_sum(case((divided, span.c.output_tokens))),
        )
        .select_from(_with_names(source))
        .where(*_spans(period, SpanKind.REQUEST))
        .group_by(*keys)
    )


def request_costs(period: Period, by: Sequence[str]) -> Executable:
    """Input and output cost of the same requests, over their whole life, with what came later."""
    running, posted = _running(), _posted()
    is_input = posted.c.phase.in_(sorted(int(phase) for phase in INPUT_PHASES))
    keys = dimensions(by)
    source = span.outerjoin(posted, _of_span(posted)).outerjoin(running, _of_span(running))
    return (
        select(
            *keys,
            wide_sum(case((is_input, posted.c.units))),
            wide_sum(case((is_input, null()), else_=posted.c.units)),
            wide_sum(unpriced_ns(posted.c)),
        )
        .select_from(_with_names(source))
        .where(
            *_spans(period, SpanKind.REQUEST),
            span.c.first_token_ns.is_not(None),
            running.c.number.is_(None),
        )
        .group_by(*keys)
    )


def _steps(period: Period, *, charged_only: bool) -> tuple[Any, list[ColumnElement[bool]]]:
    """Source and terms of the steps that ended in the period, lost ones left out."""
    terms = [*_spans(period, SpanKind.STEP), span.c.status != int(SpanStatus.LOST)]
    if not charged_only:
        return _with_names(span), terms
    charged, running = _charged(), _running()
    source = span.outerjoin(charged, _of_span(charged)).outerjoin(running, _of_span(running))
    # coalesce keeps SQLite from turning the outer join round; see `_posted`.
    is_charged = func.coalesce(charged.c.number, 0) != 0
    return _with_names(source), [*terms, is_charged, running.c.number.is_(None)]


def steps(period: Period, by: Sequence[str], *, charged_only: bool) -> Executable:
    """Steps that ended in the period, the spans of all ranks of one step counted once.

    Columns after the dimensions: how many, and their summed durations in nanoseconds, from the
    first rank's start to the last one's end. Lost steps are left out: their cost is no step's.
    `charged_only`: those whose cost is posted to the end.
    """
    source, terms = _steps(period, charged_only=charged_only)
    keys = dimensions(by)
    # A step without a number of its own stands for itself.
    own_ring = case((span.c.step.is_(None), span.c.ring_key))
    own_number = case((span.c.step.is_(None), span.c.number))
    duration = func.max(span.c.end_ns) - func.min(span.c.start_ns)
    whole = (
        select(*keys, duration.label("duration_ns"))
        .select_from(source)
        .where(*terms)
        .group_by(*keys, entity.c.run, entity.c.attempt, span.c.step, own_ring, own_number)
        .subquery("whole_step")
    )
    names = [whole.c[name] for name in by]
    return select(*names, func.count(), wide_sum(whole.c.duration_ns)).group_by(*names)


def step_tokens(period: Period, by: Sequence[str]) -> Executable:
    """Training tokens of the steps that ended in the period, over all ranks."""
    source, terms = _steps(period, charged_only=False)
    keys = dimensions(by)
    return select(*keys, wide_sum(span.c.tokens)).select_from(source).where(*terms).group_by(*keys)


def step_costs(period: Period, by: Sequence[str]) -> Executable:
    """What the steps that `steps` counts as charged cost over their whole life.

    Also where a restart made it `lost` later: a step has its price, and a report its lost cost.
    """
    running, posted = _running(), _posted()
    keys = dimensions(by)
    is_direct = posted.c.category.in_([int(Category.DIRECT), int(Category.LOST)])
    source = span.outerjoin(posted, _of_span(posted)).outerjoin(running, _of_span(running))
    return (
        select(
            *keys,
            wide_sum(case((is_direct, posted.c.units))),
            wide_sum(case((is_direct, unpriced_ns(posted.c)))),
        )
        .select_from(_with_names(source))
        .where(
            *_spans(period, SpanKind.STEP),
            span.c.status != int(SpanStatus.LOST),
            running.c.number.is_(None),
        )
        .group_by(*keys)
    )


def without_cost(period: Period) -> Executable:
    """How many spans took time that is settled and yet have no line: their device is unknown."""
    charged, running = _charged(), _running()
    settled = (
        select(watermark.c.agent_id, func.min(watermark.c.settled_ns).label("settled_ns"))
        .group_by(watermark.c.agent_id)
        .subquery("settled")
    )
    source = (
        span.join(settled, settled.c.agent_id == span.c.agent_id)
        .outerjoin(charged, _of_span(charged))
        .outerjoin(running, _of_span(running))
    )
    began = func.coalesce(span.c.scheduled_ns, span.c.start_ns)
    return (
        select(func.count())
        .select_from(source)
        .where(
            span.c.parent == 0,
            span.c.kind != int(SpanKind.PHASE),
            span.c.end_ns > began,
            span.c.end_ns <= settled.c.settled_ns,
            charged.c.number.is_(None),
            running.c.number.is_(None),
            period.holds(span.c.agent_id, span.c.end_ns),
        )
    )
