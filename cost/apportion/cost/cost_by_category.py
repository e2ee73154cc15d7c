"""What was spent for whom, by category: what a flame graph in money has to add up to.

Of workloads and tenants it is what a report says, over whole hours. Of single steps or requests it
is what the ledger's lines of their spans say, running sums of unposted ones included; time without
a span (between steps, idle) is no step's and no request's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import and_, false, func, or_, select, true, tuple_

from apportion.core.category import Category, Phase, SpanKind
from apportion.core.errors import LedgerError
from apportion.cost import report_query as query
from apportion.cost.disowned import Disowned
from apportion.cost.ledger.rows import rows
from apportion.cost.ledger.schema import accrual, charge, device, entity, rate, span
from apportion.cost.period import Period, WallTime
from apportion.cost.price_row import ESTIMATE
from apportion.cost.quantity import Quantity, summed
from apportion.cost.report import report
from apportion.cost.report_scope import Source
from apportion.cost.rollups import sources

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection

    from apportion.cost.ledger.reader import LedgerReader

_ENTITY: Final = ("workload", "run", "tenant", "model")
_SPAN: Final = ("ring_key", "number")


@dataclass(frozen=True, slots=True)
class CostFilter:
    """Whose cost is asked for; None is anybody's.

    steps: ranges of numbers, both ends included. request: an id. start_unix_ns, end_unix_ns:
    widened to whole hours, as in reports.
    """

    workload: str | None = None
    run: str | None = None
    tenant: str | None = None
    model: str | None = None
    phase: Phase | None = None
    steps: Sequence[tuple[int, int]] | None = None
    request: str | None = None
    start_unix_ns: int | None = None
    end_unix_ns: int | None = None

    @property
    def is_of_spans(self) -> bool:
        """Whether single spans are asked for."""
        return self.steps is not None or self.request is not None


@dataclass(frozen=True, slots=True)
class CostByCategory:
    """The amounts, those of nothing left out. currency: None where nothing has a price.

    estimated: it rests on a price that nobody chose. simulated: some device of the ledger is.
    """

    amounts: Mapping[Category, Quantity]
    currency: str | None
    estimated: bool
    simulated: bool

    @property
    def total(self) -> Quantity:
        """All of it."""
        return sum(self.amounts.values(), Quantity())

    @classmethod
    def of(cls, ledger: LedgerReader, chosen: CostFilter) -> CostByCategory:
        """What `ledger` says of what is `chosen`.

        Raises:
            LedgerError: several currencies, or the ledger cannot be read.
        """
        if chosen.is_of_spans:
            return _of_spans(ledger, chosen).get(0, NOTHING_SPENT)
        parts = _by_workload(ledger, chosen).values()
        return sum(parts, NOTHING_SPENT)

    @classmethod
    def by_workload(
        cls, ledger: LedgerReader, chosen: CostFilter
    ) -> dict[str | None, CostByCategory]:
        """The same for each workload apart; None is nobody. Not of single spans.

        Raises:
            LedgerError: as `of`.
        """
        return _by_workload(ledger, chosen)

    @classmethod
    def by_step(cls, ledger: LedgerReader, chosen: CostFilter) -> dict[int, CostByCategory]:
        """What each of the steps that are `chosen` cost, by number: all ranks and attempts.

        Together they are `of` the same.

        Raises:
            LedgerError: as `of`.
        """
        return _of_spans(ledger, chosen, by_step=True)

    def __add__(self, other: CostByCategory) -> CostByCategory:
        """Both; their currency is the same, or one has none."""
        amounts = {
            category: self.amounts.get(category, Quantity())
            + other.amounts.get(category, Quantity())
            for category in {**self.amounts, **other.amounts}
        }
        return CostByCategory(
            _filled(amounts),
            self.currency or other.currency,
            self.estimated or other.estimated,
            self.simulated or other.simulated,
        )


NOTHING_SPENT: Final = CostByCategory({}, None, estimated=False, simulated=False)


def _by_workload(ledger: LedgerReader, chosen: CostFilter) -> dict[str | None, CostByCategory]:
    by = (*_ENTITY, *(() if chosen.phase is None else ("phase",)), "category")
    found = report(ledger, chosen.start_unix_ns, chosen.end_unix_ns, by)
    wanted = {name: getattr(chosen, name) for name in _ENTITY}
    if chosen.phase is not None:
        wanted["phase"] = chosen.phase.label or None
    named = {category.label: category for category in Category}
    amounts: dict[str | None, dict[Category, Quantity]] = {}
    for row in found.rows:
        key = dict(zip(by, row.key, strict=True))
        if all(value is None or key[name] == value for name, value in wanted.items()):
            own = amounts.setdefault(key["workload"], {})
            category = named[str(key["category"])]
            own[category] = own.get(category, Quantity()) + row.total
    return {
        workload: CostByCategory(
            _filled(own), found.currency, bool(found.estimates), found.simulated
        )
        for workload, own in amounts.items()
    }


def _of_spans(
    ledger: LedgerReader, chosen: CostFilter, *, by_step: bool = False
) -> dict[int, CostByCategory]:
    """What the lines of the chosen spans say, by step; else all under 0."""
    also = _SPAN if by_step else ()
    names = ("agent_id", "rate_key", "category", *also)
    amounts: dict[int, dict[Category, Quantity]] = {}
    priced: set[tuple[int, int]] = set()
    with ledger.read() as connection:
        steps = _step_of_spans(connection, chosen) if by_step else {}
        for source in _sources(connection, chosen, also):
            terms: list[ColumnElement[bool]] = []
            if chosen.phase is not None:
                terms.append(source.row.c.phase == int(chosen.phase))
            for row in rows(connection, query.quantities(source, names, *terms)):
                agent_id, rate_key, category, *number = row[: len(names)]
                priced.add((agent_id, rate_key))
                own = amounts.setdefault(steps.get((agent_id, *number), 0), {})
                known = own.get(Category(category), Quantity())
                own[Category(category)] = known + summed(*row[len(names) :])
        currency, estimated = prices_of(connection, ledger.name, priced)
        simulated = bool(connection.execute(select(func.max(device.c.simulated))).scalar())
    return {
        step: CostByCategory(_filled(own), currency, estimated, simulated)
        for step, own in amounts.items()
    }


def _step_of_spans(connection: Connection, chosen: CostFilter) -> dict[tuple[int, ...], int]:
    keys = (span.c.agent_id, span.c.ring_key, span.c.number)
    found = rows(connection, select(*keys, span.c.step).where(*_span_terms(chosen)))
    return {(agent_id, ring_key, number): step for agent_id, ring_key, number, step in found}


def _sources(connection: Connection, chosen: CostFilter, also: Sequence[str]) -> list[Source]:
    wall = WallTime.load(connection)
    disowned = Disowned.load(connection)
    period = Period.around(chosen.start_unix_ns, chosen.end_unix_ns, wall, disowned)
    places = [
        and_(
            _of_chosen_spans(table, chosen),
            _of_entities(table, chosen),
            period.holds(table.c.agent_id, instant_ns),
        )
        for table, instant_ns in ((charge, charge.c.start_ns), (accrual, accrual.c.bucket_ns))
    ]
    found = [Source(sources.lines(places[0], also=also), true())]
    if chosen.phase is None:
        running = sources.running(places[1], also=also)
        found.append(Source(running, true(), is_open=True))
    return found


def _filled(amounts: Mapping[Category, Quantity]) -> dict[Category, Quantity]:
    return {
        category: amounts[category]
        for category in sorted(amounts)
        if not amounts[category].same_amounts(Quantity())
    }


def _of_chosen_spans(table: Any, chosen: CostFilter) -> ColumnElement[bool]:
    keys = select(span.c.agent_id, span.c.ring_key, span.c.number).where(*_span_terms(chosen))
    return tuple_(table.c.agent_id, table.c.ring_key, table.c.number).in_(keys)


def _span_terms(chosen: CostFilter) -> list[ColumnElement[bool]]:
    terms: list[ColumnElement[bool]] = []
    if chosen.steps is not None:
        terms.append(span.c.kind == int(SpanKind.STEP))
        terms.append(or_(false(), *(span.c.step.between(*ends) for ends in chosen.steps)))
    if chosen.request is not None:
        terms.append(span.c.request_id == chosen.request)
    return terms


def _of_entities(table: Any, chosen: CostFilter) -> ColumnElement[bool]:
    wanted = {name: getattr(chosen, name) for name in _ENTITY if getattr(chosen, name) is not None}
    if not wanted:
        return true()
    # as in reports, an unknown process goes under its owner's name
    of: dict[str, ColumnElement[Any]] = {name: entity.c[name] for name in _ENTITY}
    of["workload"] = func.coalesce(entity.c.workload, entity.c.owner)
    terms = (of[name] == value for name, value in wanted.items())
    keys = select(entity.c.agent_id, entity.c.entity_key).where(*terms)
    return tuple_(table.c.agent_id, table.c.entity_key).in_(keys)


def prices_of(
    connection: Connection, ledger: str, priced: set[tuple[int, int]]
) -> tuple[str | None, bool]:
    """The currency of rates (agents and keys), and whether one is an estimate.

    Raises:
        LedgerError: they have several.
    """
    used = select(rate.c.agent_id, rate.c.rate_key, rate.c.currency, rate.c.basis)
    found = [row for row in rows(connection, used) if (row[0], row[1]) in priced]
    currencies = sorted({row[2] for row in found})
    if len(currencies) > 1:
        message = f"ledger {ledger} has prices in {', '.join(currencies)}, which cannot be added"
        raise LedgerError(message)
    return (currencies[0] if currencies else None), any(row[3] == ESTIMATE for row in found)
