"""What /proc says about this process: enough to tell it from another one with its number."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")


class Process(NamedTuple):
    """A process as the ring's header names it. Unknown is 0."""

    pid: int
    """In this process's own pid namespace."""
    boot_id: bytes
    """16 bytes."""
    start_ticks: int
    """Clock ticks from boot to its start, as in /proc/<pid>/stat."""
    start_ns: int
    """Its start on the monotonic clock."""


def start_ticks(pid: int, proc: Path = PROC) -> int:
    """Field 22 of /proc/<pid>/stat, or 0 where that cannot be read."""
    try:
        # The command in field 2 may hold spaces and parentheses: count from its last one.
        fields = (proc / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
        return int(fields[19])
    except (OSError, IndexError, ValueError):
        return 0


def _boot_id(proc: Path) -> bytes:
    try:
        text = (proc / "sys/kernel/random/boot_id").read_text("ascii").strip()
        found = bytes.fromhex(text.replace("-", ""))
    except (OSError, ValueError):
        return bytes(16)
    return found if len(found) == 16 else bytes(16)


def read_process(proc: Path = PROC) -> Process:
    """Facts of the calling process, which cost a few system calls: not for a hot path."""
    pid = os.getpid()
    ticks = start_ticks(pid, proc)
    start_ns = 0
    if ticks:
        # Ticks count from boot and go on while the machine sleeps, the monotonic clock does not.
        asleep_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()
        start_ns = max(0, ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK") - asleep_ns)
    return Process(pid, _boot_id(proc), ticks, start_ns)
