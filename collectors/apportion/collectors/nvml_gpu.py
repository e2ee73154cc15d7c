"""One GPU as settlement sees it: a device, or the devices that MIG has cut it into."""

from __future__ import annotations

from typing import Final, TypeVar

from apportion.collectors.collector import DeviceSources
from apportion.collectors.mig_shares import REST
from apportion.collectors.nvml_chip import Chip, NvmlChip
from apportion.collectors.nvml_error import NvmlCode, NvmlError, NvmlUnsupported, error_of
from apportion.collectors.nvml_library import NvmlHandle, NvmlLibrary
from apportion.collectors.nvml_messages import DeviceAnswer, SlowFacts
from apportion.collectors.nvml_mig import MigLayout, NvmlMig
from apportion.collectors.nvml_parts import NvmlParts, part_sources
from apportion.collectors.nvml_telemetry import process_samples
from apportion.collectors.nvml_use import NvmlUse, Use
from apportion.core.clock import Clock
from apportion.core.errors import DeviceLost, SourceLost
from apportion.core.ids import DeviceId
from apportion.core.reading import DeviceInfo, Reading
from apportion.core.sample import Sample
from apportion.core.units import Bytes, Milliwatts

SLOW_EVERY: Final = 10
"""Processes, errors and links are read in one of so many readings, ..."""
FACTS_EVERY: Final = 60
"""... what a person may have changed in one of so many."""
_SIMULATED_MARK: Final = "simulated"

Fact = TypeVar("Fact", DeviceInfo, DeviceSources)


class NvmlGpu:
    """The GPU at `index`, for as long as NVML stays open.

    Raises:
        NvmlError: it has no handle, UUID or name: it is lost, or NVML is.
    """

    def __init__(self, library: NvmlLibrary, clock: Clock, index: int, driver_version: str) -> None:
        self._index = index
        self._driver_version = driver_version
        self.handle: NvmlHandle = library.device_get_handle_by_index(index)
        self.device = DeviceId(library.device_get_uuid(self.handle))
        self._name = library.device_get_name(self.handle)
        self._chip = NvmlChip(library, clock, self.handle)
        self._use = NvmlUse(library, clock, self.handle)
        self._mig: NvmlMig | None = NvmlMig(library, clock, self.handle, self.device, self._name)
        self._layout: MigLayout | None = None
        self._parts = NvmlParts()
        self._limit_mw: Milliwatts | None = None
        self._infos: dict[DeviceId, DeviceInfo] = {}
        self._sources: dict[DeviceId, DeviceSources] = {}
        self._reads = 0

    def read(self, *, fresh: bool = False) -> DeviceAnswer:
        """The values of this moment; with `fresh` those too that are read more rarely.

        Raises:
            DeviceLost: this GPU no longer answers.
            SourceLost: NVML itself no longer answers.
        """
        # GPUs take turns, so that no sweep is much longer than another.
        turn, first = self._reads + self._index, self._reads == 0
        self._reads += 1
        if first or turn % FACTS_EVERY == 0:
            self._limit_mw = self._chip.power_limit_mw()
        slow = first or fresh or turn % SLOW_EVERY == 0
        before = self._layout
        layout = self._read_layout()
        chip = self._chip.read()
        last: tuple[Reading, ...] = ()
        ended: tuple[DeviceId, ...] = ()
        if first:
            ended = self._not_now(layout)
        elif _devices(before, self.device) != _devices(layout, self.device):
            last, ended = self._ended(before, layout, chip)
            for device in ended:
                self._infos.pop(device, None)
                self._sources.pop(device, None)
        mig = self._mig
        answer = (
            self._whole(chip, slow=slow)
            if layout is None or mig is None
            else self._cut(mig, layout, chip, slow=slow)
        )
        return DeviceAnswer(
            self._index,
            readings=(*last, *answer.readings),
            devices=self._new(self._infos, answer.devices),
            sources=self._new(self._sources, answer.sources),
            slow=answer.slow,
            ended=ended,
            samples=answer.samples,
            gpu=self.device,
        )

    def close(self) -> None:
        """Give back what must not outlive NVML."""
        self._use.close()
        if self._mig is not None:
            self._mig.close()

    def _read_layout(self) -> MigLayout | None:
        """How the GPU is cut now; where that cannot be told, as it was."""
        if self._mig is None:
            return None
        try:
            self._layout = self._mig.layout()
        except (DeviceLost, SourceLost):
            raise
        except NvmlUnsupported:
            self._mig = self._layout = None
        except NvmlError as error:
            self._chip.troubles.append(error)
        return self._layout

    def _not_now(self, layout: MigLayout | None) -> tuple[DeviceId, ...]:
        """Devices that the GPU can be and is not: somebody may remember them from before."""
        if self._mig is None:
            return ()
        rest = DeviceId(f"{self.device}/{REST}")
        now = {device for device, _ in _devices(layout, self.device)}
        return tuple(device for device in (self.device, rest) if device not in now)

    def _ended(
        self, before: MigLayout | None, now: MigLayout | None, chip: Chip
    ) -> tuple[tuple[Reading, ...], tuple[DeviceId, ...]]:
        """The last readings of devices that exist no longer: how busy they were is not known."""
        if before is None:
            return (_reading(self.device, chip, None),), (self.device,)
        kept = _devices(now, self.device)
        devices = tuple(
            part.device for part in before.parts if (part.device, part.name) not in kept
        )
        readings = self._parts.readings(before, chip, {})
        return tuple(each for each in readings if each.device in devices), devices

    def _whole(self, chip: Chip, *, slow: bool) -> DeviceAnswer:
        use = self._use.read()
        self._check(chip.told, use.told)
        facts: tuple[SlowFacts, ...] = ()
        if slow:
            facts = (_slow(self.device, self._use, use, self._chip.read_slow()),)
        info = self._info(self.device, self._name, use.memory_total_bytes, self._limit_mw)
        return DeviceAnswer(
            self._index,
            readings=(_reading(self.device, chip, use),),
            devices=(info,),
            sources=(self._chip_sources(self._use),),
            slow=facts,
        )

    def _check(self, *told: tuple[object, ...]) -> None:
        """A GPU that answers nothing but errors is not a GPU with unsupported values."""
        if any(value is not None for values in told for value in values):
            return
        troubles = [*self._chip.troubles, *self._use.troubles]
        if not troubles and (self._chip.is_forbidden or self._use.is_forbidden):
            troubles = [error_of(NvmlCode.NO_PERMISSION, "NVML")]
        if troubles:
            message = f"GPU {self.device} told nothing: {troubles[-1]}"
            raise DeviceLost(message) from troubles[-1]

    def _cut(self, mig: NvmlMig, layout: MigLayout, chip: Chip, *, slow: bool) -> DeviceAnswer:
        """The parts' readings; what is measured of the whole chip goes beside them."""
        self._check(chip.told)
        sensors = {instance.device: mig.use(instance) for instance in layout.instances}
        uses = {device: sensor.read() for device, sensor in sensors.items()}
        facts: list[SlowFacts] = []
        if slow:
            facts = [_slow(device, sensors[device], use, ()) for device, use in uses.items()]
            facts.append(SlowFacts(self.device, samples=self._chip.read_slow()))
        devices: list[DeviceInfo] = []
        sources: list[DeviceSources] = []
        of_chip = self._chip_sources(self._use)
        for part in layout.parts:
            use, sensor = uses.get(part.device), sensors.get(part.device)
            memory = None if use is None else use.memory_total_bytes
            activity = None if sensor is None else sensor.activity_source
            devices.append(self._info(part.device, part.name, memory, None))
            sources.append(part_sources(part, of_chip, activity))
        return DeviceAnswer(
            self._index,
            readings=self._parts.readings(layout, chip, uses),
            devices=tuple(devices),
            sources=tuple(sources),
            slow=tuple(facts),
            samples=(*chip.samples, *_temperature(chip)),
        )

    def _chip_sources(self, use: NvmlUse) -> DeviceSources:
        return DeviceSources(
            device=self.device,
            energy_source=self._chip.energy_source,
            power_source=self._chip.power_source,
            activity_source=use.activity_source,
            unsupported=tuple(sorted(self._chip.unsupported | use.unsupported)),
        )

    def _info(
        self,
        device: DeviceId,
        name: str,
        memory_total_bytes: Bytes | None,
        power_limit_mw: Milliwatts | None,
    ) -> DeviceInfo:
        return DeviceInfo(
            device=device,
            name=name,
            index=self._index,
            source="nvml",
            simulated=_SIMULATED_MARK in self._driver_version.lower(),
            driver_version=self._driver_version,
            memory_total_bytes=memory_total_bytes,
            power_limit_mw=power_limit_mw,
        )

    @staticmethod
    def _new(known: dict[DeviceId, Fact], facts: tuple[Fact, ...]) -> tuple[Fact, ...]:
        """Those that are not known yet, which they are from now on."""
        new = tuple(fact for fact in facts if known.get(fact.device) != fact)
        known.update((fact.device, fact) for fact in new)
        return new


