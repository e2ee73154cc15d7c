"""A GPU's energy from looks at its exporter, and when the values of a look were taken."""

from __future__ import annotations

from typing import NamedTuple

from apportion.collectors.power_integral import PowerIntegral
from apportion.core.units import MonotonicNs


class Energy(NamedTuple):
    """The energy so far, where it comes from, and how much came since the last reading."""

    total_mj: int | None
    source: str | None
    grown_mj: int


NO_ENERGY = Energy(None, None, 0)


class DcgmEnergy:
    """The energy counter of one GPU; the integral of its power where there never was one (vGPU).

    An exporter samples by itself, every 30 s unless it was told otherwise, and shows the same
    values until the next time. The counter always moves, so where it did not, nothing is new.
    """

    def __init__(self, longest_gap_ns: int) -> None:
        """`longest_gap_ns`: beyond it nobody knows what the power was in between."""
        self._integral = PowerIntegral(longest_gap_ns)
        self._integrated_mj = 0
        self._counter_mj: int | None = None
        self._looked_ns: MonotonicNs | None = None
        self._was_unchanged = False
        self._new_ns: MonotonicNs | None = None

    @property
    def unchanged_ns(self) -> int:
        """For how long looks have shown the same values by now; 0 after new ones."""
        if not self._was_unchanged or self._looked_ns is None or self._new_ns is None:
            return 0
        return self._looked_ns - self._new_ns

    def look(
        self, counter_mj: int | None, power_mw: int | None, time_ns: MonotonicNs
    ) -> tuple[Energy, MonotonicNs] | None:
        """The energy and the time of the values in a look at `time_ns`; None: nothing is new.

        After an unchanged look the new values were taken between the two: in the middle, as far as
        anybody knows.
        """
        before_ns, self._looked_ns = self._looked_ns, time_ns
        if counter_mj is not None and counter_mj == self._counter_mj:
            self._was_unchanged = True
            return None
        if self._was_unchanged and before_ns is not None:
            time_ns = MonotonicNs((before_ns + time_ns) // 2)
        self._was_unchanged, self._new_ns = False, time_ns
        return self._energy(counter_mj, power_mw, time_ns), time_ns

    def _energy(self, counter_mj: int | None, power_mw: int | None, time_ns: int) -> Energy:
        if counter_mj is not None:
            before_mj, self._counter_mj = self._counter_mj, counter_mj
            # a counter that fell began at 0 again: the driver was loaded anew
            begin_mj = counter_mj if before_mj is None else before_mj
            grown_mj = counter_mj - begin_mj if counter_mj >= begin_mj else counter_mj
            return Energy(counter_mj, "energy_counter", grown_mj)
        if self._counter_mj is not None or power_mw is None:
            return NO_ENERGY
        before_mj = self._integrated_mj
        self._integrated_mj = self._integral.add(time_ns, power_mw)
        return Energy(
            self._integrated_mj, "power_integrated", max(0, self._integrated_mj - before_mj)
        )
