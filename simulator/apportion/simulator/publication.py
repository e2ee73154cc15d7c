"""What a device's physics and processes look like to a reader: one publication of its values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from apportion.core.units import NS_PER_SECOND
from apportion.simulator.health import (
    GPU_IDLE,
    HW_SLOWDOWN,
    HW_THERMAL,
    SW_POWER_CAP,
    SW_THERMAL,
    Health,
)
from apportion.simulator.mig import MigInstance
from apportion.simulator.physics import PPM, DevicePhysics, parts_per_million, power_mw
from apportion.simulator.profiles import Profile
from apportion.simulator.state import (
    MAX_NVLINKS,
    MAX_PROCESSES,
    NO_INSTANCE,
    DeviceValues,
    InstanceValues,
    ProcessValues,
    SampleValues,
)

WRAP_BYTES: Final = 1 << 32
"""Where a counter of 32 bits begins anew."""
RESET_ACTION: Final = 1
"""NVML_GPU_RECOVERY_ACTION_GPU_RESET."""


@dataclass(frozen=True, slots=True)
class ProcessLoad:
    """A compute process on a device.

    Attributes:
        pid: its process id on the host.
        used_bytes: the device memory that it holds.
        utilization_ratio: its share of the device's time, 0 to 1.
        instance: the place of the MIG instance that it is on, None without MIG.
    """

    pid: int
    used_bytes: int = 0
    utilization_ratio: float = 0.0
    instance: int | None = None


@dataclass(frozen=True, slots=True)
class Moment:
    """When a publication is made: `at_ns` monotonic, `realtime_ns` since 1970."""

    at_ns: int
    elapsed_ns: int
    realtime_ns: int


@dataclass(frozen=True, slots=True)
class Limits:
    """What lowers a device's clocks now, and whether its counters are short."""

    thermal: bool = False
    power_cap: bool = False
    wraps: bool = False


@dataclass(frozen=True, slots=True)
class Sample:
    """What the driver keeps of a moment, for nvmlDeviceGetSamples."""

    time_us: int
    power_mw: int
    utilization_percent: int


def check_processes(profile: Profile, processes: Sequence[ProcessLoad], instances: int) -> None:
    """See that the processes fit on the device, which has so many MIG instances.

    Raises:
        ValueError: too many, too large, a share that is no ratio, or no such instance.
    """
    if len(processes) > MAX_PROCESSES:
        raise ValueError(f"{len(processes)} processes: a device lists at most {MAX_PROCESSES}")
    for process in processes:
        parts_per_million(process.utilization_ratio)
        if process.pid <= 0 or process.used_bytes < 0:
            raise ValueError(f"{process}: give a positive pid and a number of bytes")
        if process.instance is not None and not 0 <= process.instance < instances:
            raise ValueError(f"{process}: the device has {instances} MIG instances")
    check_memory(profile, sum(process.used_bytes for process in processes))


def check_memory(profile: Profile, used_bytes: int) -> None:
    """See that `used_bytes` fit beside what the driver reserves.

    Raises:
        ValueError: they do not.
    """
    room_bytes = profile.memory_total_bytes - profile.memory_reserved_bytes
    if not 0 <= used_bytes <= room_bytes:
        raise ValueError(f"{used_bytes} bytes used: {profile.name} has {room_bytes} bytes to use")


def event_reasons(profile: Profile, busy_ppm: int, power_instant_mw: int, limits: Limits) -> int:
    """The bits of what limits the clocks."""
    if limits.thermal:
        return HW_SLOWDOWN | HW_THERMAL | SW_THERMAL
    if busy_ppm == 0:
        return GPU_IDLE
    capped = limits.power_cap or power_instant_mw >= profile.power_limit_mw
    return SW_POWER_CAP if capped else 0


