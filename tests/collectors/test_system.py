"""The host beside its devices, on fixture trees."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from apportion.collectors.options import CollectorOptions
from apportion.collectors.system import System
from apportion.core.errors import CollectorError

Tree = Callable[[str], Path]
TICKS = os.sysconf("SC_CLK_TCK")


@pytest.fixture
def options(tree: Tree) -> CollectorOptions:
    """The bare host."""
    root = tree("bare_host")
    return CollectorOptions(proc_root=root / "proc", sys_root=root / "sys")


def told(options: CollectorOptions) -> dict[tuple[str, ...], float]:
    """Each sample by its name and the texts of its labels."""
    samples = System(options).collect().samples
    assert samples is not None
    return {(name, *(text for _, text in labels)): value for name, value, labels in samples}


def test_every_tick_is_in_one_mode(options: CollectorOptions) -> None:
    """Interrupts are system time, niced programs user time; nothing counts twice."""
    modes = {key[1]: value for key, value in told(options).items() if key[0].startswith("host_cpu")}
    assert modes == {
        "user": 1050 / TICKS,
        "system": 550 / TICKS,
        "idle": 8000 / TICKS,
        "iowait": 300 / TICKS,
        "steal": 100 / TICKS,
    }


def test_memory_pressure_and_disks(options: CollectorOptions) -> None:
    """Base units; only whole disks, and no pressure that the kernel does not tell."""
    found = told(options)
    assert found[("host_memory_size_bytes",)] == 16_000_000 * 1024
    assert found[("host_memory_used_bytes",)] == 4_000_000 * 1024
    assert found["host_pressure_seconds_total", "cpu", "some"] == 94
    assert found["host_pressure_seconds_total", "io", "full"] == 7.5
    assert not [key for key in found if "memory" in key[1:]]
    disks = {key[1:]: value for key, value in found.items() if key[0] == "host_disk_bytes_total"}
    assert disks == {("nvme0n1", "read"): 2048 * 512, ("nvme0n1", "write"): 4096 * 512}


def test_a_bare_host_has_no_container(options: CollectorOptions) -> None:
    """A limit that is not there is absent, not infinite."""
    assert not [key for key in told(options) if key[0].startswith("container_")]


def test_the_containers_limits(options: CollectorOptions, tree: Tree) -> None:
    """A quota that is used up slows a data loader: it shows."""
    shutil.copytree(tree("container_v2") / "sys/fs", options.sys_root / "fs")
    found = told(options)
    assert found[("container_cpu_limit_cpus",)] == 2
    assert found[("container_memory_limit_bytes",)] == 8_000_000_000
    assert found[("container_cpu_throttled_seconds_total",)] == 1.5


def test_without_procfs_it_says_so(tmp_path: Path) -> None:
    """A wrong --proc-root is named."""
    with pytest.raises(CollectorError, match="meminfo cannot be read"):
        System(CollectorOptions(proc_root=tmp_path)).collect()


def test_other_forms_of_the_files_lose_their_own_values_alone(options: CollectorOptions) -> None:
    """A kernel that writes something else costs that figure and no other."""
    (options.proc_root / "diskstats").write_text("garbage\n1 2 nvme0n1 3\n\x00\n")
    (options.proc_root / "pressure/cpu").write_text("some avg10=1 total=x\n")
    found = told(options)
    assert not [key for key in found if key[0] == "host_disk_bytes_total" or "cpu" in key[1:]]
    assert found["host_pressure_seconds_total", "io", "some"] == 8.5
