"""What the launchers of a process say of its job: which run it is, and how often it restarted.

Of the environment only the variables named here are read. A job that several launchers started
(Slurm, in it torchrun) was restarted as often as all of them say together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

RESTART_COUNTS: Final = (
    "JOBSET_RESTART_ATTEMPT",
    "SLURM_RESTART_COUNT",
    "TORCHELASTIC_RESTART_COUNT",
)
"""Each launcher's own count of restarts, the outermost launcher first."""
_NAMELESS: Final = "none"
"""The run id of a torchrun without --rdzv-id."""
_LONGEST_COUNT: Final = 9
_KUBEFLOW_HEADS: Final = ("-master-0", "-worker-0")


def run_of_launcher(environ: Mapping[str, str], host: str) -> str | None:
    """The run that a launcher names; None where nobody does. `host` is this host's name."""
    run = environ.get("TORCHELASTIC_RUN_ID")
    return (
        (run if run != _NAMELESS else None)
        or environ.get("JOBSET_NAME")
        or _slurm_job(environ)
        or _kubernetes_job(environ, host)
        or _ray_job(environ)
    )


def attempt_of_launcher(environ: Mapping[str, str]) -> str | None:
    """Which execution of its run this is, as text; None where no launcher counts.

    The counts from the outermost launcher in, joined by dots: a requeued Slurm job whose torchrun
    restarted once is `1.1`, and no attempt of it has the name of another. Each `srun` of a Slurm
    job is an execution of its own.
    """
    slurm = "SLURM_JOB_ID" in environ
    parts: list[int] = []
    for name in RESTART_COUNTS:
        count = _number(environ, name)
        if name == "SLURM_RESTART_COUNT" and slurm:
            step = _number(environ, "SLURM_STEP_ID")
            parts += [count or 0, *([] if step is None else [step])]
        elif count is not None:
            parts.append(count)
    return ".".join(map(str, parts)) or None


def restarts_of_launcher(environ: Mapping[str, str]) -> int | None:
    """How often the launchers restarted this run, as they count; None where none does."""
    counts = [_number(environ, name) for name in RESTART_COUNTS]
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _number(environ: Mapping[str, str], name: str) -> int | None:
    text = environ.get(name, "")
    # Slurm numbers what is no srun (a batch script) from 2^32 down.
    is_number = text.isascii() and text.isdigit() and len(text) <= _LONGEST_COUNT
    return int(text) if is_number else None


def _slurm_job(environ: Mapping[str, str]) -> str | None:
    """As squeue shows it: a task of an array is `<array>_<task>`, requeued or not."""
    array, task = environ.get("SLURM_ARRAY_JOB_ID"), environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else environ.get("SLURM_JOB_ID")


def _kubernetes_job(environ: Mapping[str, str], host: str) -> str | None:
    """The owner of the pod, by the names that controllers give to pods.

    A pod of an indexed Job is called `<job>-<index>`; one of Kubeflow's finds its first replica
    at `<job>-master-0` or `<job>-worker-0`.
    """
    index = environ.get("JOB_COMPLETION_INDEX")
    if index and host.endswith(f"-{index}"):
        return host.removesuffix(f"-{index}") or None
    head = environ.get("MASTER_ADDR", "").partition(".")[0]
    for ending in _KUBEFLOW_HEADS:
        if head.endswith(ending):
            return head.removesuffix(ending) or None
    return None


def _ray_job(environ: Mapping[str, str]) -> str | None:
    """Ray numbers jobs within a cluster, so the cluster's name goes before where it has one."""
    job, cluster = environ.get("RAY_JOB_ID"), environ.get("RAY_CLUSTER_NAME")
    return f"{cluster}/{job}" if job and cluster else job
