"""The host's CPU and memory from procfs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from apportion.core.errors import CollectorError
from apportion.core.units import NS_PER_SECOND

_BYTES_PER_KB: Final = 1024
_MODEL_KEYS: Final = ("model name", "Hardware", "Model", "cpu model")
"""Where x86, Arm, and others put the name."""


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """Cumulative times of all CPUs together. What the hypervisor took is not busy time."""

    busy_ns: int
    total_ns: int


@dataclass(frozen=True, slots=True)
class Memory:
    """The host's memory; `used_bytes` is what no program could get without swapping."""

    used_bytes: int
    total_bytes: int


class ProcFs:
    """A procfs at `root`, the real one or a fixture."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def cpu_times(self) -> CpuTimes:
        """Busy and all time of all CPUs together.

        Raises:
            CollectorError: the file is unreadable or has another form.
        """
        user, nice, system, idle, io_wait, hard, soft, steal = self.cpu_ticks()
        busy = user + nice + system + hard + soft
        tick_ns = NS_PER_SECOND // os.sysconf("SC_CLK_TCK")
        return CpuTimes(busy * tick_ns, (busy + idle + io_wait + steal) * tick_ns)

    def cpu_ticks(self) -> tuple[int, ...]:
        """Ticks in user, nice, system, idle, iowait, irq, softirq and steal, in this order.

        They are the first line of /proc/stat: guests' time is in the user time already.

        Raises:
            CollectorError: the file is unreadable or has another form.
        """
        path = self._root / "stat"
        words = _read(path).partition("\n")[0].split()
        if len(words) < 9 or words[0] != "cpu" or not all(word.isdecimal() for word in words[1:]):
            raise CollectorError(f"{path}: the first line is not the sum of all CPUs' times")
        return tuple(int(word) for word in words[1:9])

    def memory(self) -> Memory:
        """Total less available.

        Raises:
            CollectorError: the file is unreadable or lacks one of the two.
        """
        path = self._root / "meminfo"
        sizes: dict[str, int] = {}
        for line in _read(path).splitlines():
            key, _, rest = line.partition(":")
            words = rest.split()
            if words and words[0].isdecimal():
                sizes[key] = int(words[0]) * _BYTES_PER_KB
        if "MemTotal" not in sizes or "MemAvailable" not in sizes:
            raise CollectorError(f"{path}: MemTotal and MemAvailable are needed")
        total = sizes["MemTotal"]
        return Memory(max(0, total - sizes["MemAvailable"]), total)

    def cpu_model(self) -> str | None:
        """The processor's name; None where the kernel does not tell."""
        try:
            text = (self._root / "cpuinfo").read_text(errors="replace")
        except OSError:
            return None
        for line in text.splitlines():
            key, _, value = line.partition(":")
            if key.strip() in _MODEL_KEYS and value.strip():
                return value.strip()
        return None

    def cpus(self) -> int:
        """Logical CPUs that are online.

        Raises:
            CollectorError: /proc/stat lists none.
        """
        path = self._root / "stat"
        count = sum(
            line.startswith("cpu") and line[3:4].isdigit() for line in _read(path).splitlines()
        )
        if count == 0:
            raise CollectorError(f"{path}: it lists no CPU")
        return count


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError as error:
        raise CollectorError(f"{path} cannot be read: {error.strerror}") from error
