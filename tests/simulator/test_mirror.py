from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apportion.simulator import Mirror, ProcessLoad
from apportion.simulator.mirror import SAMPLE_PERIOD_NS, _capped

SECOND_NS = 1_000_000_000


class Processes:
    """A procfs of two files per process."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def set(
        self, pid: int, *, ticks: int = 0, pages: int = 0, start: int = 1, state: str = "R"
    ) -> None:
        folder = self.root / str(pid)
        folder.mkdir(parents=True, exist_ok=True)
        user, system = ticks - ticks // 3, ticks // 3
        (folder / "stat").write_text(
            f"{pid} (a) b) {state} 1 1 1 0 -1 0 0 0 0 0 {user} {system} 0 0 20 0 1 0 {start} 0 0\n"
        )
        (folder / "statm").write_text(f"99 {pages} 1 1 0 1 0\n")

    def remove(self, pid: int) -> None:
        shutil.rmtree(self.root / str(pid))

    def mirror(self, devices_of_pids: dict[int, list[int]], cores: float = 2) -> Mirror:
        return Mirror(
            devices_of_pids,
            cores=cores,
            proc_root=self.root,
            ticks_per_second=100,
            page_bytes=4_096,
        )


@pytest.fixture
def processes(tmp_path: Path) -> Processes:
    return Processes(tmp_path)


def test_share_is_cpu_time_over_wall_time_and_cores(processes: Processes) -> None:
    """User and system time count; two cores' worth of CPU make one busy device."""
    processes.set(7, ticks=1_000, pages=3)
    mirror = processes.mirror({7: [0, 3]})
    assert mirror.sample(0) == {
        0: [ProcessLoad(7, 12_288, 0.0)],
        3: [ProcessLoad(7, 12_288, 0.0)],
    }
    processes.set(7, ticks=1_120, pages=4)
    load = ProcessLoad(7, 16_384, 0.6)
    assert mirror.sample(SECOND_NS) == {0: [load], 3: [load]}


def test_a_device_is_never_more_than_busy(processes: Processes) -> None:
    """Processes that together exceed the device share it in proportion to what they used."""
    processes.set(7)
    processes.set(8)
    mirror = processes.mirror({7: [0], 8: [0]}, cores=1)
    mirror.sample(0)
    processes.set(7, ticks=300)
    processes.set(8, ticks=100)
    assert mirror.sample(SECOND_NS) == {0: [ProcessLoad(7, 0, 0.5), ProcessLoad(8, 0, 0.5)]}


def test_a_sample_too_soon_says_nothing(processes: Processes) -> None:
    """Within a few clock ticks of the kernel the share would be rounding."""
    processes.set(7)
    mirror = processes.mirror({7: [0]})
    mirror.sample(0)
    assert mirror.sample(SAMPLE_PERIOD_NS - 1) is None
    assert mirror.sample(SAMPLE_PERIOD_NS) is not None


def test_an_ended_process_leaves_its_device(processes: Processes) -> None:
    """Gone, a zombie, or another process under the same pid: no longer listed, for good."""
    for pid in (7, 8, 9):
        processes.set(pid)
    mirror = processes.mirror({7: [0], 8: [0], 9: [0]})
    mirror.sample(0)
    processes.remove(7)
    processes.set(8, ticks=50, state="Z")
    processes.set(9, ticks=50, start=2)
    assert mirror.sample(SECOND_NS) == {0: []}
    processes.set(7, ticks=99)
    assert mirror.sample(2 * SECOND_NS) == {0: []}


def test_a_file_that_is_cut_is_an_ended_process(processes: Processes) -> None:
    """A read that meets a dying process neither raises nor invents a number."""
    processes.set(7)
    mirror = processes.mirror({7: [0]})
    mirror.sample(0)
    (processes.root / "7" / "stat").write_text("7 (a")
    assert mirror.sample(SECOND_NS) == {0: []}


def test_the_real_procfs_is_understood() -> None:
    """This process is found under its own pid, with memory, and with CPU time it spends."""
    mirror = Mirror({os.getpid(): [0]}, cores=1)
    loads = mirror.sample(0)
    assert loads is not None
    assert loads[0][0].used_bytes > 0
    before = os.times()
    while os.times().user + os.times().system < before.user + before.system + 0.1:
        sum(range(10_000))
    later = mirror.sample(SECOND_NS)
    assert later is not None
    assert later[0][0].utilization_ratio > 0


def test_no_cores_is_refused() -> None:
    """A share of nothing would be a division by zero later."""
    with pytest.raises(ValueError, match="cores=0"):
        Mirror({1: [0]}, cores=0)


@given(st.lists(st.floats(0, 1), max_size=32))
def test_capped_shares_never_exceed_the_device(ratios: list[float]) -> None:
    """However many are busy, shares stay in order of what was used and sum to 1 at most."""
    processes = [ProcessLoad(pid + 1, 0, ratio) for pid, ratio in enumerate(ratios)]
    capped = [process.utilization_ratio for process in _capped(processes)]
    assert sum(capped) <= 1.0 + 1e-9
    assert all(0 <= after <= before for after, before in zip(capped, ratios, strict=True))