def _devices(layout: MigLayout | None, gpu: DeviceId) -> set[tuple[DeviceId, str]]:
    """What makes two layouts the same: the rest beside other instances is another device."""
    if layout is None:
        return {(gpu, "")}
    return {(part.device, part.name) for part in layout.parts}


def _reading(device: DeviceId, chip: Chip, use: Use | None) -> Reading:
    """The reading of a whole GPU."""
    return Reading(
        device=device,
        time_ns=chip.time_ns,
        energy_mj=chip.energy_mj,
        energy_source=chip.energy_source,
        power_mw=chip.power_mw,
        utilization_ratio=None if use is None else use.busy_ratio,
        activity_source=None if use is None else use.busy_source,
        memory_used_bytes=None if use is None else use.memory_used_bytes,
        memory_total_bytes=None if use is None else use.memory_total_bytes,
        memory_utilization_ratio=None if use is None else use.memory_busy_ratio,
        temperature_celsius=chip.temperature_celsius,
        sm_clock_hz=chip.sm_clock_hz,
        memory_clock_hz=chip.memory_clock_hz,
        pcie_tx_bytes=chip.pcie_tx_bytes,
        pcie_rx_bytes=chip.pcie_rx_bytes,
        nvlink_tx_bytes=chip.nvlink_tx_bytes,
        nvlink_rx_bytes=chip.nvlink_rx_bytes,
        samples=(*chip.samples, *(() if use is None else use.samples)),
    )


def _slow(device: DeviceId, sensor: NvmlUse, use: Use, samples: tuple[Sample, ...]) -> SlowFacts:
    processes = sensor.processes(use.memory_total_bytes)
    counted = () if processes is None else tuple(process_samples(len(processes)))
    return SlowFacts(device, processes, (*samples, *counted))


def _temperature(chip: Chip) -> tuple[Sample, ...]:
    if chip.temperature_celsius is None:
        return ()
    return (Sample("device_temperature_celsius", chip.temperature_celsius),)
