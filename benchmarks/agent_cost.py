"""CPU and memory of the whole agent beside nvitop-exporter, on the same SIMULATED library.

Eight simulated GPUs, read once a second; the agent also takes 100 spans a second from one ring,
settles and commits them every five seconds, and both are scraped every five seconds. CPU is
that of each process tree over the same wall-clock window, memory its largest resident size.
"""

from __future__ import annotations

import os
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
    try:
        _wait_for(ours)
        _wait_for(theirs)
        arguments = [str(root / "rings"), str(WARM_UP_S + WINDOW_S + 5), str(SPANS_PER_SECOND)]
        started.append(subprocess.Popen([sys.executable, "-c", _WRITER, *arguments]))
        stop = threading.Event()
        scraper = threading.Thread(target=_scrape, args=([ours, theirs], stop))
        scraper.start()
        time.sleep(WARM_UP_S)
        figures = _watch({"apportion agent": started[0].pid, "nvitop-exporter": started[1].pid})
        stop.set()
        scraper.join()
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(20)
    ratio = figures["apportion agent"]["cpu_percent"] / figures["nvitop-exporter"]["cpu_percent"]
    return {"SIMULATED": "yes", **figures, "cpu of ours / theirs": ratio}


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
