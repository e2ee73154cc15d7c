"""The figures of a report that are grouped by who caused them."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

from apportion.core.category import Category, Phase, SpanKind
from apportion.cost import report_query as query
from apportion.cost.ledger.batch import ChargeKind
from apportion.cost.ledger.rows import many_rows, rows
from apportion.cost.loaded_cost import POOLED, Loaded, WorkloadCost, loaded_cost
from apportion.cost.quantity import Lacks, Quantity, plus, summed
from apportion.cost.report_dimensions import OF_TIME, Dimensions
from apportion.cost.report_rows import OTHER, CategoryRow, PhaseRow
from apportion.cost.report_sums import KeySums
from apportion.cost.rollups.sources import GRAINS
from apportion.cost.rollups.spans import SpanSums

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Connection

    from apportion.cost.loaded_cost import Loading
    from apportion.cost.report_dimensions import Names
    from apportion.cost.report_rows import EntityRow, Key
    from apportion.cost.report_scope import Scope

_COLUMN_OF_KIND: Final = {
    ChargeKind.CHARGE: "posted",
    ChargeKind.REALLOCATION: "moved",
    ChargeKind.ADJUSTMENT: "adjusted",
}
_AFTER_ALL: Final = chr(0x10FFFF)
"""Where nobody stands among the names."""


class Figures:
    """What is grouped by who caused it: rows, phases, categories."""

    def __init__(
        self,
        connection: Connection,
        scope: Scope,
        by: Sequence[str],
        names: Names,
        *,
        top: int | None = None,
    ) -> None:
        """`top`: so many rows, those that cost most; the others are added up in a last one.

        Raises:
            LedgerError: there is no such dimension in `by`.
        """
        self._connection, self._scope, self._names = connection, scope, names
        self._by = Dimensions(by, names)
        self._found: defaultdict[tuple[Any, ...], KeySums] = defaultdict(KeySums)
        """By the values of `Dimensions.columns`; names are looked up once for each, at the end."""
        self._read_cost()
        self.uncharged_spans = self._read_spans()
        self._sums = self._named()
        self._kept, self._others = _ranked(
            {key: known.total for key, known in self._sums.items()}, top
        )
        self.rows = self._entity_rows()
        phases = self._by.timeless("category")
        self.phases_by = phases.by
        self.phases = () if "phase" in by else self._phase_rows(phases, top)
        self.categories = self._category_rows()

    def _named(self) -> dict[Key, KeySums]:
        named: dict[Key, KeySums] = {}
        for place, found in self._found.items():
            known = named.setdefault(self._by.key(place), found)
            if known is not found:
                known.take(found)
        return named

    def _read_cost(self) -> None:
        by, found = self._by, self._found
        width, direct, incomplete = len(by.columns), int(Category.DIRECT), int(Lacks.RECORDS)
        for source in self._scope.cost(by.grains):
            statement = query.quantities(source, (*by.columns, "category"))
            for row in many_rows(self._connection, statement):
                lacks = row[width + 1]
                amount = summed(*row[width + 1 :])
                known = found[row[:width]]
                known.add(amount, direct=row[width] == direct)
                if source.is_open:
                    known.open_units = plus(known.open_units, amount.units)
                if lacks & incomplete:
                    known.incomplete_units = plus(known.incomplete_units, amount.units)

    def _read_spans(self) -> int:
        """Returns how many spans have no line although their time is settled."""
        counts = self._by.of_spans
        by = self._by if counts else Dimensions((), self._names)
        width, uncharged = len(by.columns), 0
        request, step = int(SpanKind.REQUEST), int(SpanKind.STEP)
        for source in self._scope.spans(by.grains):
            for row in many_rows(self._connection, query.span_figures(source, by.columns)):
                kind, found = row[width], SpanSums.of(row[width + 1 :])
                uncharged += found.uncharged
                if not counts or not found.spans:
                    continue
                if kind == request:
                    self._found[row[:width]].add_requests(found)
                elif kind == step:
                    self._found[row[:width]].add_steps(found)
        if counts:
            self._read_steps()
        return uncharged

    def _read_steps(self) -> None:
        by, scope = self._by, self._scope
        columns = tuple(dict.fromkeys((*by.columns, "entity_key")))
        statements = [
            *(query.rolled_steps(source, columns) for source in scope.steps(by.grains)),
            *(query.live_steps(row, columns) for row in scope.live_spans),
        ]
        place = columns.index("entity_key")
        for statement in statements:
            for row in rows(self._connection, statement):
                charged, first, last = row[len(columns) :]
                entity = self._names.entity(row[0], row[place])
                # Whoever the steps are of within an attempt, they are the attempt's.
                attempt = entity._replace(tenant=None, model=None)
                known = self._found[row[: len(by.columns)]]
                numbers = [(first, last)]
                known.add_numbers(attempt, numbers, numbers if charged else [])

    def _entity_rows(self) -> tuple[EntityRow, ...]:
        sums, counts = self._sums, self._by.of_spans
        found = [sums[key].row(key, counts=counts) for key in self._kept]
        if self._others:
            rest = KeySums()
            for key in self._others:
                rest.take(sums[key])
            found.append(rest.row(_other(self._by), counts=counts))
        return tuple(found)

    def loaded(self, loading: Loading) -> Loaded:
        """Loaded cost of the rows: by day or hour, each workload has a pool for each of them."""
        names = tuple(dict.fromkeys(("workload", *self._by.by)))
        by = Dimensions(names, self._names)
        pools = [at for at, name in enumerate(names) if name == "workload" or name in OF_TIME]
        places = [names.index(name) for name in self._by.by]
        width = len(by.columns)
        wanted = [int(category) for category in (Category.DIRECT, *sorted(POOLED))]
        costs: list[WorkloadCost] = []
        for source in self._scope.cost(by.grains):
            statement = query.quantities(
                source, (*by.columns, "category"), source.row.c.category.in_(wanted)
            )
            for row in rows(self._connection, statement):
                named, units = by.key(row), summed(*row[width + 1 :]).units
                pool, key = (tuple(named[at] for at in some) for some in (pools, places))
                costs.append(WorkloadCost(pool, key, Category(row[width]), units))
        found = loaded_cost(costs, loading)
        shown = {key: found.units[key] for key in self._kept if key in found.units}
        rest = [found.units[key] for key in self._others if key in found.units]
        if rest:
            shown[_other(self._by)] = sum(rest)
        return Loaded(shown, found.unshared)

    def _phase_rows(self, by: Dimensions, top: int | None) -> tuple[PhaseRow, ...]:
        found: dict[Key, dict[Phase, Quantity]] = {}
        width = len(by.columns)
        for source in self._scope.cost(by.grains):
            is_direct = source.row.c.category == int(Category.DIRECT)
            statement = query.quantities(source, (*by.columns, "phase"), is_direct)
            for row in rows(self._connection, statement):
                phases, phase = found.setdefault(by.key(row), {}), Phase(row[width])
                amount = summed(*row[width + 1 :])
                phases[phase] = phases.get(phase, Quantity()) + amount
        totals = {key: sum(phases.values(), Quantity()) for key, phases in found.items()}
        kept, others = _ranked(totals, top)
        rest: dict[Phase, Quantity] = {}
        for key in others:
            for phase, amount in found[key].items():
                rest[phase] = rest.get(phase, Quantity()) + amount
        return tuple(
            PhaseRow(key, phase, total)
            for key, phases in [*((key, found[key]) for key in kept), (_other(by), rest)]
            for phase, total in sorted(phases.items())
        )

    def _category_rows(self) -> tuple[CategoryRow, ...]:
        found: dict[Category, dict[str, Quantity]] = {}
        for source in self._scope.cost(GRAINS):
            for row in rows(self._connection, query.quantities(source, ("category", "kind"))):
                category, kind, *sums = row
                name = "open" if source.is_open else _COLUMN_OF_KIND[ChargeKind(kind)]
                columns = found.setdefault(Category(category), {})
                columns[name] = columns.get(name, Quantity()) + summed(*sums)
        return tuple(
            CategoryRow(
                category,
                *(
                    columns.get(name, Quantity())
                    for name in ("posted", "open", "moved", "adjusted")
                ),
            )
            for category, columns in sorted(found.items())
        )


def _ranked(totals: Mapping[Key, Quantity], top: int | None) -> tuple[list[Key], list[Key]]:
    """Keys in the order of a report, and those that it adds up in a row for all others.

    By name, nobody last; where only some are asked for, by what they cost.
    """
    order = sorted(totals, key=_by_name)
    if top is None:
        return order, []
    order.sort(key=lambda key: (-(totals[key].units or 0), -totals[key].device_ns))
    return order[:top], order[top:]


def _by_name(key: Key) -> Key:
    if None not in key:
        return key
    return tuple([_AFTER_ALL if name is None else name for name in key])


def _other(by: Dimensions) -> Key:
    return (OTHER,) * len(by.by)
