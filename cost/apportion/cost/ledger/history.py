"""What the ledger knows about a settled interval: read again when something is learnt late."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from sqlalchemy import and_, select

from apportion.core.category import SpanKind
from apportion.cost.ledger.schema import charge, evidence, settlement, span

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy import Connection, Row, Table
    from sqlalchemy.sql import ColumnElement, Select

    from apportion.cost.ledger.batch import Row as BatchRow

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
        query = (
            self._spans(rings, start_ns, end_ns, (*columns, *times))
            .where(_ROOT)
            .order_by(span.c.end_ns.desc())
            .limit(most)
        )
        return [RootRow(*row) for row in self.connection.execute(query)]

    def inner(self, rings: Collection[int], start_ns: int, end_ns: int) -> list[InnerRow]:
        """Spans of `rings` that are no roots and meet [start_ns, end_ns), by their end."""
        columns = ("ring_key", "number", "parent", "start_ns", "end_ns", "phase", "phase_clock")
        query = self._spans(rings, start_ns, end_ns, columns).where(span.c.parent != 0)
        query = query.order_by(span.c.end_ns, span.c.number.desc())
        return [InnerRow(*row) for row in self.connection.execute(query)]

    def spans_since(self, ring: int, since_ns: int) -> list[BatchRow]:
        """Whole rows of `span`, without agent_id, that end after `since_ns`."""
        columns = [column.name for column in span.c if column.name != "agent_id"]
        query = select(*(span.c[name] for name in columns)).where(
            self._mine(span), span.c.ring_key == ring, span.c.end_ns > since_ns
        )
        return [tuple(row) for row in self.connection.execute(query)]

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
        rows = self._of_device(evidence, names, device, start_ns, end_ns)
        return [Verdict(*row) for row in rows]

    def settlements(self, device: int, start_ns: int, end_ns: int) -> list[SettledPiece]:
        """The settlements of one device that meet [start_ns, end_ns), in order."""
        names = ("start_ns", "end_ns", "rate_key", "energy_mj")
        rows = self._of_device(settlement, names, device, start_ns, end_ns)
        return [SettledPiece(*row) for row in rows]

    def charges_of_span(self, ring: int, number: int) -> list[BatchRow]:
        """The posted lines of one span, whole rows without agent_id.

        Only for spans that were lost, so a scan is affordable; the table keeps no index for it.
        """
        columns = [column for column in charge.c if column.name != "agent_id"]
        query = select(*columns).where(
            self._mine(charge), charge.c.ring_key == ring, charge.c.number == number
        )
        return [tuple(row) for row in self.connection.execute(query)]

    def _mine(self, table: Table) -> ColumnElement[bool]:
        return table.c.agent_id == self.agent_id

    def _step(self, ring: int) -> ColumnElement[bool]:
        is_step = and_(span.c.parent == 0, span.c.kind == int(SpanKind.STEP))
        return and_(self._mine(span), span.c.ring_key == ring, is_step)

    def _spans(
        self, rings: Collection[int], start_ns: int, end_ns: int, columns: Collection[str]
    ) -> Select[tuple[int, ...]]:
        query: Select[tuple[int, ...]] = select(*(span.c[name] for name in columns)).where(
            self._mine(span),
            span.c.end_ns > start_ns,
            span.c.start_ns < end_ns,
            span.c.ring_key.in_(sorted(rings)),
        )
        return query

    def _of_device(
        self, table: Table, columns: Collection[str], device: int, start_ns: int, end_ns: int
    ) -> list[Row[tuple[int, ...]]]:
        query = (
            select(*(table.c[name] for name in columns))
            .where(
                self._mine(table),
                table.c.device_key == device,
                table.c.end_ns > start_ns,
                table.c.start_ns < end_ns,
            )
            .order_by(table.c.start_ns)
        )
        return list(self.connection.execute(query))