def publication(
    physics: DevicePhysics,
    moment: Moment,
    *,
    processes: Sequence[ProcessLoad] = (),
    instances: Sequence[MigInstance] | None = None,
    samples: Sequence[Sample] = (),
    health: Health,
    limits: Limits,
    memory_used_bytes: int,
    has_peers: bool,
) -> DeviceValues:
    """The values of a device at a moment.

    `memory_used_bytes` is what is allocated, the processes' own included. `has_peers`: there are
    other devices to talk to over NVLink. `instances`: None where MIG is not enabled.
    """
    profile = physics.profile
    now = physics.at(moment.at_ns)
    busy_ppm = physics.average_utilization_ppm(moment.at_ns)
    power_instant_mw = power_mw(profile, now.utilization_ppm)
    stamp_us = moment.realtime_ns // 1_000
    pcie_bytes = _traffic_bytes(profile.pcie_bytes_per_second, now.busy_ppm_ns, limits)
    pcie_kbps = profile.pcie_bytes_per_second * busy_ppm // PPM // 1_000
    celsius = profile.slowdown_c if limits.thermal else round(now.temperature_c)
    graphics_mhz = _graphics_mhz(profile, busy_ppm, limits)
    values = DeviceValues(
        published_us=stamp_us,
        energy_mj=physics.published_energy_mj(moment.at_ns),
        memory_used_bytes=memory_used_bytes,
        event_reasons=event_reasons(profile, busy_ppm, power_instant_mw, limits),
        pcie_tx_bytes=pcie_bytes,
        pcie_rx_bytes=pcie_bytes,
        elapsed_ns=moment.elapsed_ns,
        busy_ppm_ns=now.busy_ppm_ns,
        power_average_mw=physics.average_power_mw(moment.at_ns),
        power_instant_mw=power_instant_mw,
        utilization_percent=_percent(busy_ppm),
        memory_utilization_percent=_percent(busy_ppm // 2),
        graphics_mhz=graphics_mhz,
        sm_mhz=graphics_mhz,
        memory_mhz=profile.memory_mhz if busy_ppm else profile.memory_idle_mhz,
        video_mhz=profile.video_mhz if busy_ppm else profile.video_idle_mhz,
        temperature_c=celsius,
        memory_temperature_c=round(celsius + (profile.memory_kelvin or 0.0)),
        pcie_tx_kbps=pcie_kbps,
        pcie_rx_kbps=pcie_kbps,
        performance_state=0 if busy_ppm else profile.idle_performance_state,
        process_count=len(processes),
        remapping_pending=int(health.pending_rows > 0),
        recovery_action=RESET_ACTION if health.pending_rows else 0,
        mig_enabled=int(instances is not None),
        sample_count=len(samples),
    )
    values.limited_ns[:] = health.limited_ns
    values.remapped_rows[:] = health.remapped
    for kind, counts in enumerate(health.ecc_errors):
        values.ecc_errors[kind][:] = counts
    if has_peers and profile.nvlink_count and instances is None:
        link_bytes = _traffic_bytes(profile.nvlink_bytes_per_second, now.busy_ppm_ns, limits)
        links = [link_bytes] * profile.nvlink_count + [0] * (MAX_NVLINKS - profile.nvlink_count)
        values.nvlink_tx_bytes[:] = links
        values.nvlink_rx_bytes[:] = links
    for slot, process in enumerate(processes):
        values.processes[slot] = _process(process, instances or (), stamp_us)
    for slot, instance in enumerate(instances or ()):
        held_bytes = sum(each.used_bytes for each in processes if each.instance == slot)
        values.instances[slot] = _instance(instance.at(moment.at_ns), held_bytes)
    for slot, sample in enumerate(samples):
        values.samples[slot] = SampleValues(
            sample.time_us, sample.power_mw, sample.utilization_percent
        )
    return values


def _process(
    process: ProcessLoad, instances: Sequence[MigInstance], stamp_us: int
) -> ProcessValues:
    share_ppm = parts_per_million(process.utilization_ratio)
    on = None if process.instance is None else instances[process.instance]
    return ProcessValues(
        pid=process.pid,
        sm_percent=_percent(share_ppm),
        memory_percent=_percent(share_ppm // 2),
        gpu_instance=NO_INSTANCE if on is None else on.gpu_instance,
        used_bytes=process.used_bytes,
        sampled_us=stamp_us,
        compute_instance=NO_INSTANCE if on is None else 0,
    )


def _instance(instance: MigInstance, held_bytes: int) -> InstanceValues:
    return InstanceValues(
        uuid=instance.uuid.encode(),
        profile=instance.profile.encode(),
        gpu_instance=instance.gpu_instance,
        compute_instance=0,
        compute_slices=instance.compute_slices,
        multiprocessors=instance.multiprocessors,
        memory_total_bytes=instance.memory_total_bytes,
        memory_used_bytes=held_bytes,
        busy_ppm_ns=instance.busy_ppm_ns,
    )


def _graphics_mhz(profile: Profile, busy_ppm: int, limits: Limits) -> int:
    if limits.thermal:
        return profile.graphics_mhz // 2
    if busy_ppm == 0:
        return profile.idle_mhz
    return profile.graphics_mhz * 4 // 5 if limits.power_cap else profile.graphics_mhz


def _traffic_bytes(bytes_per_second: int, busy_ppm_ns: int, limits: Limits) -> int:
    count = bytes_per_second * busy_ppm_ns // (PPM * NS_PER_SECOND)
    return count % WRAP_BYTES if limits.wraps else count


def _percent(utilization_ppm: int) -> int:
    return (utilization_ppm * 100 + PPM // 2) // PPM
