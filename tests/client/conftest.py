"""Each test has a client of its own: no ring, no names and no counts of another's."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from apportion import client
from apportion.client import layout
from apportion.client.counting import forget_counts
from apportion.client.id_hashing import hashed_ids
from apportion.client.nesting import in_context
from apportion.client.session import session
from apportion.client.surroundings import surroundings

VARIABLES = (
    "APPORTION_ATTEMPT",
    "APPORTION_FLOPS_PER_TOKEN",
    "APPORTION_HASHED_IDS",
    "APPORTION_ID_KEY_FILE",
    "APPORTION_PARAMETERS",
    "APPORTION_RING_DIR",
    "APPORTION_RUN",
    "APPORTION_WORKLOAD",
    "CUDA_VISIBLE_DEVICES",
    "JOBSET_NAME",
    "JOBSET_RESTART_ATTEMPT",
    "JOB_COMPLETION_INDEX",
    "LOCAL_RANK",
    "MASTER_ADDR",
    "NVIDIA_VISIBLE_DEVICES",
    "RANK",
    "RAY_CLUSTER_NAME",
    "RAY_JOB_ID",
    "SLURM_ARRAY_JOB_ID",
    "SLURM_ARRAY_TASK_ID",
    "SLURM_JOB_ID",
    "SLURM_PROCID",
    "SLURM_RESTART_COUNT",
    "SLURM_STEP_ID",
    "TORCHELASTIC_RESTART_COUNT",
    "TORCHELASTIC_RUN_ID",
    "WORLD_SIZE",
    "XDG_RUNTIME_DIR",
)
CAPACITY = 256

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(autouse=True)
def own_client(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Nothing of the caller's environment, and nothing left of the last test."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    session.forget()
    hashed_ids.configure({})
    in_context.set(None)
    surroundings.__init__()  # type: ignore[misc] # as new
    surroundings.devices = True  # whatever is in this machine
    yield
    session.forget()
    hashed_ids.configure({})
    session.__init__()  # type: ignore[misc] # the one session of the process, as new
    forget_counts()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A ring directory that the client of this test writes."""
    path = tmp_path / "rings"
    path.mkdir()
    client.init(workload="test", run="run", attempt="1", directory=path, capacity=CAPACITY)
    return path


@pytest.fixture
def no_directory(tmp_path: Path) -> Path:
    """A ring directory that does not exist, for a client that can make no ring."""
    path = tmp_path / "missing"
    client.init(workload="test", directory=path)
    return path


@pytest.fixture
def python(tmp_path: Path) -> Run:
    """Runs a program in a process of its own; it has to end well and say nothing on stderr."""

    def run(source: str, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        path = ":".join(each for each in sys.path if each)
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", source, *arguments],
            env={"PYTHONPATH": path, layout.DIRECTORY_VARIABLE: str(tmp_path), **environ},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done

    return run


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait until something holds, at most 30 seconds."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"never came: {what}"
        time.sleep(0.001)
