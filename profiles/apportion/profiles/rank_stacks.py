"""A rank's trace as stacks: module, operator, kernel; and what a device's time went to otherwise.

Kernels that run at once share their instants, and idle time has stacks of its own, so that all
stacks of a device add up to the time that it was watched. A frame in brackets is a category.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np

from apportion.profiles.breakdown import waits
from apportion.profiles.coverage import Coverage
from apportion.profiles.device_trace import DeviceEvents, DeviceTrace, Flags, HostSpans, Ints
from apportion.profiles.host_nesting import NOTHING, HostNesting, Paths
from apportion.profiles.kernel_type import KernelType, kernel_types
from apportion.profiles.shared_time import SharedTime
from apportion.profiles.stacks import Codes, StackColumns, Stacks
from apportion.profiles.steps import OUTSIDE, Steps
from apportion.profiles.weight import TIME

STEP: Final = "step"
"""The label with the number of the step that launched it, or that ended the waiting."""
Waits = Mapping[str, Sequence[int | None]]
"""By trace, how long each of its collectives waited for another rank, in the order of starts."""


class Place(IntEnum):
    """Where the time of a device went, beside what ran: each a frame below the root."""

    RUN = 0
    EXPOSED_COMMUNICATION = 1
    STRAGGLER_WAIT = 2
    HOST_WAIT = 3
    KERNEL_WAIT = 4
    IDLE = 5

    @property
    def frame(self) -> str:
        """What stands in the picture."""
        return f"[{self.name.lower()}]"


@dataclass(frozen=True, slots=True)
class _Work:
    """What ran: events, in order; the path and the type of each; until when it only waited."""

    events: DeviceEvents
    path: Ints
    type: Ints
    waited_until_ns: Ints


@dataclass(frozen=True, slots=True)
class RankStacks:
    """One trace as stacks of `time`."""

    source: str
    rank: int | None
    stacks: Stacks
    warnings: tuple[str, ...]
    unverified: str | None

    @classmethod
    def of(cls, trace: DeviceTrace, waits_ns: Waits | None = None) -> RankStacks:
        """Of one trace. `waits_ns` must be known from the traces of all ranks."""
        paths = Paths()
        steps = Steps.of(trace.annotations, trace.names)
        spans = _frames(trace)
        nesting = HostNesting.of(spans, paths)
        if len(trace.events):
            work = _kernels(trace, nesting, paths, (waits_ns or {}).get(trace.source))
        else:
            work = _operators(trace, nesting)
        rows: list[tuple[int, int, int, int]] = []
        for device in np.unique(work.events.device).tolist():
            own = _of_device(work, device)
            rows += _ran(own, steps)
            rows += _idle(own.events, steps)
        return cls(
            source=trace.source,
            rank=trace.rank,
            stacks=_stacks(rows, paths, trace.names, steps),
            warnings=trace.warnings,
            unverified=trace.unverified,
        )


def _frames(trace: DeviceTrace) -> HostSpans:
    """Everything of the host that is a frame: a step is none, or no two steps would fold."""
    names: list[int] = np.unique(trace.annotations.name).tolist()
    steps = [code for code in names if Steps.is_name(trace.names[code])]
    marks = trace.annotations.where(~np.isin(trace.annotations.name, steps))
    # of two with the same extent the first one is taken to hold the other
    return marks.together(trace.modules).together(trace.operators)


def _kernels(
    trace: DeviceTrace, nesting: HostNesting, paths: Paths, waits_ns: Sequence[int | None] | None
) -> _Work:
    """Device events below what the host ran when it launched them."""
    events = trace.events
    holder = nesting.innermost(events.launch_thread, events.launch_ns)
    held = (holder != NOTHING) & events.launched
    above = np.full(len(events), NOTHING, np.int64)
    above[held] = nesting.path[holder[held]]
    pairs, place = np.unique(np.stack((above, events.name)), axis=1, return_inverse=True)
    codes = [paths.below(path, name) for path, name in zip(*pairs.tolist(), strict=True)]
    types = kernel_types(trace.names, events.name)
    until_ns = events.start_ns.copy()
    if waits_ns is not None:
        rows = np.flatnonzero(types == KernelType.COMMUNICATION)
        until_ns[rows] += np.array([wait_ns or 0 for wait_ns in waits_ns], np.int64)
    return _Work(events, np.array(codes, np.int64)[place.reshape(-1)], types, until_ns)


def _operators(trace: DeviceTrace, nesting: HostNesting) -> _Work:
    """Without a device, the operators themselves: each where it is the innermost of its thread."""
    spans = nesting.spans
    is_operator = np.isin(spans.name, np.unique(trace.operators.name))
    edges_ns = np.concatenate((spans.start_ns, spans.end_ns))
    threads = np.concatenate((spans.thread, spans.thread))
    order = np.lexsort((edges_ns, threads))
    edges_ns, threads = edges_ns[order], threads[order]
    inner = nesting.innermost(threads[:-1], edges_ns[:-1])
    runs = (threads[1:] == threads[:-1]) & (edges_ns[1:] > edges_ns[:-1]) & (inner != NOTHING)
    runs &= is_operator[inner] if len(is_operator) else False
    start_ns, end_ns, span = edges_ns[:-1][runs], edges_ns[1:][runs], inner[runs]
    order = np.argsort(start_ns, kind="stable")
    start_ns, end_ns, span = start_ns[order], end_ns[order], span[order]
    none = np.zeros(len(start_ns), np.int64)
    thread = spans.thread[span]
    is_launched: Flags = np.ones(len(start_ns), np.bool_)
    events = DeviceEvents(
        spans.name[span],
        none,
        thread,
        start_ns,
        end_ns - start_ns,
        none,
        start_ns,
        thread,
        is_launched,
    )
    types = kernel_types(trace.names, events.name)
    return _Work(events, nesting.path[span], types, start_ns)


def _of_device(work: _Work, device: int) -> _Work:
    own = work.events.device == device
    return _Work(work.events.where(own), work.path[own], work.type[own], work.waited_until_ns[own])


def _ran(work: _Work, steps: Steps) -> list[tuple[int, int, int, int]]:
    """Step, place, path and nanoseconds of what ran."""
    events = work.events
    shared = SharedTime.of(events.start_ns, events.end_ns, work.waited_until_ns)
    types = work.type[shared.item]
    computes = np.zeros(len(shared.edges_ns), np.bool_)
    computes[shared.piece[types == KernelType.COMPUTATION]] = True
    exposed = (types == KernelType.COMMUNICATION) & ~computes[shared.piece]
    is_early = shared.edges_ns[shared.piece] < work.waited_until_ns[shared.item]
    places = np.where(
        exposed, np.where(is_early, Place.STRAGGLER_WAIT, Place.EXPOSED_COMMUNICATION), 0
    )
    return _summed(
        steps.of_events(events)[shared.item], places, work.path[shared.item], shared.part_ns
    )


def _idle(events: DeviceEvents, steps: Steps) -> list[tuple[int, int, int, int]]:
    """The same of what did not: gaps between events, and to the edges of the steps."""
    busy = Coverage.of(events.start_ns, events.end_ns)
    if not len(busy.start_ns):
        return []
    gaps = busy.gaps()
    if len(steps) and steps.start_ns[0] < busy.start_ns[0]:
        gaps = Coverage(
            np.concatenate((steps.start_ns[:1], gaps.start_ns)),
            np.concatenate((busy.start_ns[:1], gaps.end_ns)),
        )
    host_wait, kernel_wait, ending = waits(events, gaps)
    places = np.where(
        host_wait, Place.HOST_WAIT, np.where(kernel_wait, Place.KERNEL_WAIT, Place.IDLE)
    )
    owners = steps.of_events(events)[ending]
    rows = _summed(owners, places, np.full(len(places), NOTHING), gaps.end_ns - gaps.start_ns)
    if len(steps) and steps.end_ns[-1] > busy.end_ns[-1]:
        left_ns = int(steps.end_ns[-1] - busy.end_ns[-1])
        rows.append((len(steps) - 1, Place.IDLE, NOTHING, left_ns))
    return rows


def _summed(step: Ints, place: Ints, path: Ints, part_ns: Ints) -> list[tuple[int, int, int, int]]:
    keys, group = np.unique(np.stack((step, place, path)), axis=1, return_inverse=True)
    sums = np.zeros(keys.shape[1], np.int64)
    np.add.at(sums, group.reshape(-1), part_ns)
    return list(zip(*keys.tolist(), sums.tolist(), strict=True))


def _stacks(
    rows: Sequence[tuple[int, int, int, int]], paths: Paths, names: Sequence[str], steps: Steps
) -> Stacks:
    columns = StackColumns()
    known = paths.names()
    labels: list[int] = []
    for step, place, path, part_ns in rows:
        frames = [] if place == Place.RUN else [Place(place).frame]
        frames += [names[code] for code in known[path]] if path != NOTHING else []
        columns.add(frames, (part_ns,))
        labels.append(-1 if step == OUTSIDE else columns.codes[str(steps.numbers[step])])
    stacks = columns.stacks((TIME,))
    label: Codes = np.array(labels, np.int32)
    return Stacks(
        stacks.names, stacks.frames, stacks.offsets, stacks.weights, stacks.values, {STEP: label}
    )
