"""Which lines of a ledger are the cost of work that a restart made vain.

The agent moves them to `lost` (`step_lines`, `waiting_lines`); for agents that never saw the
restart a report derives the same amounts (`step_cost`, `waiting_cost`). Both take what stands in
the ledger after all moves, so what was moved once is not found again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import (
    BigInteger,
    and_,
    case,
    cast,
    false,
    func,
    literal,
    not_,
    null,
    or_,
    select,
    tuple_,
    union_all,
)

from apportion.core.category import Category, SpanKind, SpanStatus
from apportion.core.units import NS_PER_HOUR
from apportion.cost.ledger.batch import ChargeKind
from apportion.cost.ledger.schema import accrual, charge, span
from apportion.cost.rollups.sources import unpriced_ns
from apportion.cost.sums import wide_sum

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from sqlalchemy import ColumnElement, Executable, Select

    from apportion.cost.period import Period
    from apportion.cost.training.rollback import Rollback

ROLLED_BACK: Final = "rolled_back"
"""A step was finished, and a later attempt began before it."""
PROCESS_DIED: Final = "process_died"
"""A step was open when its process died."""
HANG: Final = "hang"
"""A process waited outside of its steps until it was killed, and a later attempt went on."""
WAITING: Final = (Category.UNINSTRUMENTED, Category.ALLOCATED_IDLE)
"""What the time of a process is that waits for another one, outside of its steps."""
_AT_ONCE: Final = 200
_SPAN: Final = [span.c.agent_id, span.c.ring_key, span.c.number]


class Hang(NamedTuple):
    """Processes of one interrupted attempt, as one agent knows them, and what its name means.

    All that its `entities` have without a span lies behind its last work: what is before it is
    startup or between_steps. It is theirs from `since_ns` on until their name is used again.
    """

    agent_id: int
    rings: tuple[int, ...]
    entities: tuple[int, ...]
    since_ns: int
    until_ns: int


def batches(rollbacks: Sequence[Rollback]) -> Iterator[Sequence[Rollback]]:
    """As many as fit one statement: databases bound how deep an expression is."""
    for first in range(0, len(rollbacks), _AT_ONCE):
        yield rollbacks[first : first + _AT_ONCE]


# -- spans -------------------------------------------------------------------------------------
def finished_steps() -> ColumnElement[bool]:
    """Is a row of `span` a step that ended while its process lived?"""
    return and_(
        span.c.parent == 0,
        span.c.kind == int(SpanKind.STEP),
        span.c.status != int(SpanStatus.LOST),
    )


def in_vain(rollbacks: Sequence[Rollback]) -> ColumnElement[bool]:
    """Is a row of `span` one of the steps that `rollbacks` are about?"""
    chosen = [
        and_(
            span.c.agent_id == one.process.agent_id,
            span.c.ring_key == one.process.ring,
            span.c.step >= one.first_step,
            span.c.end_ns <= one.until_ns,
        )
        for one in rollbacks
    ]
    return or_(false(), *chosen)


def vain_steps(rollbacks: Sequence[Rollback], known: Sequence[Rollback] = ()) -> Select[Any]:
    """(agent, ring, number) of the finished steps in `rollbacks`, those in `known` left out."""
    steps: Select[Any] = select(*_SPAN)
    return steps.where(in_vain(rollbacks), not_(in_vain(known)), finished_steps())


def begun_ns(steps: Select[Any]) -> Select[Any]:
    """When the first of `vain_steps` began; None where there is none."""
    return steps.with_only_columns(func.min(span.c.start_ns))


def reason_of_loss(line: Any) -> ColumnElement[str]:
    """Why a line is in `lost`, by what it is about: later moves and prices name other reasons."""
    died: Select[Any] = select(*_SPAN)
    died = died.where(span.c.status == int(SpanStatus.LOST))
    return case(
        (line.category != int(Category.LOST), ""),
        (line.ring_key.is_(None), HANG),
        (tuple_(line.agent_id, line.ring_key, line.number).in_(died), PROCESS_DIED),
        else_=ROLLED_BACK,
    )


# -- lines -------------------------------------------------------------------------------------
def step_lines(steps: Select[Any], *terms: ColumnElement[bool]) -> Executable:
    """What `vain_steps` have as `direct`: columns of `charge` without agent_id, summed."""
    return _lines(*_direct(steps), *terms)


def waiting_lines(hangs: Collection[Hang], *terms: ColumnElement[bool]) -> Executable:
    """The same of what the time of `hangs` without a span has."""
    return _lines(*_waiting(charge.c, hangs), *terms)


def step_cost(steps: Select[Any], *terms: ColumnElement[bool]) -> Executable:
    """By agent, ring and phase the `Quantity` that `vain_steps` cost by now as `direct`."""
    line = charge.c
    keys: list[Any] = [line.agent_id, line.ring_key, line.phase]
    return select(*keys, *quantities(line)).where(*_direct(steps), *terms).group_by(*keys)


def waiting_cost(hangs: Collection[Hang], period: Period) -> Executable:
    """By agent, entity and category the `Quantity` of `hangs` without a span, posted or not.

    What is not posted yet is not left out: what was learnt late of it is posted already.
    """
    names = ("agent_id", "entity_key", "category", "device_ns", "units", "energy_mj")
    posted = select(*(charge.c[name] for name in names), charge.c.priced_ns).where(
        *_waiting(charge.c, hangs), period.holds(charge.c.agent_id, charge.c.start_ns)
    )
    priced_ns = cast(null(), BigInteger).label("priced_ns")
    running = select(*(accrual.c[name] for name in names), priced_ns).where(
        *_waiting(accrual.c, hangs), period.holds(accrual.c.agent_id, accrual.c.bucket_ns)
    )
    line = union_all(posted, running).subquery("line").c
    keys: list[Any] = [line.agent_id, line.entity_key, line.category]
    return select(*keys, *quantities(line)).group_by(*keys)


def quantities(line: Any) -> list[Any]:
    """The arguments of `Quantity.of`."""
    return [
        wide_sum(line.device_ns),
        wide_sum(line.units),
        wide_sum(line.energy_mj),
        wide_sum(unpriced_ns(line)),
        wide_sum(case((line.energy_mj.is_(None), line.device_ns))),
    ]


def _direct(steps: Select[Any]) -> tuple[ColumnElement[bool], ...]:
    line = charge.c
    # A list that SQLite looks each line up in; joined, it would go through all spans for each.
    of_steps = tuple_(line.agent_id, line.ring_key, line.number).in_(steps)
    return line.category == int(Category.DIRECT), of_steps


def _waiting(line: Any, hangs: Collection[Hang]) -> tuple[ColumnElement[bool], ...]:
    chosen = [
        and_(
            line.agent_id == one.agent_id,
            line.entity_key.in_(one.entities),
            line.end_ns > one.since_ns,
            line.start_ns < one.until_ns,
        )
        for one in hangs
    ]
    return or_(false(), *chosen), line.category.in_([int(category) for category in WAITING])


def _lines(*terms: ColumnElement[bool]) -> Executable:
    """One row for each holder, hour, rate and method. Adjustments follow the time by themselves."""
    # In a subquery: an expression with parameters cannot be grouped by on PostgreSQL.
    hour = (charge.c.start_ns - charge.c.start_ns % NS_PER_HOUR).label("hour_ns")
    posted = charge.c.kind != int(ChargeKind.ADJUSTMENT)
    line = select(charge, hour).where(posted, *terms).subquery("line").c
    who = [line.group_key, line.category, line.phase, line.entity_key, line.ring_key, line.number]
    how = [line.rate_key, line.method_key, line.incomplete]
    nothing: list[Any] = [literal(0), literal(int(ChargeKind.REALLOCATION))]
    times: list[Any] = [func.min(line.start_ns), func.max(line.end_ns), literal(0)]
    sums: list[Any] = [wide_sum(line.device_ns), wide_sum(line.energy_mj), wide_sum(line.units)]
    return (
        select(*nothing, *who, *times, *sums, *how[:2], literal(""), how[2])
        .group_by(line.hour_ns, *who, *how)
        .order_by(line.hour_ns, *who, *how)
    )
