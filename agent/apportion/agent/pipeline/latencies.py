"""Histograms of how long spans took, with the last span of each bucket as its example."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import numpy as np

from apportion.agent.ingest.record import request_id_of, trace_id_of
from apportion.agent.latency import BOUNDS_NS, REST, Example, Latency, LatencyKey
from apportion.agent.metrics.labels import OTHER, clean
from apportion.agent.pipeline.spans import joined
from apportion.core.category import Phase, PhaseClock, SpanKind, SpanStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from apportion.agent.metrics.labels import LabelFolder
    from apportion.agent.pipeline.interned import EntityKey, Interned
    from apportion.agent.pipeline.spans import Decoded

    Integers = NDArray[np.int64]
    Flags = NDArray[np.bool_]

_BOUNDS: Final = np.array(BOUNDS_NS, np.int64)
_BUCKETS: Final = _BOUNDS.size + 1
SERIES: Final = _BUCKETS + 2
"""Of each histogram: its buckets, their sum and their count."""


class Histogram:
    """One that grows: a count for each bucket."""

    def __init__(self) -> None:
        self.counts = np.zeros(_BUCKETS, np.int64)
        self.sum_ns = 0
        self.examples: list[tuple[int, int, str | None, str | None] | None] = [None] * _BUCKETS


class Latencies:
    """One writer, as `Totals`."""

    def __init__(self, folder: LabelFolder, entities: Interned[EntityKey]) -> None:
        self._folder = folder
        self._entities = entities
        self._histograms: dict[LatencyKey, Histogram] = {}

    @property
    def by_key(self) -> dict[LatencyKey, Histogram]:
        """The histograms themselves."""
        return self._histograms

    def add(self, read: Sequence[Decoded]) -> None:
        """Spans that ended well, of records that were read and committed."""
        if not any(part.records.size for part in read):
            return
        # In one piece: many rings with few records each would cost more than all their records.
        spans = read[0] if len(read) == 1 else joined(read)
        well = spans.status == int(SpanStatus.OK)
        has_id = _has_id(spans)
        for name, phase, chosen, duration_ns in _measures(spans, well):
            if chosen.any():
                rows = np.flatnonzero(chosen)
                self._add(name, phase, spans, rows, duration_ns[chosen], has_id[chosen])

    def frozen(self, unix: Callable[[int], int]) -> Mapping[LatencyKey, Latency]:
        """As they are now; `unix` gives the wall time of an instant of node time."""
        return MappingProxyType(
            {
                key: Latency(
                    tuple(found.counts.tolist()),
                    found.sum_ns,
                    tuple(
                        None if each is None else Example(each[0], unix(each[1]), *each[2:])
                        for each in found.examples
                    ),
                )
                for key, found in self._histograms.items()
            }
        )

    def _add(
        self,
        name: str,
        phase: str,
        spans: Decoded,
        rows: Integers,
        duration_ns: Integers,
        has_id: Flags,
    ) -> None:
        entities, whose = np.unique(spans.entity[rows], return_inverse=True)
        bucket = np.searchsorted(_BOUNDS, duration_ns)
        cell = whose * _BUCKETS + bucket
        counts = np.bincount(cell, minlength=entities.size * _BUCKETS).reshape(-1, _BUCKETS)
        sums = np.zeros(entities.size, np.int64)
        np.add.at(sums, whose, duration_ns)
        last = np.full(entities.size * _BUCKETS, -1, np.int64)
        last[cell[has_id]] = np.flatnonzero(has_id)  # of several in a cell the last one stays
        for index, entity in enumerate(entities.tolist()):
            found = self._histograms.setdefault(self._key(name, phase, entity), Histogram())
            found.counts += counts[index]
            found.sum_ns += int(sums[index])
            for number in np.flatnonzero(counts[index]).tolist():
                row = int(last[index * _BUCKETS + number])
                if row >= 0:
                    example = _example(spans, int(rows[row]), int(duration_ns[row]))
                    found.examples[number] = example

    def _key(self, name: str, phase: str, entity: int) -> LatencyKey:
        who, fold = self._entities.value(entity), self._folder
        workload = fold.workload(who.workload)
        if phase:
            key = LatencyKey(name, workload, phase=phase)
            other = LatencyKey(name, OTHER, phase=phase)
        elif name == "step_seconds":
            key = LatencyKey(name, workload, run=fold.run(who.run))
            other = LatencyKey(name, OTHER, run=OTHER)
        else:
            key = LatencyKey(name, workload, model=fold.model(who.model))
            other = LatencyKey(name, OTHER, model=OTHER)
        return fold.budget.key(key, self._histograms, other=other, series=SERIES)


def _measures(spans: Decoded, well: Flags) -> Iterator[tuple[str, str, Flags, Integers]]:
    """Each family's name and phase, if it is of one, its rows, and the time of all rows."""
    records = spans.records
    # the device's clock tells the same phases once more, cut where steps end
    phases = well & (spans.kind == int(SpanKind.PHASE)) & (spans.clock != int(PhaseClock.DEVICE))
    for phase in np.unique(spans.phase[phases]).tolist():
        of_phase = phases & (spans.phase == phase)
        took_ns = records["end_ns"] - records["start_ns"]
        yield "phase_seconds", Phase(phase).label or REST, of_phase, took_ns
    well = well & (records["parent"] == 0)
    start, end, first = records["start_ns"], records["end_ns"], records["first_token_ns"]
    yield "step_seconds", "", well & (spans.kind == int(SpanKind.STEP)), end - start
    request = well & (spans.kind == int(SpanKind.REQUEST))
    came = np.where(records["arrival_ns"] != 0, records["arrival_ns"], start)
    scheduled, tokens = records["scheduled_ns"], records["output_tokens"]
    yield "request_seconds", "", request, end - came
    yield "request_queue_seconds", "", request & (scheduled != 0), scheduled - came
    yield "time_to_first_token_seconds", "", request & (first != 0), first - came
    several = request & (first != 0) & (tokens > 1)
    yield "inter_token_seconds", "", several, (end - first) // np.maximum(tokens - 1, 1)


def _has_id(spans: Decoded) -> Flags:
    """Which records have a trace id or a request id."""
    size = spans.records.size
    trace = np.ascontiguousarray(spans.records["trace_id"]).view(np.uint8).reshape(size, 16)
    request = np.ascontiguousarray(spans.records["request_id"]).view(np.uint8)
    found: Flags = trace.any(axis=1) | (request.reshape(size, -1)[:, 0] != 0)
    return found


def _example(spans: Decoded, row: int, duration_ns: int) -> tuple[int, int, str | None, str | None]:
    """Duration, end, trace id and request id of a record."""
    record = spans.records[row]
    trace = trace_id_of(record["trace_id"].tobytes())
    request = clean(request_id_of(record["request_id"].tobytes())) or None
    return duration_ns, int(record["end_ns"]), trace, request
