"""A scrape of /metrics, first and cached, beside prometheus_client and node_exporter.

Two sizes: 8 devices with 60 workloads, and 10,000 series. `first` meets a snapshot that nobody has
scraped, `cached` one that somebody has. The peers show the same series: prometheus_client from a
registry that holds them ready, so that `generate_latest` does nothing but write text, and
node_exporter (Debian's) by its textfile collector, which reads and checks the text at each scrape.

`in process` is the call alone. `over HTTP` is a request on a connection that is kept, without
compression; the client shares our interpreter, and prometheus_client's, but not node_exporter's.
Times are medians of interleaved rounds, by the wall clock.
"""

from __future__ import annotations

import http.client
import shutil
import socket
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from apportion.agent.http import Health, HttpService, create_app
from apportion.agent.metrics.exposition import Exposition
from apportion.agent.metrics.rendering import MetricsText
from apportion.agent.snapshot import DeviceState, Snapshot, SnapshotBoard, Spend, SpendKey
from apportion.agent.testing import full_snapshot
from apportion.core.category import SETTLED, Category
from apportion.core.clock import SystemClock
from apportion.core.ids import DeviceId
from apportion.core.units import NS_PER_SECOND

SIZES = {"8 devices, 60 workloads": 60, "10,000 series": 445}
"""How many workloads each size has."""
DEVICES = 8
ROUNDS = 31
CATEGORIES = SETTLED[:7]
TEXT = "text/plain"
NODE_EXPORTER = "prometheus-node-exporter"


def run() -> dict[str, object]:
    """Milliseconds, ratios, and the machine's load when it began."""
    load = Path("/proc/loadavg").read_text().split()[0]
    return {"load before": load, **{name: _measure(size) for name, size in SIZES.items()}}


def snapshot(workloads: int) -> Snapshot:
    """A node of `DEVICES` devices whose cost `workloads` share, in each of seven categories."""
    full = full_snapshot()
    first = full.devices[0]
    devices: list[DeviceState] = []
    for index in range(DEVICES):
        device = DeviceId(f"GPU-{index}")
        reading = None if first.reading is None else replace(first.reading, device=device)
        info = replace(first.info, device=device, index=index)
        devices.append(replace(first, info=info, reading=reading))
    spend = {
        _key(number, category): Spend(10**9 * number, 10**11 * number, 10**6 * number)
        for number in range(workloads)
        for category in CATEGORIES
    }
    return replace(full, devices=tuple(devices), spend=MappingProxyType(spend))


@contextmanager
def served(board: SnapshotBoard, text: MetricsText) -> Generator[int]:
    """The agent's own HTTP service over a board, on a free port."""
    health = Health(board, SystemClock(), stuck_after_ns=60 * NS_PER_SECOND)
    service = HttpService(create_app(text, health, "bench"), "127.0.0.1", 0)
    service.start()
    stop = threading.Event()
    thread = threading.Thread(target=service.run, args=(stop,))
    thread.start()
    try:
        yield service.address[1]
    finally:
        stop.set()
        thread.join()
        service.shutdown(NS_PER_SECOND)


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


def _measure(workloads: int) -> dict[str, object]:
    board = SnapshotBoard()
    text = MetricsText(board, Exposition(board, "bench", strict=True))
    shown = snapshot(workloads)
    board.publish(shown)
    body = text.render(TEXT, "").body
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Held(list(text_string_to_metric_families(body.decode()))))
    with ExitStack() as ended:
        ours = ended.enter_context(served(board, text))
        peer, thread = start_http_server(0, "127.0.0.1", registry)
        ended.callback(thread.join)
        ended.callback(peer.shutdown)
        scrapes = {"first": _scraper(ours), "prometheus_client": _scraper(peer.server_port)}
        exporter = ended.enter_context(_node_exporter(body))
        if exporter is not None:
            scrapes["node_exporter"] = _scraper(exporter)
        inside: dict[str, list[float]] = {}
        over_http: dict[str, list[float]] = {}
        for _ in range(ROUNDS):
            board.publish(shown)
            _timed(inside, "first", lambda: text.render(TEXT, ""))
            _timed(inside, "cached", lambda: text.cached(TEXT, ""))
            _timed(inside, "generate_latest", lambda: generate_latest(registry))
            board.publish(shown)
            for name, scrape in scrapes.items():
                _timed(over_http, name, scrape)
            _timed(over_http, "cached", scrapes["first"])
    medians = {name: statistics.median(times) for name, times in inside.items()}
    scraped = {name: statistics.median(times) for name, times in over_http.items()}
    return {
        "series": sum(1 for line in body.splitlines() if line and not line.startswith(b"#")),
        "bytes": len(body),
        "in process ms": medians,
        "over HTTP ms": scraped,
        "over HTTP, slowest cached ms": max(over_http["cached"]),
        "first / generate_latest": medians["first"] / medians["generate_latest"],
        "cached / node_exporter, over HTTP": (
            scraped["cached"] / scraped["node_exporter"]
            if "node_exporter" in scraped
            else f"not measured: no {NODE_EXPORTER} on PATH"
        ),
    }


class _Held:
    """A collector with nothing to do: it holds its families."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


@contextmanager
def _node_exporter(body: bytes) -> Generator[int | None]:
    """Its port, once it shows the text; None where the program is not there."""
    program = shutil.which(NODE_EXPORTER)
    if program is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "apportion.prom").write_bytes(body)
        port = free_port()
        process = subprocess.Popen(
            [
                *(program, "--collector.disable-defaults", "--collector.textfile"),
                *("--collector.textfile.directory", folder, "--web.disable-exporter-metrics"),
                *("--web.listen-address", f"127.0.0.1:{port}", "--log.level", "error"),
            ]
        )
        try:
            _await(port, b"apportion_build_info")
            yield port
        finally:
            process.terminate()
            process.wait(20)


def _await(port: int, wanted: bytes) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            if wanted in _scraper(port)():
                return
        except OSError:
            pass
        time.sleep(0.1)
    message = f"port {port} does not show {wanted.decode()} after 20 s"
    raise RuntimeError(message)


def _scraper(port: int) -> Callable[[], bytes]:
    """Scrapes on one connection, as Prometheus does."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)

    def scrape() -> bytes:
        connection.request("GET", "/metrics", headers={"Accept": TEXT})
        return connection.getresponse().read()

    return scrape


def _timed(times: dict[str, list[float]], name: str, call: Callable[[], object]) -> None:
    begun = time.perf_counter_ns()
    call()
    times.setdefault(name, []).append((time.perf_counter_ns() - begun) / 1e6)


def _key(number: int, category: Category) -> SpendKey:
    names = (f"workload-{number}", f"run-{number}", "model", f"tenant-{number % 7}")
    return SpendKey(category, *names)
