"""Readings of the parts of a GPU that MIG has cut: its instances, and what none of them holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from apportion.collectors.collector import DeviceSources
from apportion.collectors.mig_shares import REST
from apportion.collectors.nvml_chip import Chip
from apportion.collectors.nvml_mig import MigLayout, MigPart
from apportion.collectors.nvml_use import Use
from apportion.core.ids import DeviceId
from apportion.core.reading import Reading
from apportion.core.units import Millijoules, Milliwatts

SHARE: Final = "_share"
"""How the source of a part's energy and power is called after that of the whole."""


class NvmlParts:
    """Energy of parts over time: each one's only rises, unless the GPU's own counter fell."""

    def __init__(self) -> None:
        self._gpu_mj = 0
        self._given_mj: dict[tuple[DeviceId, str], int] = {}

    def readings(
        self, layout: MigLayout, chip: Chip, uses: Mapping[DeviceId, Use]
    ) -> tuple[Reading, ...]:
        """One reading for each part of `layout`; `uses` are those of its instances."""
        if chip.energy_mj is not None:
            if chip.energy_mj < self._gpu_mj:
                self._given_mj.clear()
            self._gpu_mj = chip.energy_mj
        return tuple(
            self._reading(part, layout.whole, chip, uses.get(part.device)) for part in layout.parts
        )

    def _reading(self, part: MigPart, slices: int, chip: Chip, use: Use | None) -> Reading:
        is_rest = part.device.endswith(f"/{REST}")
        energy_mj = (
            None if chip.energy_mj is None else self._energy_mj(part, slices, chip.energy_mj)
        )
        power_mw = None if chip.power_mw is None else part.of(chip.power_mw, slices)
        # Nobody can run on the rest: that it is quiet needs no measurement.
        busy_ratio = 0.0 if is_rest else None if use is None else use.busy_ratio
        busy_source = REST if is_rest else None if use is None else use.busy_source
        return Reading(
            device=part.device,
            time_ns=chip.time_ns,
            energy_mj=energy_mj,
            energy_source=None if chip.energy_source is None else f"{chip.energy_source}{SHARE}",
            power_mw=None if power_mw is None else Milliwatts(power_mw),
            utilization_ratio=busy_ratio,
            activity_source=busy_source,
            memory_used_bytes=None if use is None else use.memory_used_bytes,
            memory_total_bytes=None if use is None else use.memory_total_bytes,
            temperature_celsius=chip.temperature_celsius,
            sm_clock_hz=chip.sm_clock_hz,
            memory_clock_hz=chip.memory_clock_hz,
            samples=() if use is None else use.samples,
        )

    def _energy_mj(self, part: MigPart, slices: int, gpu_mj: int) -> Millijoules:
        """Its part of the counter.

        A change of the layout can move a part by less than its slices in millijoules: it waits
        until its share has caught up, rather than look like a counter that was reset.
        """
        key = (part.device, part.name)  # beside other instances the rest is another device
        given_mj = max(part.of(gpu_mj, slices), self._given_mj.get(key, 0))
        self._given_mj[key] = given_mj
        return Millijoules(given_mj)


def part_sources(part: MigPart, chip: DeviceSources, activity_source: str | None) -> DeviceSources:
    """Where a part's values come from, by those of its GPU."""
    is_rest = part.device.endswith(f"/{REST}")
    return DeviceSources(
        device=part.device,
        energy_source=None if chip.energy_source is None else f"{chip.energy_source}{SHARE}",
        power_source=None if chip.power_source is None else f"{chip.power_source}{SHARE}",
        activity_source=REST if is_rest else activity_source,
        unsupported=chip.unsupported,
    )
