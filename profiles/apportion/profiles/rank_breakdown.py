"""A rank's trace divided: by steps, by types, by kernels, by streams."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import numpy as np

from apportion.profiles.breakdown import Breakdown, Idle, stream_idle
from apportion.profiles.coverage import Coverage
from apportion.profiles.cpu_kernels import cpu_events
from apportion.profiles.device_trace import DeviceEvents, DeviceTrace, Ints
from apportion.profiles.kernel_type import KernelType, kernel_types
from apportion.profiles.steps import OUTSIDE, Steps

_DATA_WAIT: Final = re.compile(r"enumerate\(DataLoader\)#|.*\btrain_dataloader_next\b|data_wait$")
"""Annotations of PyTorch's DataLoader, of Lightning, and of who marks it with our phase's name."""


@dataclass(frozen=True, slots=True)
class StepBreakdown:
    """One step, or what no step launched, or the whole trace.

    number: the step's; None of the other two. window_ns: from the step's start to the next one's
    on the host; None where there is none. data_wait_ns: of the window, how long the host waited
    for data; None where the trace has no annotations at all.
    """

    name: str
    number: int | None
    window_ns: int | None
    data_wait_ns: int | None
    device: Breakdown


@dataclass(frozen=True, slots=True)
class KernelTime:
    """All events of one name."""

    name: str
    type: KernelType
    events: int
    total_ns: int
    shortest_ns: int
    longest_ns: int


@dataclass(frozen=True, slots=True)
class StreamIdle:
    """The gaps of one stream."""

    device: int
    stream: int
    idle: Idle


@dataclass(frozen=True, slots=True)
class RankBreakdown:
    """One trace; small, whatever the trace's size.

    steps: in order, then what no step launched, where there is any. kernels: the longest first.
    """

    source: str
    rank: int | None
    world_size: int | None
    device_name: str | None
    steps: tuple[StepBreakdown, ...]
    whole: StepBreakdown
    kernels: tuple[KernelTime, ...]
    streams: tuple[StreamIdle, ...]
    warnings: tuple[str, ...]
    unverified: str | None

    @classmethod
    def of(
        cls, trace: DeviceTrace, *, drop_last_step: bool = False, whole_microseconds: bool = False
    ) -> RankBreakdown:
        """Divide a trace; the options are for figures as HolisticTraceAnalysis has them."""
        events = trace.events if len(trace.events) else cpu_events(trace.operators)
        if whole_microseconds:
            events = events.whole_microseconds()
        steps = Steps.of(trace.annotations, trace.names)
        if drop_last_step and len(steps) > 1:
            # it may not be over when the profiler stops
            last_ns = steps.start_ns[-1]
            events = events.where(steps.instants_of(events) < last_ns)
            steps = steps.but_last()
        types = kernel_types(trace.names, events.name)
        waits = _data_waits(trace)
        rows = _rows(events, types, steps, waits)
        whole = StepBreakdown(
            name="all",
            number=None,
            window_ns=int(steps.end_ns[-1] - steps.start_ns[0]) if len(steps) else None,
            data_wait_ns=_waited_ns(waits, steps, 0, len(steps) - 1),
            device=Breakdown.of(events, types),
        )
        return cls(
            source=trace.source,
            rank=trace.rank,
            world_size=trace.world_size,
            device_name=trace.device_name,
            steps=rows,
            whole=whole,
            kernels=_kernels(events, types, trace.names),
            streams=tuple(StreamIdle(*key, idle) for key, idle in stream_idle(events).items()),
            warnings=(*trace.warnings, *(() if len(steps) else (_NO_STEPS,))),
            unverified=trace.unverified,
        )


_NO_STEPS: Final = (
    "no step is marked: call profiler.step() after each (with a schedule), or annotate them "
    "`step 17`; all figures are of the whole trace"
)


def _rows(
    events: DeviceEvents, types: Ints, steps: Steps, waits: Coverage | None
) -> tuple[StepBreakdown, ...]:
    owners = steps.of_events(events)
    rows = [
        StepBreakdown(
            name=f"step {number}",
            number=number,
            window_ns=int(steps.end_ns[index] - steps.start_ns[index]),
            data_wait_ns=_waited_ns(waits, steps, index, index),
            device=Breakdown.of(events.where(owners == index), types[owners == index]),
        )
        for index, number in enumerate(steps.numbers)
    ]
    stray = owners == OUTSIDE
    if len(steps) and stray.any():
        device = Breakdown.of(events.where(stray), types[stray])
        rows.append(StepBreakdown("outside", None, None, None, device))
    return tuple(rows)


def _data_waits(trace: DeviceTrace) -> Coverage | None:
    spans = trace.annotations
    if not len(spans):
        return None
    waiting = np.array(
        [_DATA_WAIT.match(trace.names[int(code)]) is not None for code in spans.name]
    )
    own = spans.where(waiting)
    return Coverage.of(own.start_ns, own.end_ns)


def _waited_ns(waits: Coverage | None, steps: Steps, first: int, last: int) -> int | None:
    if waits is None or not len(steps):
        return None
    return waits.clipped(int(steps.start_ns[first]), int(steps.end_ns[last])).covered_ns


def _kernels(events: DeviceEvents, types: Ints, names: tuple[str, ...]) -> tuple[KernelTime, ...]:
    codes, first, inverse, counts = np.unique(
        events.name, return_index=True, return_inverse=True, return_counts=True
    )
    order = np.argsort(inverse, kind="stable")
    begins = np.concatenate((np.zeros(1, np.int64), np.cumsum(counts)[:-1]))[: len(codes)]
    durations = events.duration_ns[order]
    if not len(codes):
        return ()
    totals = np.add.reduceat(durations, begins)
    shortest = np.minimum.reduceat(durations, begins)
    longest = np.maximum.reduceat(durations, begins)
    return tuple(
        KernelTime(
            names[codes[row]],
            KernelType(int(types[first[row]])),
            int(counts[row]),
            int(totals[row]),
            int(shortest[row]),
            int(longest[row]),
        )
        for row in np.argsort(-totals, kind="stable")
    )
