"""Fifty scrapers at once: what they do to the sampling period, and how long they wait.

The sampler reads eight SIMULATED GPUs every 100 ms in its child process, as the agent's does,
beside the agent's HTTP service over 10,000 series, of which a new snapshot comes every second. The
scrapers are threads of another process with a connection each, that all ask at the same moment,
once a second, compressed as Prometheus asks. Whether a period was kept is seen in the readings' own
times: how far the time between two of them is from 100 ms. Rounds with and without scrapers are
interleaved.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

from apportion.agent.metrics.exposition import Exposition
from apportion.agent.metrics.rendering import MetricsText
from apportion.agent.pipeline.sampler import Sampler
from apportion.agent.snapshot import SnapshotBoard
from apportion.collectors.observed import Observed
from apportion.collectors.options import CollectorOptions
from apportion.collectors.registry import built_in
from apportion.core.clock import SystemClock
from apportion.core.units import NS_PER_SECOND
from apportion.simulator import Simulator, build, environment
from benchmarks.metrics_latency import DEVICES, SIZES, served, snapshot

SCRAPERS = 50
PERIOD_NS = NS_PER_SECOND // 10
PHASE_S = 10.0
ROUNDS = 3
NS_PER_MS = 1e6

_SCRAPERS = """
import http.client, json, sys, threading, time
port, scrapers, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
together = threading.Barrier(scrapers)
times = []
def scrape():
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    end = time.monotonic() + seconds
    while True:
        together.wait()
        begun = time.monotonic()
        connection.request("GET", "/metrics", headers={"Accept-Encoding": "gzip"})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200, answer.status
        times.append(time.monotonic() - begun)
        if together.wait() == 0:
            time.sleep(max(0.0, begun + 1 - time.monotonic()))
        if end - begun < 1:
            return
threads = [threading.Thread(target=scrape) for _ in range(scrapers)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(json.dumps(times))
"""


def run() -> dict[str, object]:
    """How far periods were from 100 ms, and how long scrapes took, in ms, SIMULATED."""
    load = Path("/proc/loadavg").read_text().split()[0]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as ended:
        root = Path(folder)
        simulator = ended.enter_context(Simulator(root / "devices", devices=DEVICES))
        ended.enter_context(simulator.running())
        variables = environment(root / "devices", build(), inherited=os.environ)
        sampler = _sampler({**os.environ, **variables}, ended)
        board = SnapshotBoard()
        port = ended.enter_context(served(board, MetricsText(board, Exposition(board, "bench"))))
        _publish_each_second(board, ended)
        _wait_for(sampler)
        without: list[float] = []
        beside: list[float] = []
        scrapes: list[float] = []
        for _ in range(ROUNDS):
            without += _phase(sampler)
            arguments = [str(port), str(SCRAPERS), str(PHASE_S)]
            with subprocess.Popen(
                [sys.executable, "-c", _SCRAPERS, *arguments], stdout=subprocess.PIPE
            ) as process:
                beside += _phase(sampler)
                assert process.stdout is not None
                scrapes += [1000 * each for each in json.loads(process.stdout.read())]
    return {
        "SIMULATED": "yes",
        "load before": load,
        "scrape ms": _figures(scrapes),
        "off the period ms, nobody scrapes": _figures(without),
        f"off the period ms, {SCRAPERS} scrape": _figures(beside),
    }


def _sampler(variables: dict[str, str], ended: ExitStack) -> Sampler:
    """The agent's, at work until the end."""
    clock = SystemClock()
    options = CollectorOptions(period_ns=PERIOD_NS, environment=variables)
    collector = built_in().get("nvml").factory(options, clock)
    sampler = Sampler(Observed(collector, clock), clock, period_ns=PERIOD_NS // 4)
    ended.callback(sampler.shutdown, NS_PER_SECOND)
    sampler.start()
    stop = threading.Event()
    thread = threading.Thread(target=sampler.run, args=(stop,))
    thread.start()
    ended.callback(thread.join)
    ended.callback(stop.set)
    return sampler


def _publish_each_second(board: SnapshotBoard, ended: ExitStack) -> None:
    shown = snapshot(SIZES["10,000 series"])
    board.publish(shown)
    stop = threading.Event()

    def publish() -> None:
        while not stop.wait(1.0):
            board.publish(shown)

    thread = threading.Thread(target=publish)
    thread.start()
    ended.callback(thread.join)
    ended.callback(stop.set)


def _wait_for(sampler: Sampler) -> None:
    deadline = time.monotonic() + 30
    while not any(batch.readings for batch in sampler.drain()):
        if time.monotonic() > deadline:
            message = f"no reading after 30 s: {sampler.status.error}"
            raise RuntimeError(message)
        time.sleep(0.1)


def _phase(sampler: Sampler) -> list[float]:
    """How far from the period the first device's readings came, in ms, for `PHASE_S`."""
    sampler.drain()
    time.sleep(PHASE_S)
    readings = [each for batch in sampler.drain() for each in batch.readings]
    times = [each.time_ns for each in readings if each.device == readings[0].device]
    between = pairwise(times)
    return [abs(later - earlier - PERIOD_NS) / NS_PER_MS for earlier, later in between]


def _figures(values: list[float]) -> dict[str, float]:
    in_order = sorted(values)
    return {
        "number": len(in_order),
        "median": statistics.median(in_order),
        "p99": in_order[len(in_order) * 99 // 100],
        "largest": in_order[-1],
    }
