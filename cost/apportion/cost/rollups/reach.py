"""How far one agent's rollups reach, and what of its rows a reader has to look at beside them.

Together they are everything, and nothing twice. A ledger is read as it is now, by all that is
rolled up; or as it was at some instant, by its rows for as long as they are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from sqlalchemy import and_, false, func, or_, select

from apportion.core.units import NS_PER_HOUR
from apportion.cost.ledger.posted import keys_since
from apportion.cost.ledger.rollup_tables import rollup_hour
from apportion.cost.ledger.rows import rows
from apportion.cost.ledger.schema import (
    LATE_NS,
    accrual,
    charge,
    settlement,
    settlement_part,
    span,
    watermark,
)
from apportion.cost.rollups.cover import Stretch, without
from apportion.cost.rollups.marks import NEVER_NS, Mark, out_of_date
from apportion.cost.rollups.meter_piece import meter_marks
from apportion.cost.rollups.sources import hour_of
from apportion.cost.rollups.spans import root_spans

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import ColumnElement, Connection, Table

    Term = ColumnElement[bool]


class Asked(NamedTuple):
    """What a report is about: a stretch of an agent's hours, some of them left out, in order."""

    stretch: Stretch
    left_out: Sequence[int] = ()

    @property
    def stretches(self) -> list[Stretch]:
        """What is left."""
        return without(self.stretch, self.left_out)

    def before(self, end_ns: int) -> Asked:
        """What of it is before an instant."""
        return self._replace(stretch=_before(self.stretch, end_ns))

    def holds(self, instant_ns: ColumnElement[int]) -> Term:
        """SQL: is an instant in it?"""
        inside = within(self.stretch, instant_ns)
        if not self.left_out:
            return inside
        return and_(inside, hour_of(instant_ns).not_in(self.left_out))


_ALWAYS: Final = Asked(Stretch(None, None))


@dataclass(frozen=True, slots=True)
class Reach:
    """Of one agent, within the stretch that is asked for; SQL terms say which rows.

    `rolled` are the stretches of lines and settlements that are read from rollups, `rolled_spans`
    those of spans. `lines` and `span_lines` are places, see `sources.lines`. A span that ended by
    `settled_ns` took settled time.
    """

    agent_id: int
    rolled: Sequence[Stretch]
    lines: Sequence[Term]
    running: Term
    settlements: Term
    parts: Term
    rolled_spans: Sequence[Stretch]
    spans: Term
    span_lines: Sequence[Term]
    settled_ns: int


def reach_now(connection: Connection, agent_id: int, asked: Asked) -> Reach:
    """Everything that is in the ledger."""
    mark = Mark.load(connection, agent_id)
    mine = charge.c.agent_id == agent_id
    until_ns = NEVER_NS if mark.spans_until_ns is None else mark.spans_until_ns
    stale = out_of_date(connection, agent_id, mark)
    spans = _spans_outside(agent_id, until_ns, stale)
    spans = and_(spans, asked.holds(span.c.end_ns))
    marks = meter_marks(connection, agent_id)
    return Reach(
        agent_id,
        asked.stretches if mark.pieces else [],
        [and_(mine, place, asked.holds(charge.c.start_ns)) for place in mark.lines_outside()],
        and_(accrual.c.agent_id == agent_id, asked.holds(accrual.c.bucket_ns)),
        _settled_outside(settlement, agent_id, marks, asked),
        _settled_outside(settlement_part, agent_id, marks, asked),
        [] if until_ns == NEVER_NS else _without(asked.before(until_ns), stale),
        spans,
        _lines_of(connection, agent_id, spans),
        _settled_ns(connection, agent_id),
    )


def reach_then(connection: Connection, agent_id: int, asked: Asked, then_ns: int) -> Reach:
    """What was posted by `then_ns`, node time. Hours of `changed_since` are as they are now."""
    kept_ns = kept_from(connection, agent_id)
    gone = [] if kept_ns == NEVER_NS else asked.before(kept_ns).stretches
    begun_before = hours_begun_before(connection, agent_id, kept_ns, asked)
    lines = and_(charge.c.agent_id == agent_id, charge.c.posted_ns <= then_ns)
    spans = and_(
        span.c.agent_id == agent_id,
        span.c.end_ns >= kept_ns,
        hour_of(span.c.end_ns).not_in(begun_before),
        func.coalesce(span.c.posted_ns, NEVER_NS) <= then_ns,
        asked.holds(span.c.end_ns),
    )

    def settled(table: Table) -> Term:
        known = and_(table.c.agent_id == agent_id, table.c.start_ns >= kept_ns)
        return and_(known, asked.holds(table.c.start_ns))

    kept = and_(charge.c.start_ns >= kept_ns, asked.holds(charge.c.start_ns))
    return Reach(
        agent_id,
        gone,
        [and_(lines, kept)],
        false(),
        settled(settlement),
        settled(settlement_part),
        [*gone, *(Stretch(hour_ns, hour_ns + NS_PER_HOUR) for hour_ns in begun_before)],
        spans,
        [lines],
        _settled_ns(connection, agent_id),
    )


