"""A node with simulated GPUs, real agents and real workloads; small file systems to fill."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.faults.node import Node, SmallFileSystem

from apportion.simulator import Simulator


@pytest.fixture
def node(request: pytest.FixtureRequest, tmp_path: Path, library: Path) -> Iterator[Node]:
    """A node; `@pytest.mark.parametrize("node", [8], indirect=True)` gives it eight GPUs."""
    devices: int = getattr(request, "param", 2)
    with Simulator(tmp_path / "simulator.state", devices=devices, pcie_query_ns=0) as simulator:
        host = Node(tmp_path, simulator, library)
        try:
            with simulator.running():
                yield host
        finally:
            host.close()


@pytest.fixture
def small_file_system() -> Iterator[SmallFileSystem]:
    """`small_file_system(path, size_bytes)` mounts a tmpfs of that size; root only."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    with ExitStack() as mounts:

        def mount(path: Path, size_bytes: int) -> Path:
            path.mkdir(parents=True, exist_ok=True)
            options = f"size={size_bytes},mode=0755"
            command = ["mount", "-t", "tmpfs", "-o", options, "apportion-fault-test", str(path)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
            # Lazily: what a killed process still holds open must not fail the test.
            mounts.callback(subprocess.run, ["umount", "--lazy", str(path)], check=True)
            return path

        yield mount
