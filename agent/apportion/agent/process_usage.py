"""What a process of the agent itself costs: its CPU time and resident memory."""

from __future__ import annotations

from dataclasses import dataclass

import psutil

from apportion.core.units import NS_PER_SECOND


@dataclass(frozen=True, slots=True)
class ProcessUsage:
    """`name` is the process's part (`agent`, `nvml`); CPU time counts from its start."""

    name: str
    cpu_ns: int
    resident_bytes: int

    @classmethod
    def read(cls, name: str, pid: int) -> ProcessUsage | None:
        """The agent's process `pid`, in the agent's own pid namespace; None where it is gone."""
        try:
            process = psutil.Process(pid)
            with process.oneshot():
                times, memory = process.cpu_times(), process.memory_info()
        except psutil.Error:
            return None
        return cls(name, round((times.user + times.system) * NS_PER_SECOND), memory.rss)
