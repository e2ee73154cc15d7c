"""Device time, money and energy together, and how much of the time has no price or no source."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag

from apportion.cost.sums import HALF_BITS


class Lacks(IntFlag):
    """What a line of the ledger does not have. The numbers are stored in rollups."""

    ENERGY = 1
    """No energy source."""
    RECORDS = 2
    """Records were lost in its time: what it says of spans is incomplete."""
    IDLE_POWER = 4
    """Its energy was shared before the device's power at rest was known."""


@dataclass(slots=True, unsafe_hash=True)
class Quantity:
    """Sums over some lines of a ledger. Nobody changes one.

    It is not frozen because a large report makes ten thousands, each in a fifth of the time.

    `units` (10^-12 of the currency) and `energy_mj` are None where no line has any.
    `unpriced_ns` and `unmetered_ns` are the device time that they leave out.
    """

    device_ns: int = 0
    units: int | None = None
    energy_mj: int | None = None
    unpriced_ns: int = 0
    unmetered_ns: int = 0

    @classmethod
    def of(
        cls,
        device_ns: int | None,
        units: int | None,
        energy_mj: int | None,
        unpriced_ns: int | None,
        unmetered_ns: int | None,
    ) -> Quantity:
        """From the sums of a query, which are None over no rows."""
        return cls(device_ns or 0, units, energy_mj, unpriced_ns or 0, unmetered_ns or 0)

    def __add__(self, other: Quantity) -> Quantity:
        return Quantity(
            self.device_ns + other.device_ns,
            plus(self.units, other.units),
            plus(self.energy_mj, other.energy_mj),
            self.unpriced_ns + other.unpriced_ns,
            self.unmetered_ns + other.unmetered_ns,
        )

    def __neg__(self) -> Quantity:
        return Quantity(
            -self.device_ns,
            None if self.units is None else -self.units,
            None if self.energy_mj is None else -self.energy_mj,
            -self.unpriced_ns,
            -self.unmetered_ns,
        )

    def same_amounts(self, other: Quantity) -> bool:
        """Are time, money and energy equal, to the last unit?"""
        return (self.device_ns, self.units or 0, self.energy_mj or 0) == (
            other.device_ns,
            other.units or 0,
            other.energy_mj or 0,
        )


def summed(
    lacks: int,
    time_high: int,
    time_low: int,
    unpriced_high: int,
    unpriced_low: int,
    units_high: int | None,
    units_low: int | None,
    energy_high: int | None,
    energy_low: int | None,
) -> Quantity:
    """From the sums of `rollups.sources.amounts` over rows that lack the same."""
    device_ns = (time_high << HALF_BITS) + time_low
    return Quantity(
        device_ns,
        # As `sums.joined`, without a call of it for each of what may be a hundred thousand.
        None if units_high is None or units_low is None else (units_high << HALF_BITS) + units_low,
        None
        if energy_high is None or energy_low is None
        else (energy_high << HALF_BITS) + energy_low,
        (unpriced_high << HALF_BITS) + unpriced_low,
        device_ns if lacks & _NO_ENERGY else 0,
    )


_NO_ENERGY = int(Lacks.ENERGY)


def plus(one: int | None, other: int | None) -> int | None:
    """The sum; None only where both are."""
    if one is None or other is None:
        return other if one is None else one
    return one + other
