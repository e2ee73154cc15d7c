"""A scrape of /metrics: rendering a new snapshot, a cached one, beside bare prometheus_client.

Eight devices and 60 workloads. The peer is a `CollectorRegistry` with as many gauge samples of
as many labels, rendered by `generate_latest`. Times are medians of interleaved rounds, by the
wall clock, in one process.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from types import MappingProxyType

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from apportion.agent.metrics.exposition import Exposition
from apportion.agent.metrics.rendering import MetricsText
from apportion.agent.snapshot import Snapshot, SnapshotBoard, Spend, SpendKey
from apportion.agent.testing import full_snapshot
from apportion.core.category import SETTLED, Category
from apportion.core.ids import DeviceId

WORKLOADS = 60
DEVICES = 8
ROUNDS = 15
TEXT = "text/plain"


def run() -> dict[str, object]:
    """Milliseconds and ratios."""
    board = SnapshotBoard()
    text = MetricsText(board, Exposition(board, "bench"))
    snapshot = _snapshot()
    board.publish(snapshot)
    body = text.render(TEXT, "").body
    series = sum(1 for line in body.splitlines() if line and not line.startswith(b"#"))
    registry = _peer(series)
    rounds: dict[str, list[float]] = {"first": [], "cached": [], "generate_latest": []}
    for _ in range(ROUNDS):
        board.publish(snapshot)
        rounds["first"].append(_ms(lambda: text.render(TEXT, "")))
        rounds["cached"].append(_ms(lambda: text.cached(TEXT, "") or text.render(TEXT, "")))
        rounds["generate_latest"].append(_ms(lambda: generate_latest(registry)))
    medians = {name: statistics.median(times) for name, times in rounds.items()}
    return {
        "series": series,
        "bytes": len(body),
        "first render ms": medians["first"],
        "cached ms": medians["cached"],
        "generate_latest of as many gauges ms": medians["generate_latest"],
        "first / generate_latest": medians["first"] / medians["generate_latest"],
    }


def _snapshot() -> Snapshot:
    snapshot = full_snapshot()
    device = snapshot.devices[0]
    devices = tuple(
        replace(device, info=replace(device.info, device=DeviceId(f"GPU-{index}"), index=index))
        for index in range(DEVICES)
    )
    spend = {
        _key(number, category): Spend(10**9 * number, 10**11 * number, 10**6 * number)
        for number in range(WORKLOADS)
        for category in SETTLED[:7]
    }
    return replace(snapshot, devices=devices, spend=MappingProxyType(spend))


def _key(number: int, category: Category) -> SpendKey:
    names = (f"workload-{number}", f"run-{number}", "model", f"tenant-{number % 7}")
    return SpendKey(category, *names)


def _peer(series: int) -> CollectorRegistry:
    registry = CollectorRegistry()
    labels = ("workload", "run", "model", "tenant", "category")
    gauge = Gauge("peer", "As many samples as ours.", labels, registry=registry)
    for number in range(series):
        gauge.labels(f"workload-{number}", "run", "model", "tenant", "direct").set(number / 7)
    return registry


def _ms(call: Callable[[], object]) -> float:
    begun = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - begun) / 1e6
