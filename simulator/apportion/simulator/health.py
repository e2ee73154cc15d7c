"""What goes wrong in a device by and by: ECC errors, rows out of use, time with limited clocks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from apportion.core.units import NS_PER_SECOND
from apportion.simulator.state import LIMITS

GPU_IDLE: Final = 0x1
SW_POWER_CAP: Final = 0x4
HW_SLOWDOWN: Final = 0x8
SW_THERMAL: Final = 0x20
HW_THERMAL: Final = 0x40
"""nvmlClocksEventReason*: bits of what limits the clocks."""
UNCORRECTED_EVERY: Final = 100
"""In a storm of ECC errors one of so many cannot be corrected."""

# Places in `sim_values.limited_ns`: fields 74 to 79, then 269 to 271.
_POWER, _THERMAL, _SW_THERMAL, _HW_THERMAL = 0, 1, 6, 7
_PLACES: Final = {
    SW_POWER_CAP: (_POWER,),
    SW_THERMAL: (_THERMAL, _SW_THERMAL),
    HW_THERMAL: (_HW_THERMAL,),
}


@dataclass(frozen=True, slots=True)
class Health:
    """Everything that a device has counted; each ECC count in errors x nanoseconds per second.

    `before` is what was counted before the last reset: it belongs to the aggregate alone.
    """

    corrected: int = 0
    uncorrected: int = 0
    before: tuple[int, int] = (0, 0)
    remapped: tuple[int, int] = (0, 0)
    limited_ns: tuple[int, ...] = (0,) * LIMITS

    def after(self, elapsed_ns: int, *, storm: int, reasons: int) -> Health:
        """Later by `elapsed_ns`, with `storm` corrected errors a second and clocks limited so."""
        limited_ns = list(self.limited_ns)
        for reason, places in _PLACES.items():
            for place in places if reasons & reason else ():
                limited_ns[place] += elapsed_ns
        return replace(
            self,
            corrected=self.corrected + storm * elapsed_ns,
            uncorrected=self.uncorrected + storm * elapsed_ns // UNCORRECTED_EVERY,
            limited_ns=tuple(limited_ns),
        )

    def reset(self) -> Health:
        """After a reset of the device: pending rows are remapped, volatile counts begin anew."""
        corrected, uncorrected = self.ecc_errors
        return Health(
            before=(corrected[1], uncorrected[1]),
            remapped=(self.remapped[0], self.remapped[1] + self.pending_rows),
        )

    @property
    def ecc_errors(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Corrected and uncorrected errors, each since the driver was loaded and ever."""
        corrected, uncorrected = self.corrected // NS_PER_SECOND, self.uncorrected // NS_PER_SECOND
        return (
            (corrected, self.before[0] + corrected),
            (uncorrected, self.before[1] + uncorrected),
        )

    @property
    def pending_rows(self) -> int:
        """Rows that a reset will put out of use: one for each error that was not corrected."""
        return self.uncorrected // NS_PER_SECOND
