"""The meter: what a device has cost from the start of a clock hour up to any instant, exactly.

R(t) = floor(rate x (t - T0)), with T0 the start of the clock hour or of the rate, whichever is
later. The cost of [a, b) is R(b) - R(a), so any partition of time adds up to the same total.
The product of a rate and an hour of nanoseconds does not fit 64 bits; it is split so that every
intermediate does (design, Money).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Final

import numpy as np

from apportion.core.units import NS_PER_HOUR

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Instants = NDArray[np.int64]

_SPLIT_BITS: Final = 20
_LOW_MASK: Final = np.uint64((1 << _SPLIT_BITS) - 1)
_SHIFT: Final = np.uint64(_SPLIT_BITS)
_HOUR: Final = np.uint64(NS_PER_HOUR)


def hour_of(time_ns: int) -> int:
    """Start of the clock hour (of node time) that `time_ns` is in."""
    return time_ns - time_ns % NS_PER_HOUR


@dataclass(frozen=True, slots=True)
class Meter:
    """Cumulative cost of one device at one rate within one clock hour.

    `units_per_hour` is exact; `origin_ns` is T0. Instants must lie in [T0, T0 + 1 hour].
    """

    units_per_hour: Fraction
    origin_ns: int

    @classmethod
    def within_hour(
        cls, units_per_hour: Fraction, time_ns: int, valid_from_ns: int | None
    ) -> Meter:
        """The meter that holds at `time_ns` for a rate that is valid from `valid_from_ns` on."""
        hour_ns = hour_of(time_ns)
        return cls(
            units_per_hour, hour_ns if valid_from_ns is None else max(hour_ns, valid_from_ns)
        )

    def at(self, time_ns: int) -> int:
        """R(time_ns) in units."""
        numerator = self.units_per_hour.numerator * (time_ns - self.origin_ns)
        return numerator // (self.units_per_hour.denominator * NS_PER_HOUR)

    def at_all(self, times_ns: Instants) -> Instants:
        """R at each of `times_ns` (shape n, ascending or not); equal to `at`, vectorised."""
        elapsed = times_ns - self.origin_ns
        if elapsed.size and (int(elapsed.min()) < 0 or int(elapsed.max()) > NS_PER_HOUR):
            message = f"instants outside the hour from {self.origin_ns}"
            raise ValueError(message)
        if self.units_per_hour.denominator != 1:
            return np.fromiter(self._exact(times_ns), dtype=np.int64, count=times_ns.size)
        whole, rest = divmod(self.units_per_hour.numerator, NS_PER_HOUR)
        x = elapsed.astype(np.uint64)
        # rest < 2^41.8 and x < 2^41.8: high and low parts of x keep each product below 2^64.
        high = np.uint64(rest) * (x >> _SHIFT)
        quotient, remainder = np.divmod(high, _HOUR)
        low = (remainder << _SHIFT) + np.uint64(rest) * (x & _LOW_MASK)
        fraction = (quotient << _SHIFT) + low // _HOUR
        return (np.uint64(whole) * x + fraction).astype(np.int64)

    def _exact(self, times_ns: Instants) -> Iterator[int]:
        return (self.at(time_ns) for time_ns in times_ns.tolist())
