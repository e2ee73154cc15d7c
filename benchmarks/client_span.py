"""What a span costs the workload, beside OpenTelemetry's SDK and prometheus_client.

The unit is a *pair*, two `perf_counter_ns()` calls timed in the same loop in the same run: what
any instrumentation pays at least. Rounds are interleaved, by the CPU clock of the measuring thread
(what a peer's background thread costs comes on top); figures are medians, ratios are medians of
each round's ratio to its own pair.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextvars import Context
from pathlib import Path
from time import perf_counter_ns, thread_time_ns

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from prometheus_client import CollectorRegistry, Histogram

from apportion import client
from apportion.client.layout import DIRECTORY_VARIABLE

ROUNDS = 100
SPANS = 1000
Round = Callable[[int], float]
"""Times so many spans; nanoseconds each."""


def run() -> dict[str, object]:
    """Nanoseconds, and pairs."""
    with tempfile.TemporaryDirectory(dir=_memory()) as directory:
        client.init(workload="bench", directory=directory)
        with client.step(0):
            pass
        provider, peers = _peers()
        measured = interleaved({"pair": pair, **OURS, **peers}, provider.force_flush)
        provider.shutdown()
        assert client.counts() == {}, "the client ignored something that was measured"
        with_ring = len(list(Path(directory).glob("*.ring")))
        assert with_ring == 1, "spans went nowhere"
    measured |= {f"{name}, no directory": each for name, each in _without_a_directory().items()}
    pairs = {name: each for name, (_, each) in measured.items()}
    return {
        "ns": {name: ns for name, (ns, _) in measured.items()},
        "pairs": pairs,
        "OpenTelemetry / step": pairs["OpenTelemetry, no attributes"] / pairs["step"],
        "OpenTelemetry / step, both with 4": (
            pairs["OpenTelemetry, 4 attributes"] / pairs["step with 4 counters"]
        ),
        "Histogram.observe / step": pairs["Histogram.observe, labels()"] / pairs["step"],
    }


def interleaved(
    rounds: Mapping[str, Round], after: Callable[[], object]
) -> dict[str, tuple[float, float]]:
    """For each, the median of its nanoseconds and of its ratio to the round's pair."""
    times: dict[str, list[float]] = {name: [] for name in rounds}
    for _ in range(ROUNDS):
        for name, each in rounds.items():
            times[name].append(Context().run(warm, each))
            after()  # no peer's background thread runs into the next round
    pairs = times["pair"]
    return {
        name: (
            statistics.median(ns),
            statistics.median(one / by for one, by in zip(ns, pairs, strict=True)),
        )
        for name, ns in times.items()
    }


def warm(each: Round) -> float:
    """One round, after a tenth of it that is not timed: what ran before has left cold caches."""
    each(SPANS // 10)
    return each(SPANS)


def pair(spans: int) -> float:
    t0 = t1 = 0
    begin = thread_time_ns()
    for _ in range(spans):
        t0 = perf_counter_ns()
        t1 = perf_counter_ns()
    end = thread_time_ns()
    assert 0 < t0 <= t1
    return (end - begin) / spans


def step(spans: int) -> float:
    begin = thread_time_ns()
    for number in range(spans):
        with client.step(number):
            pass
    return (thread_time_ns() - begin) / spans


def step_with_four(spans: int) -> float:
    begin = thread_time_ns()
    for number in range(spans):
        with client.step(number) as span:
            span.add(tokens=8192, samples=8, micro_batches=4, preemptions=0)
    return (thread_time_ns() - begin) / spans


def request(spans: int) -> float:
    begin = thread_time_ns()
    for _ in range(spans):
        with client.request("cmpl-0123456789", tenant="search") as span:
            span.add(input_tokens=512, cached_input_tokens=128, output_tokens=64)
    return (thread_time_ns() - begin) / spans


def phase(spans: int) -> float:
    with client.step(1) as span:
        begin = thread_time_ns()
        for _ in range(spans):
            with span.phase("forward"):
                pass
        return (thread_time_ns() - begin) / spans


def explicit_request(spans: int) -> float:
    begin = thread_time_ns()
    for _ in range(spans):
        span = client.request("cmpl-0123456789", tenant="search", model="tiny").start()
        span.scheduled()
        span.first_token()
        span.add(input_tokens=512, cached_input_tokens=128, output_tokens=64)
        span.finish()
    return (thread_time_ns() - begin) / spans


OURS: dict[str, Round] = {
    "step": step,
    "step with 4 counters": step_with_four,
    "request with id, tenant, 3 counters": request,
    "phase": phase,
    "request, started and finished, with times": explicit_request,
}


class _NoExporter(SpanExporter):
    """Takes spans and does nothing, so that only the SDK is measured."""

    def export(self, spans: object) -> SpanExportResult:
        del spans
        return SpanExportResult.SUCCESS


def _peers() -> tuple[TracerProvider, dict[str, Round]]:
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(_NoExporter()))
    tracer = provider.get_tracer("bench")
    histogram = Histogram("bench", "As a workload would.", ["tenant"], registry=CollectorRegistry())
    child = histogram.labels("search")

    def no_attributes(spans: int) -> float:
        begin = thread_time_ns()
        for _ in range(spans):
            with tracer.start_as_current_span("step"):
                pass
        return (thread_time_ns() - begin) / spans

    def four_attributes(spans: int) -> float:
        begin = thread_time_ns()
        for _ in range(spans):
            with tracer.start_as_current_span("step") as span:
                assert isinstance(span, ReadableSpan)
                span.set_attributes(
                    {"tokens": 8192, "samples": 8, "micro_batches": 4, "preemptions": 0}
                )
        return (thread_time_ns() - begin) / spans

    def cached_child(spans: int) -> float:
        begin = thread_time_ns()
        for _ in range(spans):
            child.observe(0.1)
        return (thread_time_ns() - begin) / spans

    def with_labels(spans: int) -> float:
        begin = thread_time_ns()
        for _ in range(spans):
            histogram.labels("search").observe(0.1)
        return (thread_time_ns() - begin) / spans

    return provider, {
        "OpenTelemetry, no attributes": no_attributes,
        "OpenTelemetry, 4 attributes": four_attributes,
        "Histogram.observe, cached child": cached_child,
        "Histogram.observe, labels()": with_labels,
    }


def _without_a_directory() -> dict[str, tuple[float, float]]:
    """The same where no ring can be made, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.client_span"],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, DIRECTORY_VARIABLE: "/nonexistent"},
    )
    return {name: (ns, pairs) for name, (ns, pairs) in json.loads(done.stdout).items()}


def _memory() -> str | None:
    """A tmpfs, as in production, where there is one."""
    tmpfs = "/dev/shm"  # noqa: S108 - a directory of its own is made in it
    return tmpfs if os.access(tmpfs, os.W_OK) else None


if __name__ == "__main__":
    quiet = {"pair": pair, "step": step, "request with id, tenant, 3 counters": request}
    print(json.dumps(interleaved(quiet, lambda: None)))
