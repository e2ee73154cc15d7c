"""What a report consists of, before any renderer shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from apportion.cost.quantity import Quantity

if TYPE_CHECKING:
    from collections.abc import Mapping

    from apportion.core.category import Category, Phase

Key = tuple[str | None, ...]
"""Values of the dimensions that a report is grouped by, in their order."""
OTHER: Final = "(other)"
"""In each place of the key of the row that adds up what a report does not show one by one."""


class EntityRow(NamedTuple):
    """One workload, tenant, model, ...: `key` has the values of the report's `by`.

    `total` includes `open_units`, which is not posted yet; `incomplete_units` of it belong to
    windows in which records were lost. Token counts are None where nobody reported any; they, and
    the numbers of requests and steps, also where `by` asks for what no span has one of. The last
    three, in units, are None where a part is unpriced, not posted to its end, or (input and
    output) where no request has a first token.
    """

    key: Key
    total: Quantity
    direct: Quantity
    open_units: int | None
    incomplete_units: int | None
    requests: int | None
    steps: int | None
    input_tokens: int | None
    cached_input_tokens: int | None
    output_tokens: int | None
    training_tokens: int | None
    training_tokens_per_second: float | None
    units_per_million_input_tokens: int | None
    units_per_million_computed_input_tokens: int | None
    units_per_million_output_tokens: int | None
    units_per_step: int | None


@dataclass(frozen=True, slots=True)
class PhaseRow:
    """Direct cost of one phase; `Phase.NONE` is the rest of the spans.

    `key` has the values of the report's `phases_by`.
    """

    key: Key
    phase: Phase
    total: Quantity


@dataclass(frozen=True, slots=True)
class CategoryRow:
    """Where the time of a period went. `moved` nets reallocations, `adjusted` new prices."""

    category: Category
    posted: Quantity
    open: Quantity
    moved: Quantity
    adjusted: Quantity

    @property
    def total(self) -> Quantity:
        """All of it."""
        return self.posted + self.open + self.moved + self.adjusted


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """One device: what its meter says, and where it went at first (moves are not in it)."""

    node: str
    device: str
    name: str
    simulated: bool
    settled_until_unix_ns: int | None
    energy_sources: tuple[str, ...]
    metered: Quantity
    parts: Mapping[Category, Quantity]

    @property
    def sum_of_parts(self) -> Quantity:
        """Equal to `metered`, or the ledger is wrong."""
        return sum(self.parts.values(), Quantity())


@dataclass(frozen=True, slots=True)
class RateRow:
    """A rate that the period was metered at."""

    device_name: str
    per_hour: str
    currency: str
    covers: str
    basis: str
    source: str
    as_of: str


@dataclass(frozen=True, slots=True)
class Proof:
    """Metered = posted + open, and what later lines changed."""

    metered: Quantity
    parts: Quantity
    posted: Quantity
    open: Quantity
    moved: Quantity
    adjusted: Quantity

    @property
    def holds(self) -> bool:
        """Do both sides of the book agree, in time, money and energy?"""
        return (
            self.metered.same_amounts(self.parts)
            and self.metered.same_amounts(self.posted + self.open)
            and self.moved.same_amounts(Quantity())
        )


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that the renderers show. `currency` is None where nothing has a price.

    `as_of_unix_ns`: what was posted later is left out; None: nothing is. `phases_by` is `by`
    without days and hours; where that asks for phases itself there are no rows of them.
    """

    ledger: str
    by: tuple[str, ...]
    phases_by: tuple[str, ...]
    as_of_unix_ns: int | None
    currency: str | None
    start_unix_ns: int | None
    end_unix_ns: int | None
    settled_until_unix_ns: int | None
    simulated: bool
    rows: tuple[EntityRow, ...]
    phases: tuple[PhaseRow, ...]
    categories: tuple[CategoryRow, ...]
    devices: tuple[DeviceRow, ...]
    rates: tuple[RateRow, ...]
    proof: Proof
    warnings: tuple[str, ...]
