"""What a collector reports: the values of one device at one time, and its static facts."""

from __future__ import annotations

from dataclasses import dataclass, field

from apportion.core.ids import DeviceId
from apportion.core.sample import Sample
from apportion.core.units import Bytes, Millijoules, Milliwatts, MonotonicNs


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """The static facts of a device. `name` is NVML's, the key of price tables.

    `source` says where the device was found: `nvml`, `dcgm` or `cpu`.
    """

    device: DeviceId
    name: str
    index: int
    source: str
    simulated: bool = False
    driver_version: str | None = None
    memory_total_bytes: Bytes | None = None
    power_limit_mw: Milliwatts | None = None


@dataclass(frozen=True, slots=True)
class ProcessReading:
    """A process that holds a device, by the pid that the source reported."""

    pid: int
    memory_bytes: Bytes | None = None
    sm_ratio: float | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """The values of one device at `time_ns` (host monotonic). What it cannot tell is None.

    `energy_mj` is cumulative and falls only when the counter was reset. `energy_source` is
    `energy_counter`, `power_integrated` or `rapl`, with `_share` after it where the device has only
    a share of what was measured (a MIG instance). `utilization_ratio` is activity evidence in
    0..1 since the last reading where the source can tell, else over its own last sample period;
    `activity_source` names where it came from.
    `cpu_ns_by_pid` is for the CPU device only: cumulative CPU time of the instrumented pids.
    `samples` is telemetry that settlement does not need; the label `device` goes without saying.
    """

    device: DeviceId
    time_ns: MonotonicNs
    energy_mj: Millijoules | None = None
    energy_source: str | None = None
    power_mw: Milliwatts | None = None
    utilization_ratio: float | None = None
    activity_source: str | None = None
    memory_used_bytes: Bytes | None = None
    memory_total_bytes: Bytes | None = None
    memory_utilization_ratio: float | None = None
    temperature_celsius: float | None = None
    sm_clock_hz: int | None = None
    memory_clock_hz: int | None = None
    pcie_tx_bytes: Bytes | None = None
    pcie_rx_bytes: Bytes | None = None
    nvlink_tx_bytes: Bytes | None = None
    nvlink_rx_bytes: Bytes | None = None
    processes: tuple[ProcessReading, ...] | None = None
    cpu_ns_by_pid: dict[int, int] = field(default_factory=dict[int, int])
    samples: tuple[Sample, ...] = ()
