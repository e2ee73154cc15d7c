"""Why a request was dear: what the ledger has of it, beside the mean of its like.

The mean is that of the other requests of the same workload and model which ended in the same hour:
they had the same devices, prices and neighbours. What a request cost is its tokens, times the
device time that each took, times the price of that time; so is the mean, and each factor can be
set beside its own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import and_, case, func, or_, select, true, tuple_

from apportion.core.category import Phase, SpanKind, SpanStatus
from apportion.core.errors import LedgerError
from apportion.core.units import NS_PER_HOUR
from apportion.cost import report_query as query
from apportion.cost.cost_by_category import prices_of
from apportion.cost.disowned import Disowned
from apportion.cost.ledger.rows import rows
from apportion.cost.ledger.schema import accrual, charge, device, device_group, entity, method, span
from apportion.cost.period import Period, WallTime
from apportion.cost.quantity import Quantity, summed
from apportion.cost.report_scope import Source
from apportion.cost.rollups import sources
from apportion.cost.rollups.spans import root_spans
from apportion.cost.serving.request_rows import Others, RequestReport, RequestRow, Work
from apportion.cost.sums import narrow_sums

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy import ColumnElement, Connection, Select

    from apportion.cost.ledger.reader import LedgerReader

    Term = ColumnElement[bool]

MOST_NAMESAKES: Final = 20
"""Requests under one id that are shown: an id is to be one request's."""
LONGEST_NS: Final = 24 * NS_PER_HOUR
"""What a request cost longer before a period is not looked at when the costliest are chosen."""
_KEY: Final = ("agent_id", "ring_key", "number")
_LINE: Final = ("agent_id", "rate_key", "group_key", "method_key", "phase")
_ARRIVED: Final = func.coalesce(span.c.arrival_ns, span.c.start_ns)
_COUNTED: Final = (
    span.c.input_tokens - func.coalesce(span.c.cached_input_tokens, 0),
    span.c.cached_input_tokens,
    span.c.output_tokens,
    span.c.scheduled_ns - _ARRIVED,
    span.c.end_ns - _ARRIVED,
)
"""What `Work` has of a span, in its order."""


def request_report(
    ledger: LedgerReader,
    request_id: str,
    start_unix_ns: int | None = None,
    end_unix_ns: int | None = None,
) -> RequestReport:
    """The requests with that id, or of that trace, each beside the mean of its like.

    Those that ended in [start, end), widened to whole hours; None is open.

    Raises:
        LedgerError: no such request, several currencies, or the ledger cannot be read.
    """
    named = or_(span.c.request_id == request_id, span.c.trace_id == request_id)
    with ledger.read() as connection:
        reading = _Reading(connection, start_unix_ns, end_unix_ns)
        found = [
            replace(row, others=reading.others(key, row))
            for key, row in reading.named(named).items()
        ]
        if not found:
            message = (
                f"no request {request_id!r} in {ledger.name}: it is there when it has ended, by "
                "the id that the server or `X-Request-Id` gave it (or its hash: `python -m "
                "apportion.client hash`), as long as spans are kept"
            )
            raise LedgerError(message)
        return reading.report(ledger.name, found)


def top_requests(
    ledger: LedgerReader,
    number: int,
    start_unix_ns: int | None = None,
    end_unix_ns: int | None = None,
) -> RequestReport:
    """The requests that cost most, or took most device time where nothing has a price.

    Of those that ended in [start, end), as in `request_report`, by what is posted.

    Raises:
        LedgerError: several currencies, or the ledger cannot be read.
    """
    with ledger.read() as connection:
        reading = _Reading(connection, start_unix_ns, end_unix_ns)
        found = list(reading.costliest(number).values())
        return reading.report(ledger.name, found)


class _Key(NamedTuple):
    agent_id: int
    ring_key: int
    number: int

    def of(self, table: Any) -> Term:
        """SQL: is a row of `table` about this span?"""
        return and_(*(table.c[name] == value for name, value in zip(_KEY, self, strict=True)))


class _Amounts(NamedTuple):
    """What lines say: posted by phase, and not posted yet; their groups and methods."""

    phases: Mapping[Phase, Quantity]
    running: Quantity
    groups: frozenset[int]
    methods: frozenset[int]


