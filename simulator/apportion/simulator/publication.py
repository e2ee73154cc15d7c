"""What a device's physics and processes look like to a reader: one publication of its values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from apportion.core.units import NS_PER_SECOND
from apportion.simulator.physics import PPM, DevicePhysics, parts_per_million, power_mw
from apportion.simulator.profiles import Profile
from apportion.simulator.state import MAX_NVLINKS, MAX_PROCESSES, DeviceValues, ProcessValues

GPU_IDLE_REASON: Final = 1
"""nvmlClocksEventReasonGpuIdle."""
POWER_CAP_REASON: Final = 4
"""nvmlClocksEventReasonSwPowerCap: the power is at its limit."""


@dataclass(frozen=True, slots=True)
class ProcessLoad:
    """A compute process on a device.

    Attributes:
        pid: its process id on the host.
        used_bytes: the device memory that it holds.
        utilization_ratio: its share of the device's time, 0 to 1.
    """

    pid: int
    used_bytes: int = 0
    utilization_ratio: float = 0.0


def check_processes(profile: Profile, processes: Sequence[ProcessLoad]) -> None:
    """See that the processes fit on the device.

    Raises:
        ValueError: too many, too large, or a share that is no ratio.
    """
    if len(processes) > MAX_PROCESSES:
        raise ValueError(f"{len(processes)} processes: a device lists at most {MAX_PROCESSES}")
    for process in processes:
        parts_per_million(process.utilization_ratio)
        if process.pid <= 0 or process.used_bytes < 0:
            raise ValueError(f"{process}: give a positive pid and a number of bytes")
    check_memory(profile, sum(process.used_bytes for process in processes))


def check_memory(profile: Profile, used_bytes: int) -> None:
    """See that `used_bytes` fit beside what the driver reserves.

    Raises:
        ValueError: they do not.
    """
    room_bytes = profile.memory_total_bytes - profile.memory_reserved_bytes
    if not 0 <= used_bytes <= room_bytes:
        raise ValueError(f"{used_bytes} bytes used: {profile.name} has {room_bytes} bytes to use")


def publication(
    physics: DevicePhysics,
    processes: Sequence[ProcessLoad],
    *,
    memory_used_bytes: int,
    has_peers: bool,
    at_ns: int,
    realtime_ns: int,
) -> DeviceValues:
    """The values of a device at `at_ns` (monotonic), stamped with `realtime_ns` (since 1970).

    `memory_used_bytes` is what is allocated, the processes' own included. `has_peers`: there are
    other devices to talk to over NVLink.
    """
    profile = physics.profile
    now = physics.at(at_ns)
    busy_ppm = physics.average_utilization_ppm(at_ns)
    power_instant_mw = power_mw(profile, now.utilization_ppm)
    stamp_us = realtime_ns // 1_000
    pcie_bytes = _traffic_bytes(profile.pcie_bytes_per_second, now.busy_ppm_ns)
    pcie_kbps = profile.pcie_bytes_per_second * busy_ppm // PPM // 1_000
    memory_kelvin = profile.memory_kelvin or 0.0
    values = DeviceValues(
        published_us=stamp_us,
        energy_mj=physics.published_energy_mj(at_ns),
        memory_used_bytes=memory_used_bytes,
        event_reasons=_event_reasons(profile, busy_ppm, power_instant_mw),
        pcie_tx_bytes=pcie_bytes,
        pcie_rx_bytes=pcie_bytes,
        power_average_mw=physics.average_power_mw(at_ns),
        power_instant_mw=power_instant_mw,
        utilization_percent=_percent(busy_ppm),
        memory_utilization_percent=_percent(busy_ppm // 2),
        graphics_mhz=profile.graphics_mhz if busy_ppm else profile.idle_mhz,
        sm_mhz=profile.graphics_mhz if busy_ppm else profile.idle_mhz,
        memory_mhz=profile.memory_mhz if busy_ppm else profile.memory_idle_mhz,
        video_mhz=profile.video_mhz if busy_ppm else profile.video_idle_mhz,
        temperature_c=round(now.temperature_c),
        memory_temperature_c=round(now.temperature_c + memory_kelvin),
        pcie_tx_kbps=pcie_kbps,
        pcie_rx_kbps=pcie_kbps,
        performance_state=0 if busy_ppm else profile.idle_performance_state,
        process_count=len(processes),
    )
    if has_peers and profile.nvlink_count:
        kib = _traffic_bytes(profile.nvlink_bytes_per_second, now.busy_ppm_ns) // 1_024
        links = [kib] * profile.nvlink_count + [0] * (MAX_NVLINKS - profile.nvlink_count)
        values.nvlink_tx_kib[:] = links
        values.nvlink_rx_kib[:] = links
    for slot, process in enumerate(processes):
        share_ppm = parts_per_million(process.utilization_ratio)
        values.processes[slot] = ProcessValues(
            pid=process.pid,
            sm_percent=_percent(share_ppm),
            memory_percent=_percent(share_ppm // 2),
            used_bytes=process.used_bytes,
            sampled_us=stamp_us,
        )
    return values


def _event_reasons(profile: Profile, busy_ppm: int, power_instant_mw: int) -> int:
    if busy_ppm == 0:
        return GPU_IDLE_REASON
    return POWER_CAP_REASON if power_instant_mw >= profile.power_limit_mw else 0


def _traffic_bytes(bytes_per_second: int, busy_ppm_ns: int) -> int:
    return bytes_per_second * busy_ppm_ns // (PPM * NS_PER_SECOND)


def _percent(utilization_ppm: int) -> int:
    return (utilization_ppm * 100 + PPM // 2) // PPM
