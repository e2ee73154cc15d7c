"""The CPU quota and the use of the container that this process runs in, if any."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Final

_NS_PER_MICROSECOND: Final = 1_000
_UNLIMITED: Final = 1 << 60
"""cgroup v1 writes a number near 2^63 where there is no memory limit."""


@dataclass(frozen=True, slots=True)
class Cgroup:
    """What a container may use: `cpus` is a number of CPUs. None where there is no limit."""

    cpus: Fraction | None
    memory_limit_bytes: int | None
    used_ns_file: Path | None
    used_bytes_file: Path | None

    def used_cpu_ns(self) -> int | None:
        """CPU time of the whole container so far."""
        if self.used_ns_file is None:
            return None
        text = _text(self.used_ns_file)
        if self.used_ns_file.name != "cpu.stat":
            return int(text) if text.isdecimal() else None
        return _microseconds(text, "usage_usec")

    def throttled_cpu_ns(self) -> int | None:
        """Time that its tasks have waited for their quota; None where it has none or is v1."""
        if self.cpus is None or self.used_ns_file is None or self.used_ns_file.name != "cpu.stat":
            return None
        return _microseconds(_text(self.used_ns_file), "throttled_usec")

    def used_memory_bytes(self) -> int | None:
        """Memory charged to the container."""
        text = "" if self.used_bytes_file is None else _text(self.used_bytes_file)
        return int(text) if text.isdecimal() else None


def container(sys_root: Path) -> Cgroup | None:
    """The container's cgroup, v2 or v1; None outside of one.

    Inside a container the root of the cgroup file system is the container's own group and has
    its limits. The real root has none, so a quota that systemd puts on the agent's service on
    a bare host, which says nothing about the workloads, is not mistaken for one.
    """
    root = sys_root / "fs/cgroup"
    if (root / "cpu.max").exists():
        return Cgroup(
            cpus=_quota(_text(root / "cpu.max").split()),
            memory_limit_bytes=_limit(_text(root / "memory.max")),
            used_ns_file=root / "cpu.stat",
            used_bytes_file=root / "memory.current",
        )
    cpu = root / "cpu"
    quota = _quota([_text(cpu / "cpu.cfs_quota_us"), _text(cpu / "cpu.cfs_period_us")])
    if quota is None:
        return None
    return Cgroup(
        cpus=quota,
        memory_limit_bytes=_limit(_text(root / "memory/memory.limit_in_bytes")),
        used_ns_file=root / "cpuacct/cpuacct.usage",
        used_bytes_file=root / "memory/memory.usage_in_bytes",
    )


def _quota(words: list[str]) -> Fraction | None:
    """Quota and period in microseconds to CPUs; `max` and -1 mean no quota."""
    if len(words) != 2 or not all(word.isdecimal() for word in words) or int(words[1]) == 0:
        return None
    return Fraction(int(words[0]), int(words[1])) or None


def _microseconds(text: str, name: str) -> int | None:
    """The nanoseconds of one line of cpu.stat."""
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.strip().isdecimal():
            return int(value) * _NS_PER_MICROSECOND
    return None


def _limit(text: str) -> int | None:
    return int(text) if text.isdecimal() and int(text) < _UNLIMITED else None


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
