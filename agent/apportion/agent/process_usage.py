"""What a process of the agent itself costs: its CPU time and resident memory."""

from __future__ import annotations

from dataclasses import dataclass, replace

import psutil

from apportion.core.units import NS_PER_SECOND


@dataclass(frozen=True, slots=True)
class ProcessUsage:
    """`name` is the process's part (`agent`, `nvml`). `cpu_ns` counts from its start."""

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


class UsageByPart:
    """Usage of the agent's parts, whose CPU time goes on when a part's process is replaced."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[int, int]] = {}
        """By part: the process and its CPU time when it was last read."""
        self._before_ns: dict[str, int] = {}
        """By part: the CPU time of the processes before that one."""

    def read(self, name: str, pid: int) -> ProcessUsage | None:
        """A part that `pid` is now; None where that process is gone."""
        usage = ProcessUsage.read(name, pid)
        return None if usage is None else self.of(usage, pid)

    def of(self, usage: ProcessUsage, pid: int) -> ProcessUsage:
        """The part's usage, given that of its process."""
        last_pid, last_ns = self._last.get(usage.name, (pid, 0))
        if pid != last_pid or usage.cpu_ns < last_ns:
            self._before_ns[usage.name] = self._before_ns.get(usage.name, 0) + last_ns
        self._last[usage.name] = (pid, usage.cpu_ns)
        return replace(usage, cpu_ns=self._before_ns.get(usage.name, 0) + usage.cpu_ns)
