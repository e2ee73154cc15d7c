"""Energy between readings: the cumulative counter as a function of time, in whole millijoules.

Between two readings the counter is taken to grow evenly, so E(b) - E(a) over any partition of
time adds up to the counter's own difference exactly.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from apportion.core.units import NS_PER_SECOND

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Instants = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class EnergyCurve:
    """Knots of (node time ns, cumulative mJ), both ascending; flat outside them."""

    times_ns: tuple[int, ...]
    energies_mj: tuple[int, ...]

    def at(self, time_ns: int) -> int:
        """E(time_ns), rounded down to a millijoule."""
        index = bisect_right(self.times_ns, time_ns) - 1
        if index < 0:
            return self.energies_mj[0] if self.energies_mj else 0
        if index == len(self.times_ns) - 1:
            return self.energies_mj[-1]
        t0, t1 = self.times_ns[index], self.times_ns[index + 1]
        e0, e1 = self.energies_mj[index], self.energies_mj[index + 1]
        return e0 + (e1 - e0) * (time_ns - t0) // (t1 - t0)

    def at_all(self, times_ns: Instants) -> Instants:
        """E at each of `times_ns` (shape n); equal to `at`, vectorised where 64 bits hold it."""
        if not self.times_ns:
            return np.zeros(times_ns.size, dtype=np.int64)
        if len(self.times_ns) == 1:
            return np.full(times_ns.size, self.energies_mj[0], dtype=np.int64)
        knots = np.asarray(self.times_ns, dtype=np.int64)
        energies = np.asarray(self.energies_mj, dtype=np.int64)
        rise, run = np.diff(energies), np.diff(knots)
        if float(rise.max()) * float(run.max()) >= float(1 << 62):
            exact = (self.at(time_ns) for time_ns in times_ns.tolist())
            return np.fromiter(exact, dtype=np.int64, count=times_ns.size)
        clipped = np.clip(times_ns, knots[0], knots[-1])
        index = np.clip(np.searchsorted(knots, clipped, side="right") - 1, 0, run.size - 1)
        between: Instants = rise[index] * (clipped - knots[index]) // run[index]
        return energies[index] + between

    def idle_part(self, power_mw: int) -> EnergyCurve:
        """What of the energy up to E a device at rest would have used: a curve over E, not time.

        Between two readings that is `power_mw` over their distance, at most what was used, and
        the same part of every millijoule. So over any interval it is a whole number that never
        exceeds the energy of the interval.
        """
        knots = {self.energies_mj[0]: 0} if self.energies_mj else {}
        idle_mj = 0
        for (t0, t1), (e0, e1) in zip(
            pairwise(self.times_ns), pairwise(self.energies_mj), strict=True
        ):
            idle_mj += min(e1 - e0, power_mw * (t1 - t0) // NS_PER_SECOND)
            knots[e1] = idle_mj
        return EnergyCurve.of(list(knots.items()))

    @classmethod
    def of(cls, knots: Sequence[tuple[int, int]]) -> EnergyCurve:
        """A curve through (time ns, mJ) pairs in ascending order of time."""
        return cls(tuple(time for time, _ in knots), tuple(energy for _, energy in knots))
