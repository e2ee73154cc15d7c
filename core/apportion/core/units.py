"""Units as distinct types, and the few conversions between them.

Money and energy are integers everywhere inside the project: one money unit is 10^-12 of
the currency, energy is in millijoules, time in nanoseconds. They become decimals or floats
only at the edge (a report line, a metric sample).
"""

from __future__ import annotations

from decimal import Decimal
from typing import Final, NewType

Nanoseconds = NewType("Nanoseconds", int)
"""A duration."""
MonotonicNs = NewType("MonotonicNs", int)
"""An instant of CLOCK_MONOTONIC on one boot of one host."""
UnixNs = NewType("UnixNs", int)
"""An instant of CLOCK_REALTIME."""
NodeNs = NewType("NodeNs", int)
"""An instant of node time: monotonic plus an anchor fixed once per boot. It never steps."""
MoneyUnits = NewType("MoneyUnits", int)
"""10^-12 of a currency."""
Millijoules = NewType("Millijoules", int)
Milliwatts = NewType("Milliwatts", int)
Bytes = NewType("Bytes", int)

NS_PER_SECOND: Final = 1_000_000_000
NS_PER_MINUTE: Final = 60 * NS_PER_SECOND
NS_PER_HOUR: Final = 3_600 * NS_PER_SECOND
UNITS_PER_CURRENCY: Final = 1_000_000_000_000
MJ_PER_JOULE: Final = 1_000


def money(units: int) -> Decimal:
    """`units` as an exact decimal amount of the currency."""
    return Decimal(units) / UNITS_PER_CURRENCY


def units_of(amount: Decimal) -> MoneyUnits:
    """An amount of the currency in units.

    Raises:
        ValueError: the amount has more than twelve decimals.
    """
    scaled = amount * UNITS_PER_CURRENCY
    whole = int(scaled)
    if scaled != whole:
        message = f"{amount} has more than 12 decimals; round it to 10^-12 of the currency"
        raise ValueError(message)
    return MoneyUnits(whole)


def seconds(duration_ns: int) -> float:
    """A duration in seconds, for display and metrics only."""
    return duration_ns / NS_PER_SECOND


def joules(energy_mj: int) -> float:
    """An energy in joules, for display and metrics only."""
    return energy_mj / MJ_PER_JOULE
