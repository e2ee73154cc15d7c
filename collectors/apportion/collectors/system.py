"""The host's CPU, memory, disks and pressure, and the limits of the container it may be read in.

Beside the devices: a trainer that waits for data shows here why.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from apportion.collectors.cgroup import container
from apportion.collectors.collector import Batch
from apportion.collectors.options import CollectorOptions
from apportion.collectors.procfs import ProcFs
from apportion.collectors.registry import BUILT_IN
from apportion.collectors.sysfs import text_in
from apportion.core.clock import Clock
from apportion.core.family import Family
from apportion.core.sample import Sample

FAMILIES: Final[tuple[Family, ...]] = (
    Family(
        "apportion_host_cpu_seconds_total",
        "counter",
        "seconds",
        ("mode",),
        "CPU time of the host, all CPUs together.",
        "procfs",
    ),
    Family(
        "apportion_host_memory_size_bytes", "gauge", "bytes", (), "Memory of the host.", "procfs"
    ),
    Family(
        "apportion_host_memory_used_bytes",
        "gauge",
        "bytes",
        (),
        "Memory that no program could get without swapping.",
        "procfs",
    ),
    Family(
        "apportion_host_pressure_seconds_total",
        "counter",
        "seconds",
        ("resource", "stall"),
        "Time in which some task, or all of them at once, waited for the resource.",
        "procfs",
    ),
    Family(
        "apportion_host_disk_bytes_total",
        "counter",
        "bytes",
        ("disk", "direction"),
        "Traffic of whole disks.",
        "procfs",
    ),
    Family(
        "apportion_container_cpu_limit_cpus",
        "gauge",
        "cpus",
        (),
        "The CPU quota of the agent's container. Absent where it has no quota.",
        "cgroup",
    ),
    Family(
        "apportion_container_memory_limit_bytes",
        "gauge",
        "bytes",
        (),
        "The memory limit of the agent's container. Absent where it has no limit.",
        "cgroup",
    ),
    Family(
        "apportion_container_cpu_throttled_seconds_total",
        "counter",
        "seconds",
        (),
        "Time in which tasks of the agent's container waited for their quota.",
        "cgroup",
    ),
)

MOST_DISKS: Final = 64
_SECTOR_BYTES: Final = 512
"""Of /proc/diskstats, whatever the disk's own sectors are."""
_READ_SECTORS, _WRITTEN_SECTORS = 5, 9
_MODES: Final = (("user", (0, 1)), ("system", (2, 5, 6)), ("idle", (3,)), ("iowait", (4,)))
"""Places in the first line of /proc/stat: niced programs are user time, interrupts system time."""
_STEAL: Final = 7
_PRESSURE: Final = re.compile(r"^(some|full) .*total=(\d+)$", re.ASCII | re.MULTILINE)
_MICROSECONDS: Final = 1e6


class System:
    """The `system` collector."""

    def __init__(self, options: CollectorOptions) -> None:
        self._proc_root, self._sys_root = options.proc_root, options.sys_root

    @property
    def name(self) -> str:
        """See `Collector`."""
        return "system"

    def start(self) -> None:
        """Nothing is held open."""

    def collect(self) -> Batch:
        """Everything as it is now.

        Raises:
            CollectorError: procfs is not there or has another form.
        """
        procfs = ProcFs(self._proc_root)
        memory = procfs.memory()
        samples = [
            *_cpu(procfs),
            Sample("host_memory_size_bytes", memory.total_bytes),
            Sample("host_memory_used_bytes", memory.used_bytes),
            *_pressure(self._proc_root),
            *_disks(self._proc_root, self._sys_root),
            *_limits(self._sys_root),
        ]
        return Batch(samples=tuple(samples))

    def close(self) -> None:
        """Nothing is held open."""


def _cpu(procfs: ProcFs) -> Iterator[Sample]:
    ticks, per_second = procfs.cpu_ticks(), os.sysconf("SC_CLK_TCK")
    for mode, places in (*_MODES, ("steal", (_STEAL,))):
        seconds = sum(ticks[place] for place in places) / per_second
        yield Sample("host_cpu_seconds_total", seconds, (("mode", mode),))


def _pressure(proc_root: Path) -> Iterator[Sample]:
    """What a kernel built with PSI tells; none where it was not."""
    for resource in ("cpu", "memory", "io"):
        for stall, total in _PRESSURE.findall(text_in(proc_root / "pressure" / resource) or ""):
            labels = (("resource", resource), ("stall", stall))
            yield Sample("host_pressure_seconds_total", int(total) / _MICROSECONDS, labels)


def _disks(proc_root: Path, sys_root: Path) -> Iterator[Sample]:
    """Disks that hardware is behind: not their partitions, nor what is stacked on them."""
    whole = {path.parent.name for path in (sys_root / "block").glob("*/device")}
    shown = 0
    for line in (text_in(proc_root / "diskstats") or "").splitlines():
        words = line.split()
        if len(words) <= _WRITTEN_SECTORS or words[2] not in whole or shown == MOST_DISKS:
            continue
        shown += 1
        for direction, place in (("read", _READ_SECTORS), ("write", _WRITTEN_SECTORS)):
            if words[place].isdecimal():
                labels = (("disk", words[2]), ("direction", direction))
                count = int(words[place]) * _SECTOR_BYTES
                yield Sample("host_disk_bytes_total", count, labels)


def _limits(sys_root: Path) -> Iterator[Sample]:
    group = container(sys_root)
    if group is None:
        return
    if group.cpus is not None:
        yield Sample("container_cpu_limit_cpus", float(group.cpus))
    if group.memory_limit_bytes is not None:
        yield Sample("container_memory_limit_bytes", group.memory_limit_bytes)
    throttled_ns = group.throttled_cpu_ns()
    if throttled_ns is not None:
        yield Sample("container_cpu_throttled_seconds_total", throttled_ns / 1e9)


@BUILT_IN.register("system", default=True, devices=False)
def make_system(options: CollectorOptions, clock: Clock) -> System:
    """The system collector."""
    del clock
    return System(options)
