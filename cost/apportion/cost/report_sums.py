"""Everything that a report adds up about one key, and the row that it becomes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from apportion.core.units import NS_PER_SECOND
from apportion.cost.quantity import Quantity, plus
from apportion.cost.report_rows import EntityRow
from apportion.cost.rollups.spans import SpanSums
from apportion.cost.rollups.steps import Range, size

if TYPE_CHECKING:
    from apportion.cost.report_dimensions import Entity
    from apportion.cost.report_rows import Key

TOKENS_PER_PRICE: Final = 1_000_000
_NOTHING: Final = Quantity()
_NO_SPANS: Final = SpanSums()


class _Steps(NamedTuple):
    """Numbers of one attempt's steps: ranks, hours and agents that saw the same add nothing."""

    all: list[Range]
    charged: list[Range]


@dataclass(slots=True)
class KeySums:
    """Sums so far; the fields are those of `EntityRow` where they have its names."""

    total: Quantity = _NOTHING
    direct: Quantity = _NOTHING
    open_units: int | None = None
    incomplete_units: int | None = None
    requests: SpanSums = _NO_SPANS
    steps: SpanSums = _NO_SPANS
    _numbers: dict[Entity, _Steps] = field(default_factory=dict["Entity", _Steps])

    def add_steps(self, attempt: Entity, numbers: Range, *, charged: bool) -> None:
        """Steps of an attempt. `charged`: their cost is posted to the end."""
        known = self._numbers.setdefault(attempt, _Steps([], []))
        known.all.append(numbers)
        if charged:
            known.charged.append(numbers)

    def take(self, other: KeySums) -> None:
        """Add everything about another key."""
        self.total += other.total
        self.direct += other.direct
        self.open_units = plus(self.open_units, other.open_units)
        self.incomplete_units = plus(self.incomplete_units, other.incomplete_units)
        self.requests = self.requests.plus(other.requests)
        self.steps = self.steps.plus(other.steps)
        for attempt, steps in other._numbers.items():
            known = self._numbers.setdefault(attempt, _Steps([], []))
            known.all.extend(steps.all)
            known.charged.extend(steps.charged)

    def row(self, key: Key, *, counts: bool) -> EntityRow:
        """The row; without `counts` what is counted by span is unknown."""
        requests, steps = self.requests, self.steps
        numbers = self._numbers.values()
        all_steps = steps.unnumbered + sum(size(found.all) for found in numbers)
        charged_steps = steps.unnumbered_charged + sum(size(found.charged) for found in numbers)
        per_input, per_cached = requests.divided_input_tokens, requests.divided_cached_input_tokens
        computed = None if per_input is None else per_input - (per_cached or 0)
        input_units, output_units = requests.input_units, requests.units
        if requests.unpriced_ns:
            input_units = output_units = None
        return EntityRow(
            key,
            self.total,
            self.direct,
            self.open_units,
            self.incomplete_units,
            requests.spans if counts else None,
            all_steps if counts else None,
            requests.input_tokens,
            requests.cached_input_tokens,
            requests.output_tokens,
            steps.tokens,
            _tokens_per_second(steps, all_steps),
            _per_million(input_units, per_input),
            _per_million(input_units, computed),
            _per_million(output_units, requests.divided_output_tokens),
            None if steps.unpriced_ns else _divided(steps.units, charged_steps),
        )


def _tokens_per_second(sums: SpanSums, steps: int) -> float | None:
    """Over all ranks, in the mean time that a rank takes for a step."""
    if not sums.tokens or not sums.duration_ns:
        return None
    return sums.tokens * sums.spans * NS_PER_SECOND / (sums.duration_ns * steps)


def _divided(units: int | None, count: int | None) -> int | None:
    """Units per thing, rounded to the nearest unit; None without either."""
    if units is None or not count:
        return None
    return (2 * units + count) // (2 * count)


def _per_million(units: int | None, tokens: int | None) -> int | None:
    return None if units is None else _divided(units * TOKENS_PER_PRICE, tokens)
