"""The container's quota from fixture trees."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest

from apportion.collectors.cgroup import container

Tree = Callable[[str], Path]


def test_version_2(tree: Tree) -> None:
    """Two CPUs, eight gigabytes."""
    group = container(tree("container_v2") / "sys")
    assert group is not None
    assert (group.cpus, group.memory_limit_bytes) == (Fraction(2), 8_000_000_000)
    assert (group.used_cpu_ns(), group.used_memory_bytes()) == (4 * 10**9, 3_000_000_000)


def test_version_1(tree: Tree) -> None:
    """Half a CPU; a memory limit near 2^63 is none."""
    group = container(tree("container_v1") / "sys")
    assert group is not None
    assert (group.cpus, group.memory_limit_bytes) == (Fraction(1, 2), None)
    assert (group.used_cpu_ns(), group.used_memory_bytes()) == (7 * 10**9, 123_456)


@pytest.mark.parametrize("text", ["max 100000\n", "\n", "100000\n", "0 100000\n", "1 0\n", "a b\n"])
def test_no_quota(tree: Tree, text: str) -> None:
    """A container without one has the whole host."""
    sys_root = tree("container_v2") / "sys"
    (sys_root / "fs/cgroup/cpu.max").write_text(text)
    group = container(sys_root)
    assert group is not None
    assert group.cpus is None


def test_a_bare_host_is_no_container(tree: Tree) -> None:
    """The real root group has no limits."""
    assert container(tree("bare_host") / "sys") is None


def test_files_that_are_missing(tree: Tree) -> None:
    """Unknown is None."""
    sys_root = tree("container_v2") / "sys"
    (sys_root / "fs/cgroup/cpu.stat").write_text("nothing 1\n")
    (sys_root / "fs/cgroup/memory.current").unlink()
    group = container(sys_root)
    assert group is not None
    assert group.used_cpu_ns() is None
    assert group.used_memory_bytes() is None
