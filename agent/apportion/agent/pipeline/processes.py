"""What procfs says of a process that binding needs: its parent, its job, its owner."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from apportion.collectors.process_owner import process_owner

_PARENT_FIELD: Final = 1
_GROUP_FIELD: Final = 2
"""Of /proc/PID/stat, counted after the command's closing bracket."""


@dataclass(frozen=True, slots=True)
class Processes:
    """Reads `proc_root` at every question: pids are reused, so nothing is remembered."""

    proc_root: Path = Path("/proc")

    def parent_of(self, pid: int) -> int | None:
        """Its parent's pid; None where the process is gone or hidden."""
        return self._stat(pid, _PARENT_FIELD)

    def job_of(self, pid: int) -> int | None:
        """Its process group; None where the process is gone or hidden."""
        return self._stat(pid, _GROUP_FIELD)

    def uid_of(self, pid: int) -> int | None:
        """Who owns it; None where the process is gone or hidden."""
        try:
            return (self.proc_root / str(pid)).stat().st_uid
        except OSError:
            return None

    def owner_of(self, pid: int) -> str | None:
        """Its pod or Slurm job, else its user; None where the process is gone or hidden."""
        owner = process_owner(pid, self.proc_root)
        if owner is not None:
            return owner
        uid = self.uid_of(pid)
        return None if uid is None else f"uid:{uid}"

    def _stat(self, pid: int, field: int) -> int | None:
        try:
            text = (self.proc_root / str(pid) / "stat").read_text(errors="replace")
            return int(text.rpartition(")")[2].split()[field])
        except (OSError, ValueError, IndexError):
            return None
