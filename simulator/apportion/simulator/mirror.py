"""Mirror mode: a device is as busy as the CPU is with given processes.

On a machine without a GPU the demo's trainer and server run on the CPU. Each is said to be on
some devices, and those devices then follow the CPU time that the kernel accounts to it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from apportion.core.units import NS_PER_SECOND
from apportion.simulator.publication import ProcessLoad

SAMPLE_PERIOD_NS: Final = 150_000_000
"""The kernel counts CPU time in steps of 10 ms: a shorter window would be mostly rounding. This
lets a controller that ticks each 100 ms sample at every second tick."""

# Positions in /proc/<pid>/stat after the command name, which ends at the last parenthesis.
_UTIME, _STIME, _START_TIME = 11, 12, 19


@dataclass(frozen=True, slots=True)
class _CpuTime:
    """What the kernel said of one process: its start (which tells a reused pid), its CPU time."""

    start_ticks: int
    cpu_ticks: int


class Mirror:
    """The loads of devices, from the CPU use of the processes said to be on them.

    Args:
        devices_of_pids: each process and the devices that it is on.
        cores: how many busy cores make a busy device; by default all that this process may use.
        proc_root: where procfs is mounted.
        ticks_per_second: the kernel's unit of CPU time.
        page_bytes: the kernel's unit of memory.
    """

    def __init__(
        self,
        devices_of_pids: Mapping[int, Sequence[int]],
        *,
        cores: float | None = None,
        proc_root: Path = Path("/proc"),
        ticks_per_second: int | None = None,
        page_bytes: int | None = None,
    ) -> None:
        self._devices_of_pids = {pid: tuple(devices) for pid, devices in devices_of_pids.items()}
        self._cores = len(os.sched_getaffinity(0)) if cores is None else cores
        if self._cores <= 0:
            raise ValueError(f"cores={cores}: a busy device needs a positive number of busy cores")
        self._proc_root = proc_root
        self._ticks_per_second = ticks_per_second or os.sysconf("SC_CLK_TCK")
        self._page_bytes = page_bytes or os.sysconf("SC_PAGE_SIZE")
        self._last_ns: int | None = None
        self._last: dict[int, _CpuTime] = {}

    @property
    def devices(self) -> frozenset[int]:
        """The devices that some process is said to be on."""
        return frozenset(device for devices in self._devices_of_pids.values() for device in devices)

    def sample(self, now_ns: int) -> dict[int, list[ProcessLoad]] | None:
        """The processes of each mirrored device and their shares since the last sample.

        A process that has ended, or whose pid now belongs to another, is no longer listed. The
        shares on one device never add up to more than 1. None: too soon after the last sample.
        """
        if self._last_ns is not None and now_ns - self._last_ns < SAMPLE_PERIOD_NS:
            return None
        elapsed_ns = 0 if self._last_ns is None else now_ns - self._last_ns
        loads: dict[int, list[ProcessLoad]] = {device: [] for device in sorted(self.devices)}
        seen: dict[int, _CpuTime] = {}
        for pid, devices in self._devices_of_pids.items():
            current = self._read_cpu_time(pid)
            before = self._last.get(pid)
            if current is None or (before and before.start_ticks != current.start_ticks):
                continue
            if before is None and self._last_ns is not None:
                continue  # it was gone once: whoever has its pid now is somebody else
            seen[pid] = current
            load = ProcessLoad(
                pid, self._read_resident_bytes(pid), self._ratio(before, current, elapsed_ns)
            )
            for device in devices:
                loads[device].append(load)
        self._last_ns, self._last = now_ns, seen
        return {device: _capped(processes) for device, processes in loads.items()}

    def _ratio(self, before: _CpuTime | None, current: _CpuTime, elapsed_ns: int) -> float:
        if before is None or elapsed_ns <= 0:
            return 0.0
        cpu_ns = (current.cpu_ticks - before.cpu_ticks) * NS_PER_SECOND / self._ticks_per_second
        return min(1.0, max(0.0, cpu_ns / (elapsed_ns * self._cores)))

    def _read_cpu_time(self, pid: int) -> _CpuTime | None:
        try:
            text = (self._proc_root / str(pid) / "stat").read_text(errors="replace")
        except OSError:
            return None
        fields = text.rpartition(")")[2].split()
        if len(fields) <= _START_TIME or fields[0] in {"Z", "X"}:
            return None
        return _CpuTime(
            start_ticks=int(fields[_START_TIME]),
            cpu_ticks=int(fields[_UTIME]) + int(fields[_STIME]),
        )

    def _read_resident_bytes(self, pid: int) -> int:
        try:
            text = (self._proc_root / str(pid) / "statm").read_text()
        except OSError:
            return 0
        fields = text.split()
        return int(fields[1]) * self._page_bytes if len(fields) > 1 else 0


def _capped(processes: Sequence[ProcessLoad]) -> list[ProcessLoad]:
    """The same processes, with their shares scaled down where together they exceed the device."""
    total = sum(process.utilization_ratio for process in processes)
    if total <= 1.0:
        return list(processes)
    return [
        ProcessLoad(process.pid, process.used_bytes, process.utilization_ratio / total)
        for process in processes
    ]
