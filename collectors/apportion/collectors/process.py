"""Facts about one process from procfs: its start, its CPU time, its pids in each namespace."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

from apportion.core.units import NS_PER_SECOND, MonotonicNs, Nanoseconds

PROC: Final = Path("/proc")
_USER_TICKS, _SYSTEM_TICKS, _START_TICKS = 11, 12, 19
"""Places in /proc/PID/stat counted from the state, the first field after the name."""


def process_start_ns(
    pid: int, proc_root: Path = PROC, *, suspended_ns: int | None = None
) -> MonotonicNs | None:
    """When `pid` started, host monotonic; None where there is no such process.

    The kernel counts from boot in ticks (10 ms as a rule) and includes the time that the host
    was suspended, which the monotonic clock leaves out: `suspended_ns`, measured where None.
    """
    fields = _stat(pid, proc_root)
    if fields is None:
        return None
    if suspended_ns is None:
        suspended_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()
    since_boot_ns = _ticks_ns(fields[_START_TICKS])
    return MonotonicNs(since_boot_ns - suspended_ns)


def process_cpu_ns(pid: int, proc_root: Path = PROC) -> Nanoseconds | None:
    """CPU time of all threads of `pid` so far, in ticks' resolution; None where it is gone."""
    fields = _stat(pid, proc_root)
    if fields is None:
        return None
    return Nanoseconds(_ticks_ns(fields[_USER_TICKS]) + _ticks_ns(fields[_SYSTEM_TICKS]))


def namespace_pids(pid: int, proc_root: Path = PROC) -> tuple[int, ...]:
    """The pids of one process from our pid namespace to its innermost; empty where it is gone.

    With them a pid that NVML reports on the host meets the pid that a container knows.
    """
    try:
        text = (proc_root / str(pid) / "status").read_text(errors="replace")
    except OSError:
        return ()
    for line in text.splitlines():
        if line.startswith("NSpid:"):
            return tuple(int(word) for word in line.split()[1:] if word.isdecimal())
    return ()


def _stat(pid: int, proc_root: Path) -> list[str] | None:
    """The fields after the command's name, which may hold spaces and parentheses itself."""
    try:
        text = (proc_root / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        # A process that ends while its file is read gives ESRCH rather than ENOENT.
        return None
    fields = text.rpartition(")")[2].split()
    return fields if len(fields) > _START_TICKS else None


def _ticks_ns(ticks: str) -> int:
    return int(ticks) * NS_PER_SECOND // os.sysconf("SC_CLK_TCK")
