"""Whose a process is, by its control group: a pod, a Slurm job, or nobody known."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

_POD: Final = re.compile(
    r"pod([0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12}|[0-9a-f]{32})",
    re.ASCII,
)
"""`/kubepods/burstable/pod<uid>/...` (cgroupfs) or `...-pod<uid with underscores>.slice` (systemd);
a static pod's uid is the hash of its file, without hyphens."""
_SLURM: Final = re.compile(r"/job_(\d+)(?:/|$)", re.ASCII)
"""`/slurm/uid_1000/job_7/step_0` (v1) or `/system.slice/slurmstepd.scope/job_7/step_0` (v2)."""


def process_owner(pid: int, proc_root: Path) -> str | None:
    """`pod:UID` or `slurm:JOB` of a process; None where it is in neither, or gone.

    Only names that the container runtime or Slurm gave are read: nothing of the command, nothing
    of the environment.
    """
    try:
        text = (proc_root / str(pid) / "cgroup").read_text(errors="replace")
    except OSError:
        return None
    pod = _POD.search(text)
    if pod is not None:
        return f"pod:{pod[1].replace('_', '-')}"
    job = _SLURM.search(text)
    return None if job is None or "slurm" not in text else f"slurm:{job[1]}"
