"""What a process of the agent itself costs: its CPU time and resident memory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from apportion.core.units import NS_PER_SECOND

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")
_UTIME_FIELD: Final = 11
"""Of /proc/PID/stat, counted after the command's closing bracket; `stime` follows it."""


@dataclass(frozen=True, slots=True)
class ProcessUsage:
    """`name` is the process's part (`agent`, `nvml`); CPU time counts from its start."""

    name: str
    cpu_ns: int
    resident_bytes: int

    @classmethod
    def read(cls, name: str, pid: int, proc_root: Path) -> ProcessUsage | None:
        """The process `pid` as procfs shows it; None where it is gone or hidden."""
        folder = proc_root / str(pid)
        try:
            stat = (folder / "stat").read_text(encoding="ascii", errors="replace")
            pages = int((folder / "statm").read_text(encoding="ascii").split()[1])
            fields = stat.rpartition(")")[2].split()
            ticks = int(fields[_UTIME_FIELD]) + int(fields[_UTIME_FIELD + 1])
        except (OSError, ValueError, IndexError):
            return None
        return cls(name, ticks * NS_PER_SECOND // _TICKS_PER_SECOND, pages * _PAGE_BYTES)
