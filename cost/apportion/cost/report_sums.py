"""Everything that a report adds up about one key, and the row that it becomes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from apportion.core.units import NS_PER_SECOND
from apportion.cost.quantity import Quantity, plus
from apportion.cost.report_dimensions import Entity
from apportion.cost.report_rows import EntityRow
from apportion.cost.rollups.spans import SpanSums
from apportion.cost.rollups.steps import Range, size

if TYPE_CHECKING:
    from collections.abc import Iterable

    from apportion.cost.report_rows import Key

TOKENS_PER_PRICE: Final = 1_000_000


class _Steps(NamedTuple):
    """Numbers of one attempt's steps: ranks, hours and agents that saw the same add nothing."""

    all: list[Range]
    charged: list[Range]


_NOTHING: Final = Quantity()
_NO_SPANS: Final = SpanSums()


@dataclass(slots=True)
class KeySums:
    """Sums so far; the fields are those of `EntityRow` where they have its names."""

    total: Quantity = _NOTHING
    direct: Quantity = _NOTHING
    open_units: int | None = None
    incomplete_units: int | None = None
    requests: SpanSums = _NO_SPANS
    steps: SpanSums = _NO_SPANS
    numbers: dict[Entity, _Steps] | None = None

    def add(self, amount: Quantity, *, direct: bool) -> None:
        """Cost of the key."""
        self.total = amount if self.total is _NOTHING else self.total + amount
        if direct:
            self.direct = amount if self.direct is _NOTHING else self.direct + amount

    def add_requests(self, found: SpanSums) -> None:
        """Requests of the key."""
        self.requests = found if self.requests is _NO_SPANS else self.requests.plus(found)

    def add_steps(self, found: SpanSums) -> None:
        """Steps of the key, each rank's span of one for itself."""
        self.steps = found if self.steps is _NO_SPANS else self.steps.plus(found)

    def add_numbers(
        self, attempt: Entity, all_steps: Iterable[Range], charged: Iterable[Range]
    ) -> None:
        """Numbers of an attempt's steps, and of those whose cost is posted to the end."""
        if self.numbers is None:
            self.numbers = {}
        known = self.numbers.setdefault(attempt, _Steps([], []))
        known.all.extend(all_steps)
        known.charged.extend(charged)

    def take(self, other: KeySums) -> None:
        """Add everything about another key."""
        self.add(other.total, direct=False)
        self.direct = self.direct + other.direct
        self.open_units = plus(self.open_units, other.open_units)
        self.incomplete_units = plus(self.incomplete_units, other.incomplete_units)
        self.add_requests(other.requests)
        self.add_steps(other.steps)
        for attempt, steps in (other.numbers or {}).items():
            self.add_numbers(attempt, *steps)

    def row(self, key: Key, *, counts: bool) -> EntityRow:
        """The row; without `counts` what is counted by span is unknown."""
        requests, steps = self.requests, self.steps
        all_steps, charged_steps = self._numbers_of_steps() if steps.spans else (0, 0)
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
            _tokens_per_second(steps, all_steps) if all_steps else None,
            *(_NO_PRICES if requests.unpriced_ns else _prices(requests)),
            None if steps.unpriced_ns else _divided(steps.units, charged_steps),
        )

    def _numbers_of_steps(self) -> tuple[int, int]:
        """How many steps there are, and how many of them are charged."""
        known = (self.numbers or {}).values()
        return (
            self.steps.unnumbered + sum(size(numbers.all) for numbers in known),
            self.steps.unnumbered_charged + sum(size(numbers.charged) for numbers in known),
        )


_NO_PRICES: Final = (None, None, None)


def _prices(sums: SpanSums) -> tuple[int | None, int | None, int | None]:
    """Units per million input, computed input and output tokens."""
    tokens, cached = sums.divided_input_tokens, sums.divided_cached_input_tokens
    if tokens is None:
        return (None, None, _per_million(sums.units, sums.divided_output_tokens))
    return (
        _per_million(sums.input_units, tokens),
        _per_million(sums.input_units, tokens - (cached or 0)),
        _per_million(sums.units, sums.divided_output_tokens),
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
    if units is None or not tokens:
        return None
    return (2 * units * TOKENS_PER_PRICE + tokens) // (2 * tokens)
