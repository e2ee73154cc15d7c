"""CPU and memory of the agent and its sampling beside peers, on the same SIMULATED library.

Eight simulated GPUs, read once a second by everybody in one run. `apportion sampling` is the
process that reads NVML, a child of `apportion agent`. The agent also takes 100 spans a second from
one ring, settles and commits them every five seconds; it and nvitop-exporter are scraped every five
seconds. CPU is that of each process tree over the same wall-clock window, memory its largest
resident size.

Zeus and CodeCarbon bring pandas, SciPy and scikit-learn, half a gigabyte: they are no extra of this
project, and are measured where `APPORTION_PEERS_PYTHON` names an interpreter that has them.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import psutil

from apportion.simulator import Simulator, build, environment

GPUS = 8
SPANS_PER_SECOND = 100
WARM_UP_S = 8.0
WINDOW_S = 40.0
SCRAPE_S = 5.0

_WRITER = """
import sys, time
from apportion import client
client.init(workload="bench", directory=sys.argv[1])
end = time.monotonic() + float(sys.argv[2])
due = time.monotonic()
number = 0
while due < end:
    with client.request(f"request-{number}", tenant="bench", model="none") as request:
        request.add(input_tokens=100, cached_input_tokens=10, output_tokens=20)
    number += 1
    due += 1 / float(sys.argv[3])
    time.sleep(max(0.0, due - time.monotonic()))
"""

_PYNVML = """
import sys, time
import pynvml as nvml
nvml.nvmlInit()
handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(int(sys.argv[1]))]
due = time.monotonic()
while True:
    for handle in handles:
        nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        nvml.nvmlDeviceGetPowerUsage(handle)
        nvml.nvmlDeviceGetUtilizationRates(handle)
        nvml.nvmlDeviceGetMemoryInfo(handle)
        nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)
        nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)
        nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM)
        nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)
        nvml.nvmlDeviceGetComputeRunningProcesses(handle)
    due += 1
    time.sleep(max(0.0, due - time.monotonic()))
"""
_ZEUS = """
import sys, time
from zeus.monitor import PowerMonitor
monitor = PowerMonitor(gpu_indices=list(range(int(sys.argv[1]))), update_period=1.0)
time.sleep(3600)
"""
_CODECARBON = """
import sys, time
from codecarbon import OfflineEmissionsTracker
tracker = OfflineEmissionsTracker(
    country_iso_code="USA", measure_power_secs=1, save_to_file=False, log_level="error"
)
tracker.start()
time.sleep(3600)
"""
_PEERS = {"zeus PowerMonitor": ("zeus", _ZEUS), "codecarbon": ("codecarbon", _CODECARBON)}


def run() -> dict[str, object]:
    """Percent of one core and MiB for both, SIMULATED."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        library = build()
        with Simulator(root / "devices", devices=GPUS, pcie_query_ns=0) as simulator:
            for device in range(GPUS):
                simulator.set_utilization(device, 0.5)
            with simulator.running():
                return _measure(root, environment(root / "devices", library, inherited=os.environ))


def _measure(root: Path, environ: dict[str, str]) -> dict[str, object]:
    ours, theirs = _free_port(), _free_port()
    config = root / "apportion.yaml"
    config.write_text(
        f"listen: 127.0.0.1:{ours}\ndevices: simulator\nstate_dir: {root}/state\n"
        f"ring_dir: {root}/rings\nlock_dir: {root}/locks\nlog_level: error\n"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "apportion.client.dispatch", "agent", "--config", str(config)],
            env=environ,
        ),
        subprocess.Popen(
            [
                *(sys.executable, "-m", "nvitop_exporter", "--bind-address", "127.0.0.1"),
                *("--port", str(theirs), "--interval", "1"),
            ],
            env=environ,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ),
    ]
    measured = {
        "apportion agent": started[0].pid,
        "nvitop-exporter": started[1].pid,
        **_start_loops(root, environ, started),
    }
    try:
        _wait_for(ours)
        _wait_for(theirs)
        arguments = [str(root / "rings"), str(WARM_UP_S + WINDOW_S + 5), str(SPANS_PER_SECOND)]
        started.append(subprocess.Popen([sys.executable, "-c", _WRITER, *arguments]))
        stop = threading.Event()
        scraper = threading.Thread(target=_scrape, args=([ours, theirs], stop))
        scraper.start()
        time.sleep(WARM_UP_S)
        (sampling,) = psutil.Process(started[0].pid).children()
        figures = _watch({"apportion sampling": sampling.pid, **measured})
        stop.set()
        scraper.join()
    finally:
        for process in reversed(started):
            # Zeus leaves processes behind that only the end of their session ends.
            if os.getsid(process.pid) == process.pid:
                os.killpg(process.pid, signal.SIGKILL)
            process.terminate()
            process.wait(20)
    cpu = {name: figure["cpu_percent"] for name, figure in figures.items()}
    return {
        "SIMULATED": "yes",
        **figures,
        "cpu of agent / nvitop-exporter": cpu["apportion agent"] / cpu["nvitop-exporter"],
        "cpu of sampling / nvitop-exporter": cpu["apportion sampling"] / cpu["nvitop-exporter"],
    }


def _start_loops(
    root: Path, environ: dict[str, str], started: list[subprocess.Popen[bytes]]
) -> dict[str, int]:
    """The peers that only sample, those that are there; their pids by name."""
    tools = root / "tools"
    tools.mkdir()
    # CodeCarbon looks for GPUs only where this program is.
    (tools / "nvidia-smi").write_text("#!/bin/sh\n")
    (tools / "nvidia-smi").chmod(0o755)
    environ = {**os.environ, **environ, "PATH": f"{tools}:{os.environ['PATH']}"}
    others = os.environ.get("APPORTION_PEERS_PYTHON")
    programs = [("pynvml loop", sys.executable, _PYNVML)]
    if others is not None:
        programs += [
            (name, others, program)
            for name, (module, program) in _PEERS.items()
            if subprocess.run([others, "-c", f"import {module}"], check=False).returncode == 0
        ]
    pids: dict[str, int] = {}
    for name, python, program in programs:
        command = [python, "-c", program, str(GPUS)]
        process = subprocess.Popen(command, env=environ, start_new_session=True)
        started.append(process)
        pids[name] = process.pid
    return pids


def _watch(roots: dict[str, int]) -> dict[str, dict[str, float]]:
    before = {name: _usage(pid) for name, pid in roots.items()}
    begun = time.monotonic()
    peak = dict.fromkeys(roots, 0.0)
    while time.monotonic() - begun < WINDOW_S:
        time.sleep(1.0)
        for name, pid in roots.items():
            peak[name] = max(peak[name], _usage(pid)[1])
    elapsed = time.monotonic() - begun
    return {
        name: {
            "cpu_percent": 100 * (_usage(pid)[0] - before[name][0]) / elapsed,
            "resident_mib": peak[name],
        }
        for name, pid in roots.items()
    }


def _usage(pid: int) -> tuple[float, float]:
    """(CPU seconds, resident MiB) of a process and its children."""
    root = psutil.Process(pid)
    cpu = resident = 0.0
    for process in [root, *root.children(recursive=True)]:
        times = process.cpu_times()
        cpu += times.user + times.system
        resident += process.memory_info().rss / 2**20
    return cpu, resident


def _scrape(ports: list[int], stop: threading.Event) -> None:
    while not stop.wait(SCRAPE_S):
        for port in ports:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                answer.read()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if _answers(port):
            return
        time.sleep(0.2)
    message = f"nothing answers on port {port} after 30 s"
    raise RuntimeError(message)


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=2):
            return True
    except OSError:
        return False
