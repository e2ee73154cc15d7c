"""What two price tables say differently."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from apportion.cost.price_row import Rate
    from apportion.cost.rate import PriceTable

_FACTS: Final = {
    "per_hour": "units_per_hour",
    "currency": "currency",
    "covers": "covers",
    "basis": "basis",
    "to": "valid_to_ns",
    "billing": "billing",
    "committed_devices": "committed_devices",
    "mig": "mig_policy",
}
"""What a row says of a price; who says so, and as of when, is no difference."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The rows of one device, match and begin; None where a table has none. At least one has."""

    before: Rate | None
    after: Rate | None

    @property
    def rate(self) -> Rate | None:
        """The newer of them."""
        return self.after or self.before

    @property
    def change(self) -> str:
        """added, gone or changed."""
        if self.before is None:
            return "added"
        return "gone" if self.after is None else "changed"

    @property
    def facts(self) -> tuple[str, ...]:
        """The keys of a changed row that differ."""
        if self.before is None or self.after is None:
            return ()
        return tuple(
            key
            for key, name in _FACTS.items()
            if getattr(self.before, name) != getattr(self.after, name)
        )


def differences(before: PriceTable, after: PriceTable) -> list[Difference]:
    """Rows that are in one table only, or differ, by device, match and begin."""
    old, new = ({_place(rate): rate for rate in table.rates} for table in (before, after))
    pairs = [Difference(old.get(place), new.get(place)) for place in sorted({*old, *new})]
    return [pair for pair in pairs if pair.change != "changed" or pair.facts]


def _place(rate: Rate) -> tuple[str, tuple[tuple[str, str], ...], bool, int]:
    since_ns = rate.valid_from_ns
    return (rate.device_name, rate.match, since_ns is not None, since_ns or 0)
