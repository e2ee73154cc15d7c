"""py-spy on real processes: what it finds, and what is said where it cannot."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from apportion.core.errors import ProfilerError
from apportion.profiles.py_spy import Burst, PySpy

SHORT = Burst(duration_s=1, rate_hz=50)


def fake(tmp_path: Path, said: str, status: int = 1) -> str:
    """A program in py-spy's place that says something and ends."""
    path = tmp_path / "py-spy"
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{said}\nEND\nexit {status}\n")
    path.chmod(0o755)
    return str(path)


def test_a_process_at_work_is_sampled(worker: int) -> None:
    """Samples by thread and function, and what py-spy itself cost."""
    found = PySpy().record(worker, SHORT)

    names = {name for index in range(len(found.stacks)) for name in found.stacks.stack(index)}
    assert any(name.startswith("busy (") for name in names)
    assert any(name.startswith(f"thread ({worker})") for name in names)
    assert found.samples == found.stacks.total(0) > 0
    assert found.cpu_s >= 0


@pytest.mark.parametrize(
    ("said", "reason", "remedy"),
    [
        ("Permission Denied: Try running again with elevated permissions", "ptrace", "SYS_PTRACE"),
        ("Error: Operation not permitted (os error 1)", "ptrace", "shareProcessNamespace"),
        (
            "Error: Failed to find python version from target process",
            "not_python",
            "upgrade py-spy",
        ),
        ("Error: something else\\n\\nStack backtrace:", "failed", "Error: something else"),
    ],
)
def test_refusals_have_their_remedy(tmp_path: Path, said: str, reason: str, remedy: str) -> None:
    """What py-spy says in its way is said with what to do about it."""
    with pytest.raises(ProfilerError, match=remedy) as raised:
        PySpy(fake(tmp_path, said)).record(os.getpid(), SHORT)

    assert raised.value.reason == reason


def test_no_python_process_is_said() -> None:
    """The real py-spy on a process that is no Python."""
    process = subprocess.Popen(["sleep", "60"])
    try:
        with pytest.raises(ProfilerError, match="is no Python process"):
            PySpy().record(process.pid, SHORT)
    finally:
        process.kill()
        process.wait()


def test_what_is_gone_missing_or_too_large_is_said(tmp_path: Path) -> None:
    """Before anything is started: the process, its threads; then the program itself."""
    tasks = tmp_path / "5" / "task"
    for number in range(3):
        (tasks / str(number)).mkdir(parents=True)

    with pytest.raises(ProfilerError, match="process 6 is not there"):
        PySpy(proc_root=tmp_path).record(6, SHORT)
    with pytest.raises(ProfilerError, match="has 3 threads"):
        PySpy(proc_root=tmp_path).record(5, Burst(max_threads=2))
    with pytest.raises(ProfilerError, match="pip install") as raised:
        PySpy(str(tmp_path / "none"), tmp_path).record(5, SHORT)
    assert raised.value.reason == "missing"


def test_an_idle_process_is_no_empty_profile(tmp_path: Path) -> None:
    """Nothing seen is an answer with a remedy, not a file without stacks."""
    program = fake(tmp_path, "Wrote raw flamegraph data to 'x'. Samples: 0 Errors: 0", status=0)

    with pytest.raises(ProfilerError, match="--idle") as raised:
        PySpy(program).record(os.getpid(), SHORT)
    assert raised.value.reason == "idle"


def test_the_profiler_is_held_to_its_budget(tmp_path: Path) -> None:
    """A profiler that burns CPU is ended by the kernel after its budget, and that is said."""
    path = tmp_path / "py-spy"
    path.write_text("#!/bin/sh\nwhile :; do :; done\n")
    path.chmod(0o755)

    with pytest.raises(ProfilerError, match="used more than 20% of a CPU") as raised:
        PySpy(str(path)).record(os.getpid(), Burst(duration_s=5, cpu_budget=0.2))
    assert raised.value.reason == "budget"
