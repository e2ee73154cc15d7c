"""The host's CPU as a device."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apportion.collectors.host import HostCpu
from apportion.collectors.options import CollectorOptions
from apportion.core.clock import ManualClock
from apportion.core.errors import CollectorError

Tree = Callable[[str], Path]
SECOND = 10**9


def made(proc: Path, sys_root: Path) -> tuple[HostCpu, ManualClock]:
    clock = ManualClock(monotonic_ns=100 * SECOND)
    options = CollectorOptions(proc_root=proc, sys_root=sys_root, host_name="node7")
    return HostCpu(options, clock), clock


def tick(proc: Path, busy: int, idle: int) -> None:
    """Let `busy` and `idle` ticks pass on the host."""
    first, _, rest = (proc / "stat").read_text().partition("\n")
    words = first.split()
    words[1] = str(int(words[1]) + busy)
    words[4] = str(int(words[4]) + idle)
    (proc / "stat").write_text(f"cpu  {' '.join(words[1:])}\n{rest}")


def test_a_bare_host(tree: Tree) -> None:
    """Activity over the period, memory, energy of both packages, and the mean power."""
    root = tree("bare_host")
    host, clock = made(root / "proc", root / "sys")
    host.start()
    clock.advance(2 * SECOND)
    tick(root / "proc", busy=300, idle=500)
    counter = root / "sys/class/powercap/intel-rapl:1/energy_uj"
    counter.write_text(f"{5_000_000 + 90_000_000}\n")
    batch = host.collect()
    (reading,) = batch.readings
    assert reading.device == "cpu:node7"
    assert reading.time_ns == 102 * SECOND
    assert (reading.utilization_ratio, reading.activity_source) == (0.375, "proc_stat")
    assert (reading.energy_mj, reading.energy_source) == (90_000, "rapl")
    assert reading.power_mw == 45_000
    assert reading.memory_used_bytes == 4_000_000 * 1024
    assert reading.memory_total_bytes == 16_000_000 * 1024
    assert reading.processes is None
    (info,) = batch.devices
    assert (info.device, info.name, info.source) == ("cpu:node7", "Host CPU", "cpu")
    assert not info.simulated
    (sources,) = batch.sources
    assert sources.model == "Example Xeon 8400 @ 2.00GHz"
    assert sources.share == 1


def test_facts_come_once_and_when_they_change(tree: Tree) -> None:
    """Energy that can no longer be read is said once."""
    root = tree("bare_host")
    host, _ = made(root / "proc", root / "sys")
    host.start()
    assert host.collect().sources
    again = host.collect()
    assert (again.devices, again.sources) == ((), ())
    (root / "sys/class/powercap/intel-rapl:1/energy_uj").unlink()
    changed = host.collect()
    assert changed.devices == ()
    (sources,) = changed.sources
    assert (sources.energy_source, sources.unsupported) == (None, ("energy", "power"))
    (reading,) = changed.readings
    assert (reading.energy_mj, reading.energy_source, reading.power_mw) == (None, None, None)


def test_a_container_has_the_share_of_its_quota(tree: Tree) -> None:
    """Two of four CPUs: half the energy, and its own use against its own quota."""
    bare, inside = tree("bare_host"), tree("container_v2")
    powercap = inside / "sys/class"
    powercap.mkdir()
    (bare / "sys/class/powercap").rename(powercap / "powercap")
    host, clock = made(bare / "proc", inside / "sys")
    host.start()
    clock.advance(SECOND)
    (inside / "sys/fs/cgroup/cpu.stat").write_text("usage_usec 5500000\n")
    (powercap / "powercap/intel-rapl:1/energy_uj").write_text(f"{5_000_000 + 60_000_000}\n")
    batch = host.collect()
    (reading,) = batch.readings
    assert (reading.utilization_ratio, reading.activity_source) == (0.75, "cgroup")
    assert (reading.energy_mj, reading.power_mw) == (30_000, 30_000)
    assert reading.memory_used_bytes == 3_000_000_000
    assert reading.memory_total_bytes == 8_000_000_000
    assert host.share == Fraction(1, 2)
    assert batch.sources[0].share == Fraction(1, 2)


def test_an_overdrawn_quota_is_fully_busy(tree: Tree) -> None:
    """A burst borrows from the next period; a ratio stays in 0..1."""
    bare, inside = tree("bare_host"), tree("container_v2")
    host, clock = made(bare / "proc", inside / "sys")
    host.start()
    clock.advance(SECOND)
    (inside / "sys/fs/cgroup/cpu.stat").write_text("usage_usec 6500000\n")
    assert host.collect().readings[0].utilization_ratio == 1.0


def test_a_quota_above_the_host_is_the_host(tree: Tree) -> None:
    """Nobody gets more than there is."""
    bare, inside = tree("bare_host"), tree("container_v2")
    (inside / "sys/fs/cgroup/cpu.max").write_text("900000 100000\n")
    host, _ = made(bare / "proc", inside / "sys")
    host.start()
    assert host.share == 1


def test_cpu_time_of_given_processes(tree: Tree) -> None:
    """Those that ended are absent."""
    root = tree("bare_host")
    host, _ = made(root / "proc", root / "sys")
    host.start()
    assert host.collect().readings[0].cpu_ns_by_pid == {}
    host.set_pids([77, 42, 9])
    assert host.collect().readings[0].cpu_ns_by_pid == {42: 17_500_000_000, 77: 110_000_000}


def test_no_tick_is_no_evidence(tree: Tree) -> None:
    """Two looks within one tick say nothing about activity: not 0."""
    root = tree("bare_host")
    host, _ = made(root / "proc", root / "sys")
    host.start()
    (reading,) = host.collect().readings
    assert (reading.utilization_ratio, reading.activity_source) == (None, None)


def test_collect_without_start_begins_by_itself(tree: Tree) -> None:
    """As after a start that failed."""
    root = tree("bare_host")
    stat = root / "proc/stat"
    text = stat.read_text()
    stat.unlink()
    host, _ = made(root / "proc", root / "sys")
    with pytest.raises(CollectorError, match="stat"):
        host.start()
    with pytest.raises(CollectorError, match="stat"):
        host.collect()
    stat.write_text(text)
    assert len(host.collect().devices) == 1
    host.close()
    host.close()


@given(
    quota=st.integers(1, 800_000),
    steps=st.lists(st.integers(0, 10**9), max_size=20),
)
def test_shared_energy_never_falls_and_is_within_a_millijoule(
    quota: int, steps: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The share is of the total, not of each step: rounding does not add up."""
    root = tmp_path_factory.mktemp("host")
    zone = root / "class/powercap/intel-rapl:0"
    zone.mkdir(parents=True)
    (root / "fs/cgroup").mkdir(parents=True)
    for name, text in (
        ("stat", "cpu  1 1 1 1 1 1 1 1\ncpu0 1\ncpu1 1\ncpu2 1\ncpu3 1\n"),
        ("meminfo", "MemTotal: 9 kB\nMemAvailable: 5 kB\n"),
        ("fs/cgroup/cpu.max", f"{quota} 100000\n"),
        ("fs/cgroup/cpu.stat", "usage_usec 0\n"),
        ("class/powercap/intel-rapl:0/name", "package-0\n"),
        ("class/powercap/intel-rapl:0/max_energy_range_uj", f"{10**15}\n"),
        ("class/powercap/intel-rapl:0/energy_uj", "0\n"),
    ):
        (root / name).write_text(text)
    host, clock = made(root, root)
    host.start()
    share = min(Fraction(1), Fraction(quota, 400_000))
    total_uj, before_mj = 0, 0
    for step_uj in steps:
        clock.advance(SECOND)
        total_uj += step_uj
        (zone / "energy_uj").write_text(f"{total_uj}\n")
        (reading,) = host.collect().readings
        assert reading.energy_mj is not None
        assert before_mj <= reading.energy_mj
        assert 0 <= Fraction(total_uj, 1_000) * share - reading.energy_mj < 2
        before_mj = reading.energy_mj
