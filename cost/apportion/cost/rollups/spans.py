"""Root spans that ended in some time, what they counted, and what their whole life cost.

One statement for the figures that add up, one for the numbers of steps: the spans of all ranks
of a step are one step, and whether two agents saw the same one shows only when both are put
together. The same statements make rollups and report on what is in none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import (
    Subquery,
    and_,
    case,
    false,
    func,
    literal_column,
    null,
    select,
    union_all,
)

from apportion.core.category import INPUT_PHASES, Category, SpanKind, SpanStatus
from apportion.cost.ledger.schema import accrual, charge, span
from apportion.cost.quantity import plus
from apportion.cost.rollups.sources import hour_of, unpriced_ns
from apportion.cost.sums import HALF_BITS, halves, narrow_sums, sums_of_halves

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import ColumnElement, Executable
    from sqlalchemy.sql.selectable import FromClause


class SpanSums(NamedTuple):
    """Figures of some spans; None where nobody said, or nothing has a price.

    `spans` leaves lost steps out, `uncharged` are those that took settled time and have no line
    (a request that was refused took none).
    `divided_*` are tokens of the requests whose cost is posted to the end and has a first token
    to divide it. `units` is direct cost of steps, and of requests all that is not input.
    `unpriced_ns` is the device time that the amounts leave out.
    """

    spans: int = 0
    uncharged: int = 0
    unnumbered: int = 0
    unnumbered_charged: int = 0
    tokens: int | None = None
    input_tokens: int | None = None
    cached_input_tokens: int | None = None
    output_tokens: int | None = None
    divided_input_tokens: int | None = None
    divided_cached_input_tokens: int | None = None
    divided_output_tokens: int | None = None
    duration_ns: int | None = None
    input_units: int | None = None
    units: int | None = None
    unpriced_ns: int | None = None

    @classmethod
    def of(cls, sums: Sequence[Any]) -> SpanSums:
        """From the columns of `figures`."""
        *counts, d_high, d_low, i_high, i_low, u_high, u_low, p_high, p_low = sums
        # As `joined`, without a call of it for each of what may be a hundred thousand.
        return cls._make(
            (
                *counts,
                None if d_low is None else (d_high << HALF_BITS) + d_low,
                None if i_low is None else (i_high << HALF_BITS) + i_low,
                None if u_low is None else (u_high << HALF_BITS) + u_low,
                None if p_low is None else (p_high << HALF_BITS) + p_low,
            )
        )

    def plus(self, other: SpanSums) -> SpanSums:
        """Both together."""
        return SpanSums._make(map(plus, self, other))


def root_spans(*terms: ColumnElement[bool]) -> list[ColumnElement[bool]]:
    """SQL: `terms`, of spans that compete for devices."""
    return [span.c.parent == 0, span.c.kind != int(SpanKind.PHASE), *terms]


def spans_with_cost(
    spans: Sequence[ColumnElement[bool]],
    lines: Sequence[ColumnElement[bool]],
    *,
    settled: ColumnElement[bool],
    with_running: bool = True,
) -> Subquery:
    """Root spans for which the terms `spans` hold, as if each were the rollup of itself.

    `lines` are the places (see `sources.lines`) of what is posted about them. `settled` says
    whether a span's time is, so that it should have a line. `with_running`: a span of which
    something still runs has no whole cost; without, only what is posted counts. Beside the
    columns of `rollup_span`: `step`, `charged` and `posted_ns`, when the newest of the span and
    its lines was posted.
    """
    cost = _cost(lines)
    still = _still_running()
    source = span.outerjoin(cost, _of_span(cost))
    is_open: ColumnElement[bool] = false()
    if with_running:
        source = source.outerjoin(still, _of_span(still))
        is_open = still.c.number.is_not(None)
    has_line, closed = cost.c.number.is_not(None), ~is_open
    is_request, is_step = (span.c.kind == int(k) for k in (SpanKind.REQUEST, SpanKind.STEP))
    counted = ~and_(is_step, span.c.status == int(SpanStatus.LOST))
    step = and_(is_step, counted)
    request = and_(is_request, span.c.first_token_ns.is_not(None), closed)
    began = func.coalesce(span.c.scheduled_ns, span.c.start_ns)
    tokens = (span.c.input_tokens, span.c.cached_input_tokens, span.c.output_tokens)
    uncharged = and_(~has_line, closed, span.c.end_ns > began, settled, ~_refused())
    figures = {
        "spans": _count(counted),
        "uncharged": _count(uncharged),
        "unnumbered": _count(and_(step, span.c.step.is_(None))),
        "unnumbered_charged": _count(and_(step, span.c.step.is_(None), has_line, closed)),
        "tokens": case((step, span.c.tokens)),
        **{column.name: case((is_request, column)) for column in tokens},
        **{f"divided_{column.name}": case((and_(request, has_line), column)) for column in tokens},
        "duration_ns": case((step, span.c.end_ns - span.c.start_ns)),
    }
    for half in ("high", "low"):
        figures[f"input_units_{half}"] = case((request, cost.c[f"input_{half}"]))
        figures[f"units_{half}"] = case(
            (request, cost.c[f"other_{half}"]), (and_(step, closed), cost.c[f"direct_{half}"])
        )
    figures["unpriced_ns"] = case(
        (request, cost.c.unpriced_ns), (and_(step, closed), cost.c.unpriced_direct_ns)
    )
    return (
        select(
            span.c.agent_id,
            hour_of(span.c.end_ns).label("start_ns"),
            func.coalesce(span.c.entity_key, 0).label("entity_key"),
            span.c.kind,
            *(column.label(name) for name, column in figures.items()),
            case((step, span.c.step)).label("step"),
            _count(and_(has_line, closed)).label("charged"),
            _later(span.c.posted_ns, cost.c.posted_ns).label("posted_ns"),
        )
        .select_from(source)
        .where(*root_spans(*spans))
        .subquery("span_with_cost")
    )


def figures(row: FromClause, *, summed: bool = True) -> list[ColumnElement[Any]]:
    """What `SpanSums.of` reads, of rows with the columns of `rollup_span`: summed, or of each.

    What is not summed fits 64 bits whole; the other half is 0.
    """
    column = row.c
    counts = (column.spans, column.uncharged, column.unnumbered, column.unnumbered_charged)
    tokens = (
        column.tokens,
        column.input_tokens,
        column.cached_input_tokens,
        column.output_tokens,
        column.divided_input_tokens,
        column.divided_cached_input_tokens,
        column.divided_output_tokens,
    )
    zero: ColumnElement[Any] = literal_column("0")
    amounts = (
        halves(column.duration_ns) if summed else (zero, column.duration_ns),
        (column.input_units_high, column.input_units_low),
        (column.units_high, column.units_low),
        halves(column.unpriced_ns) if summed else (zero, column.unpriced_ns),
    )
    columns: list[ColumnElement[Any]] = [*counts, *tokens]
    columns += [half for pair in amounts for half in pair]
    return narrow_sums(*columns) if summed else columns


def step_ranges(row: Subquery, names: Sequence[str]) -> Executable:
    """Numbers of steps by the columns `names` and `charged`, as ranges: first and last.

    `row` is of `spans_with_cost`. Steps that follow one another have the same distance from their
    place in the order, which tells the ranges apart.
    """
    keys = [row.c[name] for name in names]
    found = select(*keys, row.c.charged, row.c.step).where(row.c.step.is_not(None)).distinct()
    steps = found.subquery("numbered_step")
    keys = [*(steps.c[name] for name in names), steps.c.charged]
    place = func.row_number().over(partition_by=keys, order_by=steps.c.step)
    ranges = select(*keys, steps.c.step, (steps.c.step - place).label("distance")).subquery("range")
    keys = [*(ranges.c[name] for name in names), ranges.c.charged]
    first, last = func.min(ranges.c.step), func.max(ranges.c.step)
    return select(*keys, first, last).group_by(*keys, ranges.c.distance).order_by(*keys)


def _cost(places: Sequence[ColumnElement[bool]]) -> Subquery:
    """What is posted about each span. Written out before it is joined, as an aggregate is."""
    columns = (
        charge.c.agent_id,
        charge.c.ring_key,
        charge.c.number,
        charge.c.category,
        charge.c.phase,
        charge.c.units,
        charge.c.device_ns,
        charge.c.priced_ns,
        charge.c.posted_ns,
    )
    of_spans = select(*columns).where(charge.c.ring_key.is_not(None))
    line = union_all(*(of_spans.where(place) for place in places)).subquery("line_of_span").c
    is_input = line.phase.in_(sorted(int(phase) for phase in INPUT_PHASES))
    # What a restart made `lost` later has been direct: a step has its price, whatever came of it.
    is_direct = line.category.in_([int(Category.DIRECT), int(Category.LOST)])
    parts = {
        "input": case((is_input, line.units)),
        "other": case((is_input, null()), else_=line.units),
        "direct": case((is_direct, line.units)),
    }
    sums: list[ColumnElement[Any]] = []
    for name, units in parts.items():
        high, low = sums_of_halves(halves(units))
        sums += [high.label(f"{name}_high"), low.label(f"{name}_low")]
    total_ns, direct_ns = narrow_sums(unpriced_ns(line), case((is_direct, unpriced_ns(line))))
    keys = [line.agent_id, line.ring_key, line.number]
    return (
        select(
            *keys,
            *sums,
            total_ns.label("unpriced_ns"),
            direct_ns.label("unpriced_direct_ns"),
            func.max(line.posted_ns).label("posted_ns"),
        )
        .group_by(*keys)
        .subquery("span_cost")
    )


def _still_running() -> Subquery:
    keys = [accrual.c.agent_id, accrual.c.ring_key, accrual.c.number]
    return select(*keys).where(accrual.c.ring_key != 0).distinct().subquery("still_running")


def _refused() -> ColumnElement[bool]:
    """A request that came to nothing, and of which nothing says that a device worked for it."""
    known = (span.c.scheduled_ns, span.c.first_token_ns, span.c.input_tokens, span.c.output_tokens)
    failed = and_(span.c.kind == int(SpanKind.REQUEST), span.c.status != int(SpanStatus.OK))
    return and_(failed, *(column.is_(None) for column in known))


def _of_span(other: Subquery) -> ColumnElement[bool]:
    return and_(
        other.c.agent_id == span.c.agent_id,
        other.c.ring_key == span.c.ring_key,
        other.c.number == span.c.number,
    )


def _count(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return case((condition, 1), else_=0)


def _later(
    one: ColumnElement[int | None], other: ColumnElement[int | None]
) -> ColumnElement[int | None]:
    """The later of two instants; None only where both are."""
    return case((other.is_(None), one), (one > other, one), else_=other)
