"""What a report consists of, before any renderer shows it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple

from apportion.cost.price_row import ESTIMATE
from apportion.cost.quantity import Quantity

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

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
class LoadedCost:
    """Direct cost and a share of what its workload needs beside it, by the key of a row.

    `policy` is a word of `loaded_cost.Loading`. Rows without direct cost have none; what no row
    could take is `unshared_units`.
    """

    policy: str
    units: Mapping[Key, int]
    unshared_units: int


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
    """One device: what its meter says, and where it went at first (moves are not in it).

    `by_weights_mj` of its energy are from before its power at rest was known. `idle_power_mw` is
    what is known of that now, by state.
    """

    node: str
    device: str
    name: str
    simulated: bool
    settled_until_unix_ns: int | None
    energy_sources: tuple[str, ...]
    metered: Quantity
    repriced: Quantity
    """What new prices and rules of price rows made of it: money, and less time without any."""
    parts: Mapping[Category, Quantity]
    by_weights_mj: int
    idle_power_mw: Mapping[str, int]

    @property
    def sum_of_parts(self) -> Quantity:
        """Equal to `metered`, or the ledger is wrong."""
        return sum(self.parts.values(), Quantity())


def one_row_a_device(rows: Iterable[tuple[int, DeviceRow]]) -> tuple[DeviceRow, ...]:
    """Rows by agent: a device that was another agent's for a while has one for each spell."""
    found: dict[tuple[int, str], DeviceRow] = {}
    for agent_id, row in rows:
        place = (agent_id, row.device)
        found[place] = _together(found[place], row) if place in found else row
    return tuple(sorted(found.values(), key=lambda row: (row.node, row.device)))


def _together(one: DeviceRow, other: DeviceRow) -> DeviceRow:
    ends = [row.settled_until_unix_ns for row in (one, other)]
    return replace(
        other,
        settled_until_unix_ns=max((end for end in ends if end is not None), default=None),
        energy_sources=tuple(sorted({*one.energy_sources, *other.energy_sources})),
        metered=one.metered + other.metered,
        repriced=one.repriced + other.repriced,
        parts={
            category: one.parts.get(category, Quantity()) + other.parts.get(category, Quantity())
            for category in sorted({*one.parts, *other.parts})
        },
        by_weights_mj=one.by_weights_mj + other.by_weights_mj,
        idle_power_mw={**one.idle_power_mw, **other.idle_power_mw},
    )


@dataclass(frozen=True, slots=True)
class RateRow:
    """A rate that time of the period costs, or did until it was re-priced."""

    device_name: str
    per_hour: str
    currency: str
    covers: str
    basis: str
    source: str
    as_of: str


@dataclass(frozen=True, slots=True)
class Proof:
    """Metered = posted + open, and what later lines changed; repriced = adjusted."""

    metered: Quantity
    parts: Quantity
    posted: Quantity
    open: Quantity
    moved: Quantity
    adjusted: Quantity
    repriced: Quantity

    @property
    def holds(self) -> bool:
        """Do both sides of the book agree, in time, money and energy?"""
        return (
            self.metered.same_amounts(self.parts)
            and self.metered.same_amounts(self.posted + self.open)
            and self.moved.same_amounts(Quantity())
            and self.adjusted.same_amounts(self.repriced)
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
    loaded: LoadedCost | None
    phases: tuple[PhaseRow, ...]
    categories: tuple[CategoryRow, ...]
    devices: tuple[DeviceRow, ...]
    rates: tuple[RateRow, ...]
    replaced_rates: tuple[RateRow, ...]
    proof: Proof
    warnings: tuple[str, ...]

    @property
    def price_bases(self) -> tuple[str, ...]:
        """The bases of all prices in it, such as contract; what is an estimate rests on one."""
        return tuple(sorted({row.basis for row in self.rates}))

    @property
    def estimates(self) -> tuple[RateRow, ...]:
        """Its prices that are estimates: its amounts are as good as these."""
        return tuple(row for row in self.rates if row.basis == ESTIMATE)
