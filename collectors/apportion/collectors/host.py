"""The host's CPU as a device, for machines without a GPU: activity, energy, memory.

Inside a container the device is the container's share of the CPU: its use is measured against
its own quota, and energy and power are the host's times quota / CPUs. (A sidecar's quota is not
its workload's: there the quota must come from the configuration, not from this file.)
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from apportion.collectors.cgroup import Cgroup, container
from apportion.collectors.collector import WHOLE, Batch, DeviceSources
from apportion.collectors.options import CollectorOptions
from apportion.collectors.process import process_cpu_ns
from apportion.collectors.procfs import CpuTimes, ProcFs
from apportion.collectors.rapl import Rapl
from apportion.collectors.registry import BUILT_IN
from apportion.core.clock import Clock
from apportion.core.errors import CollectorError
from apportion.core.ids import DeviceId
from apportion.core.reading import DeviceInfo, Reading
from apportion.core.units import NS_PER_SECOND, Bytes, Millijoules, Milliwatts, MonotonicNs

DEVICE_NAME: Final = "Host CPU"
"""The key of price tables: one per host, at a price per host-hour."""


@dataclass(frozen=True, slots=True)
class _Mark:
    """The counters at the end of the last reading, where the next one starts."""

    time_ns: MonotonicNs
    busy: CpuTimes
    energy_mj: int | None


class HostCpu:
    """The `host` collector: one device, `cpu:<host>`. `set_pids` may be called by any thread."""

    def __init__(self, options: CollectorOptions, clock: Clock) -> None:
        self._clock = clock
        self._proc_root = options.proc_root
        self._sys_root = options.sys_root
        self._procfs = ProcFs(options.proc_root)
        self._device = DeviceId(f"cpu:{options.host_name or os.uname().nodename}")
        self._pids: frozenset[int] = frozenset()
        self._container: Cgroup | None = None
        self._share = WHOLE
        self._rapl: Rapl | None = None
        self._mark: _Mark | None = None
        self._told: DeviceSources | None = None

    @property
    def name(self) -> str:
        """See `Collector`."""
        return "host"

    @property
    def share(self) -> Fraction:
        """The part of the host's CPU that this container may use, 1 outside of one.

        The device's price per host-hour is multiplied by it. Known after `start`.
        """
        return self._share

    def set_pids(self, pids: Iterable[int]) -> None:
        """The processes whose CPU time the next readings report, by pids of our namespace."""
        self._pids = frozenset(pids)

    def start(self) -> None:
        """Find the quota and the energy counters, and begin the first period.

        Raises:
            CollectorError: procfs is not there or has another form.
        """
        self._container = container(self._sys_root)
        quota = None if self._container is None else self._container.cpus
        self._share = WHOLE if quota is None else min(WHOLE, quota / self._procfs.cpus())
        self._rapl = Rapl(self._sys_root)
        self._told = None
        self._mark = self._now()

    def collect(self) -> Batch:
        """One reading over the time since the last one.

        Raises:
            CollectorError: procfs is not there or has another form.
        """
        if self._mark is None:
            self.start()
        before, now = self._mark, self._now()
        self._mark = now
        busy_ratio = None if before is None else _busy_ratio(before.busy, now.busy)
        memory = self._memory()
        reading = Reading(
            device=self._device,
            time_ns=now.time_ns,
            energy_mj=None if now.energy_mj is None else Millijoules(now.energy_mj),
            energy_source=None if now.energy_mj is None else "rapl",
            power_mw=None if before is None else _power_mw(before, now),
            utilization_ratio=busy_ratio,
            activity_source=None if busy_ratio is None else self._activity_source(),
            memory_used_bytes=Bytes(memory[0]),
            memory_total_bytes=Bytes(memory[1]),
            cpu_ns_by_pid=self._cpu_ns_by_pid(),
        )
        sources = self._sources()
        if sources == self._told:
            return Batch(readings=(reading,))
        first, self._told = self._told is None, sources
        return Batch(
            readings=(reading,),
            devices=(self._info(memory[1]),) if first else (),
            sources=(sources,),
        )

    def close(self) -> None:
        """Nothing is held open; the next `collect` begins anew."""
        self._mark = None

    def _info(self, memory_total_bytes: int) -> DeviceInfo:
        return DeviceInfo(
            device=self._device,
            name=DEVICE_NAME,
            index=0,
            source="cpu",
            memory_total_bytes=Bytes(memory_total_bytes),
        )

    def _sources(self) -> DeviceSources:
        has_energy = self._rapl is not None and not self._rapl.reason
        return DeviceSources(
            device=self._device,
            energy_source="rapl" if has_energy else None,
            power_source="rapl" if has_energy else None,
            activity_source=self._activity_source(),
            unsupported=() if has_energy else ("energy", "power"),
            share=self._share,
            model=self._procfs.cpu_model(),
        )

    def _activity_source(self) -> str:
        return "cgroup" if self._share_is_ours() else "proc_stat"

    def _share_is_ours(self) -> bool:
        return self._container is not None and self._container.cpus is not None

    def _now(self) -> _Mark:
        """All counters at one time."""
        time_ns = self._clock.monotonic_ns()
        energy_mj = None if self._rapl is None else self._rapl.energy_mj()
        if energy_mj is not None:
            energy_mj = int(energy_mj * self._share)
        return _Mark(time_ns, self._times(time_ns), energy_mj)

    def _times(self, time_ns: int) -> CpuTimes:
        """Busy and possible CPU time: of the container where it has a quota, else of the host."""
        group = self._container
        if group is None or group.cpus is None:
            return self._procfs.cpu_times()
        used_ns = group.used_cpu_ns()
        if used_ns is None:
            raise CollectorError(
                f"{group.used_ns_file} has no CPU time, though the container has a quota"
            )
        return CpuTimes(used_ns, int(time_ns * group.cpus))

    def _memory(self) -> tuple[int, int]:
        """Bytes used and in total: the container's where it has a limit, else the host's."""
        host = self._procfs.memory()
        group = self._container
        if group is None or group.memory_limit_bytes is None:
            return host.used_bytes, host.total_bytes
        used = group.used_memory_bytes()
        total = min(group.memory_limit_bytes, host.total_bytes)
        return (host.used_bytes if used is None else used), total

    def _cpu_ns_by_pid(self) -> dict[int, int]:
        """CPU time of the given processes that still live."""
        times = ((pid, process_cpu_ns(pid, self._proc_root)) for pid in sorted(self._pids))
        return {pid: cpu_ns for pid, cpu_ns in times if cpu_ns is not None}


def _busy_ratio(before: CpuTimes, now: CpuTimes) -> float | None:
    """Busy over possible time; None where no tick passed. A quota may be overdrawn for a while."""
    possible_ns = now.total_ns - before.total_ns
    if possible_ns <= 0:
        return None
    return min(1.0, max(0.0, (now.busy_ns - before.busy_ns) / possible_ns))


def _power_mw(before: _Mark, now: _Mark) -> Milliwatts | None:
    """The mean power of the period."""
    elapsed_ns = now.time_ns - before.time_ns
    if before.energy_mj is None or now.energy_mj is None or elapsed_ns <= 0:
        return None
    grown_mj = max(0, now.energy_mj - before.energy_mj)
    return Milliwatts(grown_mj * NS_PER_SECOND // elapsed_ns)


@BUILT_IN.register("host", default=True)
def make_host(options: CollectorOptions, clock: Clock) -> HostCpu:
    """The host collector."""
    return HostCpu(options, clock)