def within(stretch: Stretch, instant_ns: ColumnElement[int]) -> Term:
    """SQL: is an instant in it?"""
    edges: list[Term] = []
    if stretch.start_ns is not None:
        edges.append(instant_ns >= stretch.start_ns)
    if stretch.end_ns is not None:
        edges.append(instant_ns < stretch.end_ns)
    return and_(*edges) if edges else instant_ns.is_not(None)


def _without(asked: Asked, hours: Sequence[int]) -> list[Stretch]:
    return without(asked.stretch, sorted({*asked.left_out, *hours}))


def _before(stretch: Stretch, end_ns: int) -> Stretch:
    known_ns = stretch.end_ns
    return stretch._replace(end_ns=end_ns if known_ns is None else min(known_ns, end_ns))


def _spans_outside(agent_id: int, until_ns: int, stale: Sequence[int]) -> Term:
    """One range by the index, and of it those that no right rollup has."""
    edges: list[Term] = [span.c.end_ns >= until_ns]
    for first_ns, end_ns in _runs(stale):
        edges.append(and_(span.c.end_ns >= first_ns, span.c.end_ns < end_ns))
    earliest = span.c.end_ns >= min([until_ns, *stale])
    return and_(span.c.agent_id == agent_id, earliest, or_(*edges))


def _runs(hours: Sequence[int]) -> list[tuple[int, int]]:
    """Hours that follow one another as (start, end)."""
    runs: list[tuple[int, int]] = []
    for hour_ns in hours:
        if runs and runs[-1][1] == hour_ns:
            runs[-1] = runs[-1][0], hour_ns + NS_PER_HOUR
        else:
            runs.append((hour_ns, hour_ns + NS_PER_HOUR))
    return runs


def _settled_outside(
    table: Table, agent_id: int, marks: dict[int, tuple[int, int]], asked: Asked
) -> Term:
    start_ns = table.c.start_ns
    left = {device: at[0] for device, at in marks.items() if at[0] < at[1]}
    if not left:
        return false()
    edges = [and_(table.c.device_key == key, start_ns >= at) for key, at in left.items()]
    known = table.c.device_key.in_(sorted(left))
    place = and_(table.c.agent_id == agent_id, known, start_ns >= min(left.values()), or_(*edges))
    return and_(place, asked.holds(start_ns))


def _settled_ns(connection: Connection, agent_id: int) -> int:
    """How far all devices are settled; one that is left behind for long waits for nobody."""
    mine = watermark.c.agent_id == agent_id
    known = [row[0] for row in rows(connection, select(watermark.c.settled_ns).where(mine))]
    newest_ns = max(known, default=NEVER_NS)
    return min((at for at in known if at > newest_ns - LATE_NS), default=NEVER_NS)


def _lines_of(connection: Connection, agent_id: int, spans: Term) -> list[Term]:
    """Where lines of these spans may be: what was posted since the first of them began."""
    begun = select(func.min(span.c.start_ns)).where(*root_spans(spans))
    begun_ns = connection.execute(begun).scalar()
    if begun_ns is None:
        return [false()]
    since = keys_since(connection, agent_id, begun_ns)
    mine, key = charge.c.agent_id == agent_id, charge.c.charge_key
    return [and_(mine, key >= since.up), and_(mine, key <= since.down)]


def hours_begun_before(
    connection: Connection, agent_id: int, kept_ns: int, asked: Asked = _ALWAYS
) -> list[int]:
    """Hours whose spans are kept, but not all lines of them: their rollups know the whole cost."""
    if kept_ns == NEVER_NS:
        return []
    query = select(hour_of(span.c.end_ns)).where(
        span.c.agent_id == agent_id,
        span.c.end_ns >= kept_ns,
        span.c.start_ns < kept_ns,
        asked.holds(span.c.end_ns),
    )
    return sorted(row[0] for row in rows(connection, query.distinct()))


def kept_from(connection: Connection, agent_id: int) -> int:
    """From when on an agent's rows are there."""
    kept_ns = Mark.load(connection, agent_id).kept_from_ns
    return NEVER_NS if kept_ns is None else kept_ns


def changed_since(
    connection: Connection, agent_id: int, asked: Asked, then_ns: int
) -> Stretch | None:
    """The first to the last hour that was changed after `then_ns` and whose rows are gone."""
    kept_ns = kept_from(connection, agent_id)
    if kept_ns == NEVER_NS:
        return None
    start_ns = rollup_hour.c.start_ns
    begun_before = hours_begun_before(connection, agent_id, kept_ns, asked)
    query = select(func.min(start_ns), func.max(start_ns)).where(
        rollup_hour.c.agent_id == agent_id,
        or_(rollup_hour.c.posted_ns > then_ns, rollup_hour.c.spans_posted_ns > then_ns),
        or_(start_ns.in_(begun_before), asked.before(kept_ns).holds(start_ns)),
    )
    ((first_ns, last_ns),) = rows(connection, query)
    return None if first_ns is None else Stretch(first_ns, last_ns + NS_PER_HOUR)
