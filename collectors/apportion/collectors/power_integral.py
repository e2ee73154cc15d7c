"""Energy from sampled power, for devices that have no energy counter."""

from __future__ import annotations

from typing import Final

from apportion.core.units import NS_PER_SECOND, Millijoules

LONGEST_GAP_NS: Final = 10 * NS_PER_SECOND
"""Beyond this nobody knows what the power was in between, where samples come every second."""


class PowerIntegral:
    """The trapezoid sum of power samples, in whole millijoules; exact in between.

    It falls to zero after a gap longer than `longest_gap_ns`, as a counter does that was reset:
    the energy of such a gap is unknown and must not be made up.
    """

    def __init__(self, longest_gap_ns: int = LONGEST_GAP_NS) -> None:
        self._longest_gap_ns = longest_gap_ns
        self._twice_mw_ns = 0
        self._last: tuple[int, int] | None = None

    def add(self, time_ns: int, power_mw: int) -> Millijoules:
        """The energy up to `time_ns`, where the power is `power_mw` (>= 0).

        Raises:
            ValueError: `time_ns` is before the last sample's.
        """
        if self._last is not None:
            last_ns, last_mw = self._last
            gap_ns = time_ns - last_ns
            if gap_ns < 0:
                raise ValueError(f"power samples must come in time order; this one is {gap_ns} ns")
            if gap_ns > self._longest_gap_ns:
                self._twice_mw_ns = 0
            else:
                self._twice_mw_ns += (power_mw + last_mw) * gap_ns
        self._last = (time_ns, power_mw)
        return Millijoules(self._twice_mw_ns // (2 * NS_PER_SECOND))
