"""One GPU as NVML shows it: what it cannot tell is found out once and never asked again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from apportion.collectors.collector import DeviceSources
from apportion.collectors.nvml_error import NvmlEmpty, NvmlError, NvmlTransient, NvmlUnsupported
from apportion.collectors.nvml_fields import NvmlFields
from apportion.collectors.nvml_library import (
    CLOCK_MEMORY,
    CLOCK_SM,
    NvmlHandle,
    NvmlLibrary,
    ProcessSample,
)
from apportion.collectors.power_integral import PowerIntegral
from apportion.core.clock import Clock
from apportion.core.errors import DeviceLost
from apportion.core.ids import DeviceId
from apportion.core.reading import DeviceInfo, ProcessReading, Reading
from apportion.core.units import Bytes, Millijoules, Milliwatts, MonotonicNs

T = TypeVar("T")

_SIMULATED_MARK: Final = "simulated"
_HZ_PER_MHZ: Final = 1_000_000
_PERCENT: Final = 100


class NvmlDevice:
    """The GPU at `index`, for as long as NVML stays open.

    Raises:
        NvmlError: it has no handle, UUID or name: it is lost, or NVML is.
    """

    def __init__(self, library: NvmlLibrary, clock: Clock, index: int, driver_version: str) -> None:
        self._library = library
        self._clock = clock
        self._handle: NvmlHandle = library.device_get_handle_by_index(index)
        self._device = DeviceId(library.device_get_uuid(self._handle))
        self._fields = NvmlFields(library, self._handle)
        self._integral = PowerIntegral()
        self._unsupported = set[str]()
        self._troubles: list[NvmlError] = []
        self._last_seen_us = 0
        name = library.device_get_name(self._handle)
        memory = self._ask("memory", library.device_get_memory_info_v2)
        limit_mw = self._ask("power_limit", library.device_get_enforced_power_limit)
        self.info = DeviceInfo(
            device=self._device,
            name=name,
            index=index,
            source="nvml",
            simulated=_SIMULATED_MARK in driver_version.lower(),
            driver_version=driver_version,
            memory_total_bytes=None if memory is None else Bytes(memory[1]),
            power_limit_mw=None if limit_mw is None else Milliwatts(limit_mw),
        )

    @property
    def sources(self) -> DeviceSources:
        """Where the values come from, as far as `read` has found out."""
        power = self._fields.power_source
        if power is None and "power" not in self._unsupported:
            power = "power_usage"
        if "energy" not in self._unsupported:
            energy: str | None = "energy_counter"
        else:
            energy = "power_integrated" if power is not None else None
        return DeviceSources(
            device=self._device,
            energy_source=energy,
            power_source=power,
            activity_source=None if "utilization" in self._unsupported else "utilization",
            unsupported=tuple(sorted(self._unsupported | self._fields.unsupported)),
        )

    def read(self) -> Reading:
        """The values of this moment.

        Raises:
            DeviceLost: this device no longer answers.
            SourceLost: NVML itself no longer answers.
        """
        self._troubles.clear()
        library = self._library
        before_ns = self._clock.monotonic_ns()
        counter_mj = self._ask("energy", library.device_get_total_energy_consumption)
        # The counter was read somewhere in between: the middle is at most half a call off.
        time_ns = MonotonicNs((before_ns + self._clock.monotonic_ns()) // 2)
        fields = self._fields.read()
        power_mw = fields.power_mw
        if power_mw is None and self._fields.power_source is None:
            power_mw = self._ask("power", library.device_get_power_usage)
        energy_mj, energy_source = self._energy(counter_mj, time_ns, power_mw)
        rates = self._ask("utilization", library.device_get_utilization_rates)
        memory = self._ask("memory", library.device_get_memory_info_v2)
        celsius = self._celsius()
        sm_mhz = self._ask("sm_clock", lambda handle: self._clock_mhz(handle, CLOCK_SM))
        memory_mhz = self._ask("memory_clock", lambda handle: self._clock_mhz(handle, CLOCK_MEMORY))
        processes = self._processes(None if memory is None else memory[1])
        if fields.trouble is not None:
            self._troubles.append(fields.trouble)
        told = (counter_mj, power_mw, rates, memory, celsius, sm_mhz, memory_mhz, processes)
        if self._troubles and all(value is None for value in told):
            raise DeviceLost(f"GPU {self._device} told nothing: {self._troubles[-1]}")
        busy_ratio = None if rates is None else _ratio(rates[0])
        used_bytes, total_bytes = _memory_bytes(memory)
        return Reading(
            device=self._device,
            time_ns=time_ns,
            energy_mj=energy_mj,
            energy_source=energy_source,
            power_mw=None if power_mw is None else Milliwatts(power_mw),
            utilization_ratio=busy_ratio,
            activity_source=None if busy_ratio is None else "utilization",
            memory_used_bytes=used_bytes,
            memory_total_bytes=total_bytes,
            memory_utilization_ratio=None if rates is None else _ratio(rates[1]),
            temperature_celsius=None if celsius is None else float(celsius),
            sm_clock_hz=None if sm_mhz is None else sm_mhz * _HZ_PER_MHZ,
            memory_clock_hz=None if memory_mhz is None else memory_mhz * _HZ_PER_MHZ,
            pcie_tx_bytes=_bytes(fields.pcie_tx_bytes),
            pcie_rx_bytes=_bytes(fields.pcie_rx_bytes),
            nvlink_tx_bytes=_bytes(fields.nvlink_tx_bytes),
            nvlink_rx_bytes=_bytes(fields.nvlink_rx_bytes),
            processes=processes,
        )

    def _ask(self, value: str, read: Callable[[NvmlHandle], T]) -> T | None:
        """What `read` answers; None where it cannot, and never again if the device is unable."""
        if value in self._unsupported:
            return None
        try:
            return read(self._handle)
        except NvmlUnsupported:
            self._unsupported.add(value)
        except NvmlTransient as error:
            self._troubles.append(error)
        except NvmlEmpty:
            pass
        return None

    def _energy(
        self, counter_mj: int | None, time_ns: int, power_mw: int | None
    ) -> tuple[Millijoules | None, str | None]:
        """The counter's energy; the integral of the power only where there is no counter.

        A counter that fails once is not replaced by the integral: the two have different zeros.
        """
        if counter_mj is not None:
            return Millijoules(counter_mj), "energy_counter"
        if "energy" in self._unsupported and power_mw is not None:
            return self._integral.add(time_ns, power_mw), "power_integrated"
        return None, None

    def _celsius(self) -> int | None:
        celsius = self._ask("temperature_v", self._library.device_get_temperature_v)
        if celsius is None and "temperature_v" in self._unsupported:
            celsius = self._ask("temperature", self._library.device_get_temperature)
        return celsius

    def _clock_mhz(self, handle: NvmlHandle, clock: int) -> int:
        return self._library.device_get_clock_info(handle, clock)

    def _processes(self, total_bytes: int | None) -> tuple[ProcessReading, ...] | None:
        """Who holds the device, with each one's share of the SMs since the last reading.

        Two lists of NVML make it: inside a container the first may lack processes, or give
        their pids of another namespace, that the second has.
        """
        running = self._ask("processes", self._library.device_get_compute_running_processes_v3)
        if running is None:
            return None
        samples = self._ask("process_utilization", self._process_samples) or ()
        sm_ratio = _sm_ratio_by_pid(samples)
        held = {process.pid: process.memory_bytes for process in running if process.pid > 0}
        idle = None if "process_utilization" in self._unsupported else 0.0
        return tuple(
            ProcessReading(
                pid=pid,
                memory_bytes=_plausible(held.get(pid), total_bytes),
                sm_ratio=sm_ratio.get(pid, idle),
            )
            for pid in sorted(held.keys() | sm_ratio.keys())
        )

    def _process_samples(self, handle: NvmlHandle) -> tuple[ProcessSample, ...]:
        """Samples that are new; rows left over from long ago, and impossible ones, are dropped."""
        seen_us = self._last_seen_us
        try:
            samples = self._library.device_get_process_utilization(handle, seen_us)
        except NvmlEmpty:
            return ()
        new = tuple(
            sample
            for sample in samples
            if sample.timestamp_us > seen_us
            and sample.pid > 0
            and 0 <= sample.sm_percent <= _PERCENT
        )
        self._last_seen_us = max((sample.timestamp_us for sample in new), default=seen_us)
        return new


def _sm_ratio_by_pid(samples: tuple[ProcessSample, ...]) -> dict[int, float]:
    """The mean share of each process over its samples."""
    percents: dict[int, list[int]] = {}
    for sample in samples:
        percents.setdefault(sample.pid, []).append(sample.sm_percent)
    return {pid: sum(values) / (_PERCENT * len(values)) for pid, values in percents.items()}


def _ratio(percent: int) -> float | None:
    """A share in 0..1; None for what cannot be one."""
    return percent / _PERCENT if 0 <= percent <= _PERCENT else None


def _bytes(count: int | None) -> Bytes | None:
    return None if count is None else Bytes(count)


def _memory_bytes(memory: tuple[int, int] | None) -> tuple[Bytes | None, Bytes | None]:
    """Used and total; a use above the total is garbage of a mismatched structure."""
    if memory is None:
        return None, None
    used, total = memory
    return (Bytes(used) if used <= total else None), Bytes(total)


def _plausible(used_bytes: int | None, total_bytes: int | None) -> Bytes | None:
    """A process cannot hold more than the device has."""
    if used_bytes is None or (total_bytes is not None and used_bytes > total_bytes):
        return None
    return Bytes(used_bytes)
