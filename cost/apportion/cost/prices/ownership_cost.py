"""What hardware of one's own costs per device-hour: an annuity, power, space and people.

The terms are those of the usual total-cost model: capital recovery over the life less the salvage
value's sinking fund, electricity at the wall (times PUE), colocation by power, and staff. Planned
utilisation divides nothing: hours that nobody uses are a cost of their own (`unallocated`,
`allocated_idle`), and dividing the rate by it would count them twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, localcontext
from typing import Final

HOURS_PER_YEAR: Final = Decimal(8_760)
HOURS_PER_MONTH: Final = Decimal(730)
MOST_YEARS: Final = 100
_PLACES: Final = Decimal("0.000000000001")
_DIGITS: Final = 60


@dataclass(frozen=True, slots=True)
class OwnedHardware:
    """One node with `devices` devices. Money in one currency, rates as ratios (0.08 is 8 %).

    `power_w` is what the whole node draws on average; `colocation_per_kw_month` is paid for that
    power, `staff_per_year` is the node's part of people and maintenance.
    """

    devices: int
    capital_cost: Decimal
    life_years: Decimal
    salvage: Decimal = Decimal(0)
    cost_of_capital_ratio: Decimal = Decimal(0)
    power_w: Decimal = Decimal(0)
    pue: Decimal = Decimal(1)
    power_price_per_kwh: Decimal = Decimal(0)
    colocation_per_kw_month: Decimal = Decimal(0)
    staff_per_year: Decimal = Decimal(0)

    def __post_init__(self) -> None:
        """Refuse what no hardware can be.

        Raises:
            ValueError: names the value.
        """
        if self.devices < 1:
            raise ValueError("devices must be 1 or more")
        if not 0 < self.life_years <= MOST_YEARS:
            raise ValueError(f"the life must be longer than 0 years, and at most {MOST_YEARS}")
        if self.cost_of_capital_ratio > 1:
            raise ValueError("the cost of capital is a ratio a year: 0.08 is 8 %")
        if self.pue < 1:
            raise ValueError("PUE is total power over IT power: 1 or more")
        if self.salvage > self.capital_cost:
            raise ValueError("the salvage value is above the capital cost")

    def terms(self) -> dict[str, Decimal]:
        """Money per device-hour by term, each to twelve decimals; the rate is their sum."""
        with localcontext() as context:
            context.prec = _DIGITS
            kilowatts = self.power_w / 1000
            per_year = {
                "capital": self.capital_cost * self._recovery(),
                "salvage": -self.salvage * self._sinking_fund(),
                "staff": self.staff_per_year,
            }
            per_hour = {name: amount / HOURS_PER_YEAR for name, amount in per_year.items()}
            per_hour["power"] = kilowatts * self.pue * self.power_price_per_kwh
            per_hour["colocation"] = kilowatts * self.colocation_per_kw_month / HOURS_PER_MONTH
            return {
                name: (amount / self.devices).quantize(_PLACES) for name, amount in per_hour.items()
            }

    def per_device_hour(self) -> Decimal:
        """The rate."""
        return sum(self.terms().values(), Decimal(0))

    def _recovery(self) -> Decimal:
        """The capital recovery factor, r (1 + r)^n / ((1 + r)^n - 1); 1 / n without interest."""
        ratio = self.cost_of_capital_ratio
        return self._sinking_fund() + ratio

    def _sinking_fund(self) -> Decimal:
        """What is put aside each year to have 1 at the end: r / ((1 + r)^n - 1)."""
        ratio = self.cost_of_capital_ratio
        if ratio == 0:
            return 1 / self.life_years
        return ratio / ((1 + ratio) ** self.life_years - 1)
