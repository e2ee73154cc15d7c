"""What the ledger knows about a settled interval: read again when something is learnt late."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import and_, select

from apportion.core.category import SpanKind
from apportion.core.units import NS_PER_HOUR
from apportion.cost.ledger.posted import keys_since
from apportion.cost.ledger.rows import rows
from apportion.cost.ledger.schema import charge, entity, evidence, settlement, span
from apportion.cost.training import lost_query

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sqlalchemy import Connection, Table
    from sqlalchemy.sql import ColumnElement, Select

    from apportion.cost.ledger.batch import Row as BatchRow
    from apportion.cost.training.lost_query import Hang
    from apportion.cost.training.rollback import Rollback

LONGEST_NS: Final = NS_PER_HOUR
"""No settlement and no verdict is longer: the index knows only where they start."""
_RING: Final = span.c.ring_key + 0
"""An expression: by the column itself SQLite would go through all spans that a ring ever had,
instead of those that end in an interval."""
_ROOT: Final = and_(span.c.parent == 0, span.c.kind != int(SpanKind.PHASE))


class RootRow(NamedTuple):
    """A root span as the ledger has it."""

    ring: int
    sequence: int
    number: int
    kind: int
    status: int
    entity: int | None
    start_ns: int
    scheduled_ns: int | None
    first_token_ns: int | None
    end_ns: int
    input_tokens: int | None
    cached_input_tokens: int | None
    output_tokens: int | None
    step: int | None = None
    engine: int | None = None


class RequestRow(NamedTuple):
    """A request that has an id, and who told of it."""

    workload: str | None
    ring: int
    request_id: str
    start_ns: int
    end_ns: int


class InnerRow(NamedTuple):
    """A span that is no root."""

    ring: int
    number: int
    parent: int
    start_ns: int
    end_ns: int
    phase: int
    clock: int


class Verdict(NamedTuple):
    """What the time without a span was judged to be; `entities` joined by commas."""

    start_ns: int
    end_ns: int
    category: int
    entities: str
    reason: str


class SettledPiece(NamedTuple):
    """One settlement of a device."""

    start_ns: int
    end_ns: int
    rate: int | None
    energy_mj: int | None
    idle_mw: int | None


@dataclass(frozen=True, slots=True)
class History:
    """One agent's past, in one read transaction. Intervals are half-open, node time in ns."""

    connection: Connection
    agent_id: int

    def roots(
        self, rings: Collection[int], start_ns: int, end_ns: int, *, most: int
    ) -> list[RootRow]:
        """Root spans of `rings` that meet [start_ns, end_ns): the `most` that ended last."""
        columns = ("ring_key", "sequence", "number", "kind", "status", "entity_key", "start_ns")
        times = ("scheduled_ns", "first_token_ns", "end_ns")
        tokens = ("input_tokens", "cached_input_tokens", "output_tokens")
        query = (
            self._spans(rings, start_ns, end_ns, (*columns, *times, *tokens, "step", "engine"))
            .where(_ROOT)
            .order_by(span.c.end_ns.desc())
            .limit(most)
        )
        return [RootRow(*row) for row in rows(self.connection, query)]

    def request_ids(
        self, rings: Collection[int], start_ns: int, end_ns: int
    ) -> dict[tuple[int, int], str | None]:
        """Ids of root spans of `rings` that meet [start_ns, end_ns), by ring and number."""
        columns = ("ring_key", "number", "request_id")
        query = self._spans(rings, start_ns, end_ns, columns).where(_ROOT)
        return {(row[0], row[1]): row[2] for row in rows(self.connection, query)}

    def inner(self, rings: Collection[int], start_ns: int, end_ns: int) -> list[InnerRow]:
        """Spans of `rings` that are no roots and meet [start_ns, end_ns), by their end."""
        columns = ("ring_key", "number", "parent", "start_ns", "end_ns", "phase", "phase_clock")
        query = self._spans(rings, start_ns, end_ns, columns).where(span.c.parent != 0)
        query = query.order_by(span.c.end_ns, span.c.number.desc())
        return [InnerRow(*row) for row in rows(self.connection, query)]

    def spans_since(self, rings: Collection[int], since_ns: int) -> list[BatchRow]:
        """Whole rows of `span`, without agent_id, of `rings` that end after `since_ns`."""
        columns = [column.name for column in span.c if column.name != "agent_id"]
        query = select(*(span.c[name] for name in columns)).where(
            self._mine(span), span.c.end_ns > since_ns, _RING.in_(sorted(rings))
        )
        return rows(self.connection, query)

    def requests_since(self, since_ns: int) -> list[RequestRow]:
        """Requests with an id that end after `since_ns`, by their end."""
        query = (
            select(
                entity.c.workload,
                span.c.ring_key,
                span.c.request_id,
                span.c.start_ns,
                span.c.end_ns,
            )
            .join(
                entity,
                and_(
                    entity.c.agent_id == span.c.agent_id, entity.c.entity_key == span.c.entity_key
                ),
            )
            .where(
                self._mine(span),
                span.c.end_ns > since_ns,
                span.c.kind == int(SpanKind.REQUEST),
                span.c.parent == 0,
                span.c.request_id.is_not(None),
            )
            .order_by(span.c.end_ns)
        )
        return [RequestRow(*row) for row in rows(self.connection, query)]

    def step_end_before(self, ring: int, time_ns: int, oldest_ns: int) -> int | None:
        """The end of the last step that ended in [oldest_ns, time_ns]."""
        query = select(span.c.end_ns).where(
            self._step(ring), span.c.end_ns <= time_ns, span.c.end_ns >= oldest_ns
        )
        return self.connection.execute(query.order_by(span.c.end_ns.desc()).limit(1)).scalar()

    def step_start_after(self, ring: int, time_ns: int) -> int | None:
        """The start of the first step that begins at `time_ns` or later."""
        query = select(span.c.start_ns).where(
            self._step(ring), span.c.end_ns > time_ns, span.c.start_ns >= time_ns
        )
        return self.connection.execute(query.order_by(span.c.end_ns).limit(1)).scalar()

    def evidence(self, device: int, start_ns: int, end_ns: int) -> list[Verdict]:
        """The verdicts on one device that meet [start_ns, end_ns), clipped by nobody."""
        names = ("start_ns", "end_ns", "category", "entity_keys", "reason")
        found = self._of_device(evidence, names, device, start_ns, end_ns)
        return [Verdict(*row) for row in found]

    def settlements(self, device: int, start_ns: int, end_ns: int) -> list[SettledPiece]:
        """The settlements of one device that meet [start_ns, end_ns), in order."""
        names = ("start_ns", "end_ns", "rate_key", "energy_mj", "idle_mw")
        found = self._of_device(settlement, names, device, start_ns, end_ns)
        return [SettledPiece(*row) for row in found]

    def charges_of_span(self, ring: int, number: int, since_ns: int) -> list[BatchRow]:
        """The lines of one span that were posted since `since_ns`, whole rows without agent_id.

        All that was posted since is scanned: only for spans that were lost. Adjustments, which
        commands number from -1 down, are not among them: they follow what they adjust.
        """
        columns = [column for column in charge.c if column.name != "agent_id"]
        query = select(*columns).where(
            self._mine(charge),
            self._posted_since(since_ns),
            charge.c.ring_key == ring,
            charge.c.number == number,
        )
        return rows(self.connection, query)

    def step_lines(
        self, rollbacks: Sequence[Rollback], known: Sequence[Rollback]
    ) -> list[BatchRow]:
        """What the steps of `rollbacks`, but not of `known`, have as `direct`: rows to be moved."""
        found: list[BatchRow] = []
        for batch in lost_query.batches(rollbacks):
            steps = lost_query.vain_steps(batch, known)
            since_ns = self.connection.execute(lost_query.begun_ns(steps)).scalar()
            if since_ns is not None:
                lines = self._posted_since(since_ns)
                query = lost_query.step_lines(steps, self._mine(charge), lines)
                found += rows(self.connection, query)
        return found

    def waiting_lines(self, hangs: Sequence[Hang]) -> list[BatchRow]:
        """What the time of `hangs` without a span has: rows to be moved."""
        if not hangs:
            return []
        lines = self._posted_since(min(hang.since_ns for hang in hangs))
        query = lost_query.waiting_lines(hangs, self._mine(charge), lines)
        return rows(self.connection, query)

    def _posted_since(self, posted_ns: int) -> ColumnElement[bool]:
        return charge.c.charge_key >= keys_since(self.connection, self.agent_id, posted_ns).up

    def _mine(self, table: Table) -> ColumnElement[bool]:
        return table.c.agent_id == self.agent_id

    def _step(self, ring: int) -> ColumnElement[bool]:
        is_step = and_(
            span.c.parent == 0,
            span.c.kind == int(SpanKind.STEP),
            span.c.start_ns < span.c.end_ns,
        )
        return and_(self._mine(span), _RING.in_([ring]), is_step)

    def _spans(
        self, rings: Collection[int], start_ns: int, end_ns: int, columns: Collection[str]
    ) -> Select[Any]:
        query: Select[Any] = select(*(span.c[name] for name in columns)).where(
            self._mine(span),
            span.c.end_ns > start_ns,
            span.c.start_ns < end_ns,
            _RING.in_(sorted(rings)),
        )
        return query

    def _of_device(
        self, table: Table, columns: Collection[str], device: int, start_ns: int, end_ns: int
    ) -> Sequence[BatchRow]:
        query = (
            select(*(table.c[name] for name in columns))
            .where(
                self._mine(table),
                table.c.device_key == device,
                table.c.start_ns > start_ns - LONGEST_NS,
                table.c.end_ns > start_ns,
                table.c.start_ns < end_ns,
            )
            .order_by(table.c.start_ns)
        )
        return rows(self.connection, query)
