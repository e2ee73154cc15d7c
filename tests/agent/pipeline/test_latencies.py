"""Histograms of spans: the same as one by one, however the records come, each with its example."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apportion.agent.ingest.record import RECORD
from apportion.agent.latency import BOUNDS_NS, Example, LatencyKey
from apportion.agent.metrics.labels import LabelFolder
from apportion.agent.pipeline.interned import EntityKey, Interned
from apportion.agent.pipeline.latencies import Latencies
from apportion.agent.pipeline.spans import Decoded
from apportion.client import layout
from apportion.core.category import PhaseClock, SpanKind, SpanStatus

LIMITS: dict[str, int] = dict.fromkeys(("workload", "run", "tenant", "model", "pod"), 9)
MILLISECOND = 1_000_000
T0 = 10**12

Fact = tuple[int, int, int, int, int, int, int]
"""Kind, status, parent, entity, waited, first token after, and end after it, in milliseconds."""

facts = st.tuples(
    st.sampled_from([int(SpanKind.REQUEST), int(SpanKind.STEP), int(SpanKind.PHASE)]),
    st.sampled_from([int(SpanStatus.OK), int(SpanStatus.ERROR), int(SpanStatus.CANCELLED)]),
    st.sampled_from([0, 0, 1]),
    st.integers(1, 2),
    st.integers(0, 50),
    st.sampled_from([0, 4, 5, 6, 2_500, 2_000_000]),
    st.integers(0, 10_000),
)


def latencies() -> Latencies:
    entities = Interned[EntityKey]()
    for workload, run, model in (("train", "run-1", None), ("serve", None, "m")):
        entities.key(EntityKey(workload, run=run, model=model))
    return Latencies(LabelFolder(LIMITS), entities)


def decoded(rows: list[Fact], request_id: bytes = b"") -> Decoded:
    records = np.zeros(len(rows), RECORD)
    for record, (_, _, parent, _, waited, first, rest) in zip(records, rows, strict=True):
        record["parent"] = parent
        record["arrival_ns"] = T0
        record["start_ns"] = record["scheduled_ns"] = T0 + waited * MILLISECOND
        record["first_token_ns"] = record["start_ns"] + first * MILLISECOND if first else 0
        record["end_ns"] = record["start_ns"] + (first + rest) * MILLISECOND
        record["output_tokens"] = 3
        raw = bytes([len(request_id), 0]) + request_id
        record["request_id"] = np.frombuffer(raw.ljust(64, b"\0"), "V64")[0]
    columns = np.array([row[:4] for row in rows], np.int64).reshape(-1, 4).T
    zeros = np.zeros(len(rows), np.int64)
    return Decoded(
        records, columns[0], columns[1], zeros, zeros, columns[3], np.zeros(len(rows), np.bool_)
    )


@given(st.lists(facts, max_size=30), st.integers(0, 30))
def test_a_histogram_is_the_count_of_its_spans(rows: list[Fact], cut: int) -> None:
    """Only roots and phases that ended well; a bound is inside its bucket; pieces add up."""
    seen = latencies()
    seen.add([decoded(rows[:cut]), decoded(rows[cut:])])
    wanted: Counter[tuple[str, int]] = Counter()
    sums: Counter[str] = Counter()
    for kind, status, parent, _, waited, first, rest in rows:
        times: dict[str, int] = {}
        if status == SpanStatus.OK and kind == SpanKind.PHASE:
            times["phase_seconds"] = first + rest
        is_root = status == SpanStatus.OK and not parent
        if is_root and kind == SpanKind.STEP:
            times["step_seconds"] = first + rest
        elif is_root and kind == SpanKind.REQUEST:
            times["request_seconds"] = waited + first + rest
            times["request_queue_seconds"] = waited
            if first:
                times["time_to_first_token_seconds"] = waited + first
        for name, duration_ms in times.items():
            wanted[name, bisect_left(BOUNDS_NS, duration_ms * MILLISECOND)] += 1
            sums[name] += duration_ms * MILLISECOND
    found: Counter[tuple[str, int]] = Counter()
    total: Counter[str] = Counter()
    for key, latency in seen.frozen(lambda ns: ns).items():
        if key.name != "inter_token_seconds":
            found.update({(key.name, bucket): n for bucket, n in enumerate(latency.counts) if n})
            total[key.name] += latency.sum_ns
    assert found == wanted
    assert +total == +sums


def test_time_between_tokens_is_a_requests_mean() -> None:
    """Three tokens have two gaps."""
    seen = latencies()
    seen.add([decoded([(SpanKind.REQUEST, SpanStatus.OK, 0, 2, 0, 10, 80)])])
    found = seen.frozen(lambda ns: ns)[LatencyKey("inter_token_seconds", "serve", model="m")]
    assert found.sum_ns == 40 * MILLISECOND


def test_a_bucket_keeps_its_last_span_that_has_an_id() -> None:
    """A span without ids does not hide the example before it; wall time is its end's."""
    seen = latencies()
    step: Fact = (SpanKind.STEP, SpanStatus.OK, 0, 1, 0, 0, 20)
    seen.add([decoded([step], b"first")])
    seen.add([decoded([step, step], b"second\x07"), decoded([step])])
    latency = seen.frozen(lambda ns: ns + 5)[LatencyKey("step_seconds", "train", run="run-1")]
    bucket = bisect_left(BOUNDS_NS, 20 * MILLISECOND)
    assert latency.counts[bucket] == 4
    end_ns = T0 + 20 * MILLISECOND
    assert latency.examples[bucket] == Example(
        20 * MILLISECOND, end_ns + 5, request_id="second\N{REPLACEMENT CHARACTER}"
    )
    assert [each for each in latency.examples if each is not None] == [latency.examples[bucket]]


def test_the_longest_ids_fit_an_exemplar() -> None:
    """OpenMetrics allows 128 characters for an exemplar's labels, names and values together."""
    names = len("trace_id") + len("request_id")
    assert names + 32 + layout.REQUEST_ID_TEXT_BYTES <= 128


@pytest.mark.parametrize("empty", [[], [decoded([])]])
def test_nothing_read_is_nothing(empty: list[Decoded]) -> None:
    """A tick without records makes no series."""
    seen = latencies()
    seen.add(empty)
    assert not seen.frozen(lambda ns: ns)


def test_a_phase_counts_once_whatever_clocks_it_has() -> None:
    """The device's clock tells phases of steps once more, in pieces: those are no observations."""
    seen = latencies()
    phase: Fact = (SpanKind.PHASE, SpanStatus.OK, 1, 1, 0, 0, 20)
    both = decoded([phase, phase])
    clocks = np.array([int(PhaseClock.HOST_LAUNCH), int(PhaseClock.DEVICE)])
    seen.add([both._replace(clock=clocks)])
    (found,) = seen.frozen(lambda ns: ns).values()
    assert sum(found.counts) == 1
