"""How much of a time each thread of a process ran: what a sampler that leaves out waiting sees."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_USER, _SYSTEM = 11, 12
"""Fields of `stat` behind the name (proc(5): utime and stime, in clock ticks)."""


@dataclass(frozen=True, slots=True)
class ThreadActivity:
    """CPU time by thread, by the thread's id in the process's own namespace; seconds."""

    used_s: Mapping[str, float]

    @classmethod
    def of(cls, pid: int, proc_root: Path) -> ThreadActivity:
        """Now. Threads that end meanwhile, or that may not be looked at, are left out."""
        used_s: dict[str, float] = {}
        tick_s = 1 / os.sysconf("SC_CLK_TCK")
        with suppress(OSError):
            for task in (proc_root / str(pid) / "task").iterdir():
                with suppress(OSError, ValueError, IndexError):
                    fields = (task / "stat").read_text().rpartition(")")[2].split()
                    ticks = int(fields[_USER]) + int(fields[_SYSTEM])
                    used_s[_own_id(task)] = ticks * tick_s
        return cls(used_s)

    def shares(self, before: ThreadActivity, elapsed_s: float) -> dict[str, float]:
        """Of the time since `before`, up to 1; threads that are no more are not in it."""
        return {
            thread: min(1.0, max(0.0, used_s - before.used_s.get(thread, 0.0)) / elapsed_s)
            for thread, used_s in self.used_s.items()
        }


def _own_id(task: Path) -> str:
    """The id that the process itself knows: the innermost one, where pid namespaces differ."""
    for line in (task / "status").read_text().splitlines():
        if line.startswith("NSpid:"):
            return line.split()[-1]
    return task.name