class _Reading:
    """What is read of some requests of one ledger."""

    def __init__(
        self, connection: Connection, start_unix_ns: int | None, end_unix_ns: int | None
    ) -> None:
        self._connection = connection
        self._wall, disowned = WallTime.load(connection), Disowned.load(connection)
        self._period = Period.around(start_unix_ns, end_unix_ns, self._wall, disowned)
        self._rates: set[tuple[int, int]] = set()
        """Those that anything so far was priced by."""

    def report(self, name: str, found: Sequence[RequestRow]) -> RequestReport:
        """What was read so far, with its currency."""
        currency, estimated = prices_of(self._connection, name, self._rates)
        simulated = bool(self._connection.execute(select(func.max(device.c.simulated))).scalar())
        return RequestReport(name, currency, estimated, simulated, tuple(found))

    def named(self, term: Term) -> dict[_Key, RequestRow]:
        """Requests of the period for which `term` holds, the last that ended first."""
        asked = select(*(span.c[name] for name in _KEY)).where(*self._requests(term))
        newest = asked.order_by(span.c.end_ns.desc(), span.c.number.desc()).limit(MOST_NAMESAKES)
        return self._rows_of(newest)

    def costliest(self, number: int) -> dict[_Key, RequestRow]:
        """Requests of the period, those that cost most first."""
        earlier_ns = self._period.start_unix_ns
        near = replace(
            self._period, start_unix_ns=earlier_ns and earlier_ns - LONGEST_NS, end_unix_ns=None
        )
        keys = [charge.c[name] for name in _KEY]
        units, device_ns = narrow_sums(charge.c.units, charge.c.device_ns)
        cost = (
            select(*keys, units.label("units"), device_ns.label("device_ns"))
            .where(charge.c.ring_key.is_not(None), near.holds(charge.c.agent_id, charge.c.start_ns))
            .group_by(*keys)
            .subquery("cost_of_span")
        )
        same = and_(*(cost.c[name] == span.c[name] for name in _KEY))
        order = (cost.c.units.desc().nulls_last(), cost.c.device_ns.desc())
        asked = select(*(span.c[name] for name in _KEY)).select_from(span.join(cost, same))
        return self._rows_of(asked.where(*self._requests()).order_by(*order).limit(number))

    def _requests(self, *terms: Term) -> list[Term]:
        inside = self._period.holds(span.c.agent_id, span.c.end_ns)
        return root_spans(span.c.kind == int(SpanKind.REQUEST), inside, *terms)

    def _rows_of(self, keys: Select[Any]) -> dict[_Key, RequestRow]:
        return {_Key(*row): self._row(_Key(*row)) for row in rows(self._connection, keys)}

    def _row(self, key: _Key) -> RequestRow:
        asked = (
            select(
                span.c.request_id,
                span.c.trace_id,
                func.coalesce(entity.c.workload, entity.c.owner),
                entity.c.tenant,
                entity.c.model,
                span.c.status,
                _ARRIVED,
                span.c.first_token_ns,
                span.c.preemptions,
                *_COUNTED,
            )
            .select_from(span.outerjoin(entity, _same_entity()))
            .where(key.of(span), span.c.parent == 0)
        )
        (found,) = rows(self._connection, asked.limit(1))
        request_id, trace_id, workload, tenant, model, status = found[:6]
        arrived_ns, first_token_ns, preemptions, *work = found[6:]
        amounts = self._amounts(key.of)
        return RequestRow(
            request_id,
            trace_id,
            workload,
            tenant,
            model,
            SpanStatus(status),
            self._wall.unix(key.agent_id, arrived_ns),
            None if first_token_ns is None else first_token_ns - arrived_ns,
            preemptions,
            Work(amounts.phases, *work),
            amounts.running,
            self._devices(key.agent_id, amounts.groups),
            self._methods(amounts.methods),
        )

    def others(self, key: _Key, row: RequestRow) -> Others | None:
        """Those beside a request; None where nobody is."""
        ended = select(span.c.end_ns).where(key.of(span), span.c.parent == 0)
        ((end_ns,),) = rows(self._connection, ended.limit(1))
        hour_ns = end_ns - end_ns % NS_PER_HOUR
        whose = select(entity.c.entity_key).where(
            entity.c.agent_id == key.agent_id,
            func.coalesce(entity.c.workload, entity.c.owner).is_not_distinct_from(row.workload),
            entity.c.model.is_not_distinct_from(row.model),
        )
        open_ones = select(accrual.c.ring_key, accrual.c.number).where(
            accrual.c.agent_id == key.agent_id
        )
        terms = root_spans(
            span.c.kind == int(SpanKind.REQUEST),
            span.c.agent_id == key.agent_id,
            span.c.end_ns >= hour_ns,
            span.c.end_ns < hour_ns + NS_PER_HOUR,
            span.c.entity_key.in_(whose),
            span.c.status != int(SpanStatus.LOST),
            ~key.of(span),
            tuple_(span.c.ring_key, span.c.number).not_in(open_ones),
        )
        first = func.min(span.c.start_ns)
        known = [case((func.count(column) == func.count(), 1)) for column in _COUNTED]
        asked = select(func.count(), first, *known, *narrow_sums(*_COUNTED)).where(*terms)
        ((count, first_ns, *found),) = rows(self._connection, asked)
        if not count:
            return None
        # What some of them do not say has no mean.
        width = len(_COUNTED)
        sums = [_known(*each) for each in zip(found[:width], found[width:], strict=True)]
        spans = select(*(span.c[name] for name in _KEY)).where(*terms)

        def of(table: Any) -> Term:
            since_ns = first_ns - first_ns % NS_PER_HOUR
            near = and_(table.c.agent_id == key.agent_id, table.c.start_ns >= since_ns)
            return and_(near, tuple_(*(table.c[name] for name in _KEY)).in_(spans))

        return Others(count, Work(self._amounts(of).phases, *sums))

    def _amounts(self, of: Callable[[Any], Term]) -> _Amounts:
        """What the lines say of the spans that `of` chooses from a table of lines."""
        phases: dict[Phase, Quantity] = {}
        running = Quantity()
        groups: set[int] = set()
        methods: set[int] = set()
        posted = sources.lines(and_(of(charge), self._holds(charge, charge.c.start_ns)))
        still = sources.running(and_(of(accrual), self._holds(accrual, accrual.c.bucket_ns)))
        for source in (Source(posted, true()), Source(still, true(), is_open=True)):
            for row in rows(self._connection, query.quantities(source, _LINE)):
                agent_id, rate_key, group_key, method_key, phase, *sums = row
                self._rates.add((agent_id, rate_key))
                groups.add(group_key)
                methods.add(method_key)
                amount = summed(*sums)
                if source.is_open:
                    running += amount
                else:
                    phases[Phase(phase)] = phases.get(Phase(phase), Quantity()) + amount
        # What has no phase comes last.
        order = sorted(phases, key=lambda phase: (phase is Phase.NONE, phase))
        ordered = {phase: phases[phase] for phase in order}
        return _Amounts(ordered, running, frozenset(groups), frozenset(methods))

    def _holds(self, table: Any, instant_ns: ColumnElement[int]) -> Term:
        """SQL: has the row's agent its device in that hour?"""
        everywhen = replace(self._period, start_unix_ns=None, end_unix_ns=None)
        return everywhen.holds(table.c.agent_id, instant_ns)

    def _devices(self, agent_id: int, groups: frozenset[int]) -> tuple[str, ...]:
        members = select(device_group.c.device_keys).where(
            device_group.c.agent_id == agent_id, device_group.c.group_key.in_(groups)
        )
        keys = {
            int(each)
            for (joined,) in rows(self._connection, members)
            for each in joined.split(",")
            if each
        }
        names = select(device.c.device).where(
            device.c.agent_id == agent_id, device.c.device_key.in_(keys)
        )
        return tuple(name for (name,) in rows(self._connection, names.order_by(device.c.device)))

    def _methods(self, methods: frozenset[int]) -> tuple[str, ...]:
        asked = select(method.c.name).where(method.c.method_key.in_(methods))
        return tuple(name for (name,) in rows(self._connection, asked.order_by(method.c.name)))


def _known(is_known: object, total: Any) -> Any:
    return total if is_known else None


def _same_entity() -> Term:
    return and_(entity.c.agent_id == span.c.agent_id, entity.c.entity_key == span.c.entity_key)
