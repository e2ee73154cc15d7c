"""What the collectors' tests share: fixture trees, waiting, and the simulated library."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from benchmarks.evaluation.cases import fixtures
from tests.collectors.metrics_server import MetricsServer

from apportion.simulator import PROFILES, Simulator, environment

FIXTURES = Path(__file__).parent / "fixtures"

Until = Callable[[Callable[[], bool]], None]


@pytest.fixture
def tree(tmp_path: Path) -> Callable[[str], Path]:
    """A private copy of a fixture tree, which the test may change."""

    def copy(name: str) -> Path:
        return shutil.copytree(FIXTURES / name, tmp_path / name)

    return copy


@pytest.fixture
def until() -> Until:
    """Polls a condition until it holds; fails the test after 40 seconds."""

    def wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 40
        while not condition():
            assert time.monotonic() < deadline, "the condition did not come to hold in 40 s"
            time.sleep(0.01)

    return wait


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[Simulator]:
    """Three simulated H100s at 90 %, published in the background."""
    with Simulator(tmp_path / "state", profile=PROFILES["h100"], devices=3) as simulated:
        for device in range(3):
            simulated.set_utilization(device, 0.9)
        with simulated.running():
            yield simulated


@pytest.fixture
def simulated(simulator: Simulator, library: Path) -> Mapping[str, str]:
    """The environment in which NVML is the simulator."""
    return {**os.environ, **environment(simulator.state, library)}


@pytest.fixture
def server() -> Iterator[MetricsServer]:
    """A server of metrics on loopback."""
    with MetricsServer().running() as serving:
        yield serving


@pytest.fixture
def published() -> Path:
    """The folder of published inputs; skips where it is not there."""
    folder = fixtures()
    if folder is None:
        pytest.skip("no published inputs: set APPORTION_FIXTURES to their folder")
    return folder
