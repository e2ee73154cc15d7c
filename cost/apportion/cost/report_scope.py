"""What a report is about: a period of every agent in a ledger, as it is now or as it was then."""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING, Final, NamedTuple

from sqlalchemy import and_, false, or_, true

from apportion.core.errors import LedgerError
from apportion.cost.figure_text import instant
from apportion.cost.ledger.rollup_tables import (
    rollup_cost,
    rollup_meter,
    rollup_part,
    rollup_span,
    rollup_step,
)
from apportion.cost.ledger.schema import span
from apportion.cost.rollups import sources
from apportion.cost.rollups.cover import Stretch, covered
from apportion.cost.rollups.reach import (
    Asked,
    Reach,
    changed_since,
    reach_now,
    reach_then,
    within,
)
from apportion.cost.rollups.spans import spans_with_cost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from sqlalchemy import ColumnElement, Connection, Subquery, Table
    from sqlalchemy.sql.selectable import FromClause

    from apportion.cost.period import Period

    Term = ColumnElement[bool]


class Source(NamedTuple):
    """Rows in the shape of a rollup for which `term` holds. `is_open`: not posted yet."""

    row: FromClause
    term: Term
    is_open: bool = False


class Scope:
    """Where the figures of a report are: in rollups where there are any, else in the rows.

    `grains` are the lengths of rollups that may be read: a report by hour reads hours only.
    """

    def __init__(
        self, period: Period, reaches: Sequence[Reach], then_ns: Mapping[int, int] | None
    ) -> None:
        """`then_ns`: by agent, in its node time, the instant up to which posted rows count."""
        self.period: Final = period
        self._reaches = reaches
        self._then_ns = then_ns
        self._live = self._live_spans()

    @classmethod
    def of(cls, connection: Connection, period: Period, as_of_unix_ns: int | None) -> Scope:
        """`now`, or `then` where an instant is given."""
        if as_of_unix_ns is None:
            return cls.now(connection, period)
        return cls.then(connection, period, as_of_unix_ns)

    @classmethod
    def now(cls, connection: Connection, period: Period) -> Scope:
        """Of everything that is in the ledger, what is not posted yet included."""
        reaches = [
            reach_now(connection, agent_id, _asked(period, agent_id))
            for agent_id in period.wall.offsets
        ]
        return cls(period, reaches, None)

    @classmethod
    def then(cls, connection: Connection, period: Period, as_of_unix_ns: int) -> Scope:
        """Of what had been posted by some instant.

        Raises:
            LedgerError: an hour was changed since, and its rows are kept no longer.
        """
        reaches: list[Reach] = []
        instants: dict[int, int] = {}
        for agent_id in period.wall.offsets:
            asked = _asked(period, agent_id)
            then_ns = instants[agent_id] = period.wall.node(agent_id, as_of_unix_ns)
            changed = changed_since(connection, agent_id, asked, then_ns)
            if changed is not None:
                start, end = (instant(period.wall.hour(agent_id, at or 0)) for at in changed)
                message = (
                    f"hours between {start} and {end} were changed after "
                    f"{instant(as_of_unix_ns)}, and what they were is not kept any more: report "
                    "on other hours, or without --as-of"
                )
                raise LedgerError(message)
            reaches.append(reach_then(connection, agent_id, asked, then_ns))
        return cls(period, reaches, instants)

    def holds(self, table: Table) -> Term:
        """SQL: rows of `repricing` or `price_rule` in the period, posted by then."""
        inside = self.period.holds(table.c.agent_id, table.c.start_ns)
        if self._then_ns is None:
            return inside
        posted = (
            and_(table.c.agent_id == agent_id, table.c.posted_ns <= then_ns)
            for agent_id, then_ns in self._then_ns.items()
        )
        return and_(inside, or_(false(), *posted))

    def cost(self, grains: Sequence[int]) -> list[Source]:
        """Rows with the columns of `rollup_cost`."""
        lines = zip_longest(*(reach.lines for reach in self._reaches), fillvalue=false())
        posted = sources.lines(*(or_(*places) for places in lines)) if self._reaches else None
        running = sources.running(or_(false(), *(reach.running for reach in self._reaches)))
        return [
            *self._rolled(rollup_cost, grains, lambda reach: reach.rolled),
            *([] if posted is None else [Source(posted, true())]),
            Source(running, true(), is_open=True),
        ]

    def meters(self, grains: Sequence[int]) -> list[Source]:
        """Rows with the columns of `rollup_meter`."""
        outside = sources.meters(or_(false(), *(reach.settlements for reach in self._reaches)))
        rolled = self._rolled(rollup_meter, grains, lambda reach: reach.rolled)
        return [*rolled, Source(outside, true())]

    def parts(self, grains: Sequence[int]) -> list[Source]:
        """Rows with the columns of `rollup_part`."""
        outside = sources.parts(or_(false(), *(reach.parts for reach in self._reaches)))
        rolled = self._rolled(rollup_part, grains, lambda reach: reach.rolled)
        return [*rolled, Source(outside, true())]

    def spans(self, grains: Sequence[int]) -> list[Source]:
        """Rows with the columns of `rollup_span`."""
        rolled = self._rolled(rollup_span, grains, lambda reach: reach.rolled_spans)
        return [*rolled, *(Source(row, true()) for row in self.live_spans)]

    def steps(self, grains: Sequence[int]) -> list[Source]:
        """Rows of `rollup_step`: what of the steps is rolled up; the rest is in `live_spans`."""
        return self._rolled(rollup_step, grains, lambda reach: reach.rolled_spans)

    @property
    def live_spans(self) -> list[Subquery]:
        """The spans that are in no rollup, with their cost; at most one."""
        return [] if self._live is None else [self._live]

    def _live_spans(self) -> Subquery | None:
        if not self._reaches:
            return None
        settled = (
            and_(span.c.agent_id == reach.agent_id, span.c.end_ns <= reach.settled_ns)
            for reach in self._reaches
        )
        places = zip_longest(*(reach.span_lines for reach in self._reaches), fillvalue=false())
        return spans_with_cost(
            [or_(*(reach.spans for reach in self._reaches))],
            [or_(*alike) for alike in places],
            settled=or_(*settled),
            with_running=self._then_ns is None,
        )

    def _rolled(
        self,
        table: Table,
        grains: Sequence[int],
        stretches: Callable[[Reach], Iterable[Stretch]],
    ) -> list[Source]:
        """One source for each length; agents with the same hours are asked for together."""
        alike: dict[tuple[int, tuple[Stretch, ...]], list[int]] = {}
        for reach in self._reaches:
            for hours, parts in covered(stretches(reach), grains).items():
                alike.setdefault((hours, parts), []).append(reach.agent_id)
        found: list[Source] = []
        for hours in sorted(set(grains), reverse=True):
            terms = [
                and_(
                    # One agent is asked for as one: then rows come in the order of their key.
                    table.c.agent_id == agents[0]
                    if len(agents) == 1
                    else table.c.agent_id.in_(agents),
                    or_(*(within(part, table.c.start_ns) for part in parts)),
                )
                for (length, parts), agents in alike.items()
                if length == hours
            ]
            if terms:
                found.append(Source(table, and_(table.c.hours == hours, or_(*terms))))
        return found


def _asked(period: Period, agent_id: int) -> Asked:
    return Asked(Stretch(*period.edges(agent_id)), period.disowned.hours.get(agent_id, ()))
