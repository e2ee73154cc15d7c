"""The figures of a report that are grouped by who caused them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from apportion.core.category import Category, Phase
from apportion.core.units import NS_PER_SECOND
from apportion.cost import report_query as query
from apportion.cost import span_query
from apportion.cost.ledger.batch import ChargeKind
from apportion.cost.ledger.rows import rows
from apportion.cost.quantity import Quantity, plus
from apportion.cost.report_rows import CategoryRow, EntityRow, Key, PhaseRow

if TYPE_CHECKING:
    from sqlalchemy import Connection, Executable

    from apportion.cost.period import Period

TOKENS_PER_PRICE: Final = 1_000_000
_COLUMN_OF_KIND: Final = {
    ChargeKind.CHARGE: "posted",
    ChargeKind.REALLOCATION: "moved",
    ChargeKind.ADJUSTMENT: "adjusted",
}


class Figures:
    """What is grouped by who caused it: rows, phases, categories."""

    def __init__(self, connection: Connection, period: Period, by: tuple[str, ...]) -> None:
        self._width = len(by)

        def ask(statement: Executable) -> dict[Key, tuple[Any, ...]]:
            found = rows(connection, statement)
            return {row[: self._width]: row[self._width :] for row in found}

        self._requests = ask(span_query.requests(period, by))
        self._request_costs = ask(span_query.request_costs(period, by))
        self._steps = ask(span_query.steps(period, by, charged_only=False))
        self._charged_steps = ask(span_query.steps(period, by, charged_only=True))
        self._step_tokens = ask(span_query.step_tokens(period, by))
        self._step_costs = ask(span_query.step_costs(period, by))
        self._lines = rows(connection, query.cost_by(period, by))
        self.phases = self._phase_rows()
        self.categories = self._category_rows()
        self.rows = self._entity_rows()

    def _split(self, row: tuple[Any, ...]) -> tuple[Key, Category, Phase, ChargeKind, bool]:
        category, phase, kind, is_open = row[self._width : self._width + 4]
        key = row[: self._width]
        return key, Category(category), Phase(phase or 0), ChargeKind(kind), bool(is_open)

    def _quantity(self, row: tuple[Any, ...]) -> Quantity:
        return Quantity.of(*row[self._width + 4 : self._width + 9])

    def _phase_rows(self) -> tuple[PhaseRow, ...]:
        found: dict[tuple[Key, Phase], Quantity] = {}
        for row in self._lines:
            key, category, phase, _, _ = self._split(row)
            if category is Category.DIRECT:
                known = found.get((key, phase), Quantity())
                found[key, phase] = known + self._quantity(row)
        ordered = sorted(found.items(), key=lambda item: (_sortable(item[0][0]), item[0][1]))
        return tuple(PhaseRow(key, phase, total) for (key, phase), total in ordered)

    def _category_rows(self) -> tuple[CategoryRow, ...]:
        found: dict[Category, dict[str, Quantity]] = {}
        for row in self._lines:
            _, category, _, kind, is_open = self._split(row)
            name = "open" if is_open else _COLUMN_OF_KIND[kind]
            columns = found.setdefault(category, {})
            columns[name] = columns.get(name, Quantity()) + self._quantity(row)
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

    def _entity_rows(self) -> tuple[EntityRow, ...]:
        totals: dict[Key, Quantity] = {}
        direct: dict[Key, Quantity] = {}
        running: dict[Key, int | None] = {}
        incomplete: dict[Key, int | None] = {}
        for row in self._lines:
            key, category, _, _, is_open = self._split(row)
            amount = self._quantity(row)
            totals[key] = totals.get(key, Quantity()) + amount
            if category is Category.DIRECT:
                direct[key] = direct.get(key, Quantity()) + amount
            if is_open:
                running[key] = plus(running.get(key), amount.units)
            incomplete[key] = plus(incomplete.get(key), row[-1])
        keys = sorted({*totals, *self._requests, *self._steps}, key=_sortable)
        return tuple(
            self._entity_row(
                key,
                totals.get(key, Quantity()),
                direct.get(key, Quantity()),
                running.get(key),
                incomplete.get(key),
            )
            for key in keys
        )

    def _entity_row(
        self,
        key: Key,
        total: Quantity,
        direct: Quantity,
        open_units: int | None,
        incomplete_units: int | None,
    ) -> EntityRow:
        count, inputs, cached, outputs, *divisors = self._requests.get(key, (0, *[None] * 6))
        input_units, output_units, unpriced_ns = self._request_costs.get(key, (None, None, None))
        if unpriced_ns:
            input_units = output_units = None
        per_input, per_cached, per_output = divisors
        computed = None if per_input is None else per_input - (per_cached or 0)
        step_units, unpriced_ns = self._step_costs.get(key, (None, None))
        steps, duration_ns = self._steps.get(key, (0, None))
        tokens = self._step_tokens.get(key, (None,))[0]
        charged_steps = self._charged_steps.get(key, (0,))[0]
        return EntityRow(
            key,
            total,
            direct,
            open_units,
            incomplete_units,
            count,
            steps,
            inputs,
            cached,
            outputs,
            tokens,
            tokens * NS_PER_SECOND / duration_ns if tokens and duration_ns else None,
            _per_million(input_units, per_input),
            _per_million(input_units, computed),
            _per_million(output_units, per_output),
            None if unpriced_ns else _divided(step_units, charged_steps),
        )


def _divided(units: int | None, count: int | None) -> int | None:
    """Units per thing, rounded to the nearest unit; None without either."""
    if units is None or not count:
        return None
    return (2 * units + count) // (2 * count)


def _per_million(units: int | None, tokens: int | None) -> int | None:
    return None if units is None else _divided(units * TOKENS_PER_PRICE, tokens)


def _sortable(key: Key) -> tuple[tuple[bool, str], ...]:
    """Names in alphabetical order, nobody last."""
    return tuple((value is None, value or "") for value in key)
