"""What a stack weighs: a name, the unit of its whole numbers, and how a person reads them."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from apportion.core.errors import ProfileTraceError
from apportion.core.units import MJ_PER_JOULE, NS_PER_SECOND, money

SAMPLES: Final = "samples"
NANOSECONDS: Final = "nanoseconds"
MILLIJOULES: Final = "millijoules"
MONEY: Final = "money"
UNITS: Final = (SAMPLES, NANOSECONDS, MILLIJOULES, MONEY)
LARGEST: Final = (1 << 63) - 1
"""What all of a profile may weigh together."""
COST: Final = "cost"
"""The name of money among weights, as pprof knows it; people ask for `MONEY`."""
_TIMES: Final = ((NS_PER_SECOND, "s"), (1_000_000, "ms"), (1_000, "us"))
_DIGITS: Final = 4


@dataclass(frozen=True, slots=True)
class Weight:
    """One weight of stacks. currency: of money, whose whole numbers are 10^-12 of it."""

    name: str
    unit: str
    currency: str | None = None

    @property
    def asked_as(self) -> str:
        """What people call it, and `--weight` with them."""
        return MONEY if self.name == COST else self.name

    def text(self, value: int) -> str:
        """`value` as a person reads it; money to the last unit."""
        if self.unit == MONEY:
            return f"{money(value):,.12f} {self.currency}"
        if self.unit == MILLIJOULES:
            return f"{Decimal(value) / MJ_PER_JOULE:,} J"
        if self.unit == NANOSECONDS:
            for size, symbol in _TIMES:
                if abs(value) >= size:
                    return f"{_rounded(Decimal(value) / size)} {symbol}"
            return f"{value} ns"
        return f"{value:,} {self.unit}"

    def short(self, value: int) -> str:
        """`value` in a heading: money to four digits that count."""
        if self.unit == MONEY:
            return f"{_rounded(money(value))} {self.currency}"
        return self.text(value)


def too_much(weight: Weight) -> ProfileTraceError:
    """Why a profile is refused whose sum is beyond `LARGEST`."""
    message = f"has {weight.name} of more than 2^63 in all: choose a shorter interval"
    return ProfileTraceError(message)


def _rounded(value: Decimal) -> str:
    """Four digits that count, and every one before the point."""
    decimals = max(0, _DIGITS - 1 - value.adjusted()) if value else 0
    return f"{value:,.{decimals}f}"


TIME: Final = Weight("time", NANOSECONDS)
ENERGY: Final = Weight("energy", MILLIJOULES)
COUNT: Final = Weight("samples", SAMPLES)


def cost(currency: str) -> Weight:
    """Money of a currency."""
    return Weight(COST, MONEY, currency)
