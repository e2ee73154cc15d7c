"""CPU and memory of a host from a fixture tree."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from apportion.collectors.procfs import CpuTimes, Memory, ProcFs
from apportion.core.errors import CollectorError

Tree = Callable[[str], Path]
TICK_NS = 10_000_000


@pytest.fixture
def proc(tree: Tree) -> Path:
    """The procfs of the bare host."""
    return tree("bare_host") / "proc"


def test_cpu_times(proc: Path) -> None:
    """Waiting for a disk and time stolen by the hypervisor are not busy; guests count once."""
    busy, other = 1000 + 50 + 450 + 20 + 80, 8000 + 300 + 100
    assert ProcFs(proc).cpu_times() == CpuTimes(busy * TICK_NS, (busy + other) * TICK_NS)


def test_memory(proc: Path) -> None:
    """Caches that the kernel would give back are not in use."""
    assert ProcFs(proc).memory() == Memory(4_000_000 * 1024, 16_000_000 * 1024)


def test_cpus_and_model(proc: Path) -> None:
    """The quota's share needs the one, the report shows the other."""
    procfs = ProcFs(proc)
    assert procfs.cpus() == 4
    assert procfs.cpu_model() == "Example Xeon 8400 @ 2.00GHz"


def test_a_model_that_is_not_told(proc: Path) -> None:
    """Some Arm kernels name none."""
    (proc / "cpuinfo").write_text("processor\t: 0\nBogoMIPS\t: 50.00\n")
    assert ProcFs(proc).cpu_model() is None
    (proc / "cpuinfo").unlink()
    assert ProcFs(proc).cpu_model() is None


@pytest.mark.parametrize(
    "text", ["", "cpu 1 2 3\n", "cpu a b c d e f g h\n", "intr 1 2 3 4 5 6 7 8\n"]
)
def test_malformed_stat(proc: Path, text: str) -> None:
    """The error names the file."""
    (proc / "stat").write_text(text)
    with pytest.raises(CollectorError, match="stat"):
        ProcFs(proc).cpu_times()


def test_malformed_meminfo(proc: Path) -> None:
    """A kernel before 3.14 has no MemAvailable."""
    (proc / "meminfo").write_text("MemTotal: 5 kB\nMemFree: many kB\n")
    with pytest.raises(CollectorError, match="MemAvailable"):
        ProcFs(proc).memory()


def test_no_procfs(tmp_path: Path) -> None:
    """A wrong path is said as such."""
    with pytest.raises(CollectorError, match="cannot be read"):
        ProcFs(tmp_path).cpu_times()
    (tmp_path / "stat").write_text("cpu  1 2 3 4 5 6 7 8\n")
    with pytest.raises(CollectorError, match="no CPU"):
        ProcFs(tmp_path).cpus()


def test_the_real_one() -> None:
    """The kernel under this test has the form that the fixtures have."""
    procfs = ProcFs(Path("/proc"))
    times, memory = procfs.cpu_times(), procfs.memory()
    assert 0 <= times.busy_ns <= times.total_ns
    assert 0 < memory.used_bytes < memory.total_bytes
    assert procfs.cpus() >= 1
