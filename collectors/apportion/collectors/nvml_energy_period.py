"""How often energy counters move: `python -m apportion.collectors.nvml_energy_period SECONDS`.

A window that is shorter than the counter's period reads 0 or a whole step, so the period says how
finely energy can be divided. In a process of its own, as all of NVML: a call may hang. It prints
one JSON object, by UUID.
"""

from __future__ import annotations

import json
import sys
import threading
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import median
from typing import Final

from apportion.collectors.nvml_error import NvmlError
from apportion.collectors.nvml_library import NvmlHandle, NvmlLibrary
from apportion.collectors.nvml_pynvml import PynvmlLibrary
from apportion.core.clock import Clock, SystemClock
from apportion.core.units import NS_PER_SECOND

POLL_NS: Final = 1_000_000
"""A real counter moves every 20 to 100 ms."""


@dataclass(frozen=True, slots=True)
class EnergyPeriod:
    """What was seen of one GPU's counter.

    `period_ns` is the median time between two moves, `step_mj` the smallest move, `poll_ns` the
    longest time between two looks, by which the period may be wrong.
    """

    changes: int
    period_ns: int | None
    step_mj: int | None
    poll_ns: int


class _Counter:
    """One GPU's counter and when it moved."""

    def __init__(self, uuid: str, handle: NvmlHandle) -> None:
        self.uuid = uuid
        self._handle = handle
        self._energy_mj: int | None = None
        self._looked_ns: int | None = None
        self._moved_ns: list[int] = []
        self._steps_mj: list[int] = []
        self._poll_ns = 0

    def answers(self, library: NvmlLibrary, clock: Clock) -> bool:
        """Look at it once; False where it cannot be read any more."""
        try:
            energy_mj = library.device_get_total_energy_consumption(self._handle)
        except NvmlError:
            return False
        self._look(energy_mj, clock.monotonic_ns())
        return True

    def _look(self, energy_mj: int, now_ns: int) -> None:
        if self._looked_ns is not None:
            self._poll_ns = max(self._poll_ns, now_ns - self._looked_ns)
        if self._energy_mj is not None and energy_mj > self._energy_mj:
            self._moved_ns.append(now_ns)
            self._steps_mj.append(energy_mj - self._energy_mj)
        self._energy_mj, self._looked_ns = energy_mj, now_ns

    def found(self) -> EnergyPeriod:
        """What was seen."""
        times = self._moved_ns
        between = [later - earlier for earlier, later in pairwise(times)]
        return EnergyPeriod(
            changes=len(times),
            period_ns=round(median(between)) if between else None,
            step_mj=min(self._steps_mj, default=None),
            poll_ns=self._poll_ns,
        )


def energy_periods(library: NvmlLibrary, clock: Clock, duration_ns: int) -> dict[str, EnergyPeriod]:
    """Look at all energy counters for so long, by UUID; GPUs without one are left out.

    Raises:
        NvmlError: there is no NVML here.
    """
    library.init()
    try:
        found = (_counter(library, index) for index in range(library.device_get_count()))
        counters = [counter for counter in found if counter is not None]
        never = threading.Event()
        end_ns = clock.monotonic_ns() + duration_ns
        while clock.monotonic_ns() < end_ns and counters:
            counters = [counter for counter in counters if counter.answers(library, clock)]
            clock.wait(never, POLL_NS)
        return {counter.uuid: counter.found() for counter in counters}
    finally:
        library.shutdown()


def _counter(library: NvmlLibrary, index: int) -> _Counter | None:
    try:
        handle = library.device_get_handle_by_index(index)
        library.device_get_total_energy_consumption(handle)
        return _Counter(library.device_get_uuid(handle), handle)
    except NvmlError:
        return None


def main(arguments: list[str]) -> int:
    """Print what was seen; 1 where NVML cannot be read."""
    duration_ns = int(float(arguments[0]) * NS_PER_SECOND)
    try:
        found = energy_periods(PynvmlLibrary(), SystemClock(), duration_ns)
    except NvmlError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(json.dumps({uuid: asdict(period) for uuid, period in found.items()}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
