from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from apportion.simulator import ProcessLoad, Simulator, environment


def values(text: str, family: str) -> dict[str, float]:
    """The samples of a family in a Prometheus text, by everything before the value."""
    rows = (line.rpartition(" ") for line in text.splitlines() if line.startswith(family))
    return {labels: float(value) for labels, _, value in rows}


@pytest.mark.needs_module("nvitop_exporter")
def test_nvitop_exporter_runs_on_the_library(tmp_path: Path, library: Path) -> None:
    """A tool that knows nothing of us finds the GPUs, their power and their processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    power: dict[str, float] = {}
    shares: dict[str, float] = {}
    with Simulator(tmp_path / "state", devices=2) as simulator, simulator.running():
        simulator.set_utilization(1, 0.5)
        simulator.set_processes(1, [ProcessLoad(os.getpid(), 1_048_576, 0.5)])
        exporter = subprocess.Popen(
            [
                *(sys.executable, "-m", "nvitop_exporter", "--bind-address", "127.0.0.1"),
                *("--port", str(port), "--interval", "0.25"),
            ],
            env={**os.environ, **environment(simulator.state, library)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                assert exporter.poll() is None
                try:
                    url = f"http://127.0.0.1:{port}/metrics"
                    with urllib.request.urlopen(url, timeout=5) as response:
                        text = response.read().decode()
                except urllib.error.URLError:
                    time.sleep(0.05)
                    continue
                power = values(text, "gpu_power_usage_W")
                shares = values(text, "process_gpu_sm_utilization_Percentage")
                if 50.0 in shares.values() and 385.0 in power.values():
                    break
        finally:
            exporter.terminate()
            exporter.wait()
    assert len(power) == 2
    assert [385.0] == [value for labels, value in power.items() if simulator.uuids[1] in labels]
    mine = [value for labels, value in shares.items() if f'pid="{os.getpid()}"' in labels]
    assert mine == [50.0]
