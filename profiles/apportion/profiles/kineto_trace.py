"""A trace of torch.profiler (kineto) as columns."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
import numpy as np

from apportion.core.errors import ProfileTraceError
from apportion.profiles.device_trace import (
    CollectiveFacts,
    DeviceEvents,
    DeviceTrace,
    Flags,
    HostSpans,
    Ints,
    MatrixProducts,
)
from apportion.profiles.event_order import OrderedEvents, launches_of, ordered
from apportion.profiles.kineto_events import ByteStream, Event, Header, KinetoEvents
from apportion.profiles.matrix_products import COUNTED, UNCOUNTED, product_flop

_DEVICE: Final = frozenset({"kernel", "gpu_memcpy", "gpu_memset", "Kernel", "Memcpy", "Memset"})
_LAUNCH: Final = frozenset({"cuda_runtime", "cuda_driver", "Runtime"})
_ANNOTATION: Final = "user_annotation"
_PYTHON: Final = "python_function"
_MODULE: Final = "nn.Module: "
"""Of all functions of Python, which `with_stack` records, those that are modules' calls."""
_OPERATOR: Final = frozenset({"cpu_op", "Operator"})
_FAR_BEHIND_NS: Final = 1_000_000_000
"""A queue of launches is seldom longer than that."""
_MAX_US: Final = 4e15
"""The year 2096; exact in a double, and in nanoseconds an int64 even when added to a base."""
_LONGEST_US: Final = 1e13
"""A hundred days."""


class _Spans:
    """Growing columns of host spans."""

    def __init__(self) -> None:
        self.name = array("q")
        self.thread = array("q")
        self.start_us = array("d")
        self.duration_us = array("d")

    def extend(self, names: Iterable[int], events: Sequence[Event]) -> None:
        self.name.extend(names)
        self.thread.extend([_number(event.tid) for event in events])
        self.start_us.extend([event.ts for event in events])
        self.duration_us.extend([event.dur for event in events])

    def spans(self, base_ns: int) -> HostSpans:
        start_ns, duration_ns = _times_ns(self.start_us, self.duration_us, base_ns)
        found = HostSpans(_ints(self.name), _ints(self.thread), start_ns, duration_ns)
        return found.where(np.argsort(start_ns, kind="stable"))


class KinetoColumns:
    """Takes events in batches and keeps the numbers that are asked of them later."""

    def __init__(self, source: str) -> None:
        self._source = source
        self.is_empty = True
        self._codes: dict[str, int] = {}
        self._annotations = _Spans()
        self._operators = _Spans()
        self._modules = _Spans()
        self._device = _Spans()
        self._device_ids = array("q")
        self._streams = array("q")
        self._sizes = array("q")
        self._correlations = array("q")
        self._launch_ids = array("q")
        self._launches = _Spans()
        self._collectives: list[CollectiveFacts] = []
        self._flop = 0
        self._uncounted: set[str] = set()

    def add(self, events: Iterable[Event]) -> None:
        """Take a batch."""
        kinds: dict[str, list[Event]] = {}
        for event in events:
            if event.ph == "X":
                kinds.setdefault(event.cat, []).append(event)
        self.is_empty = self.is_empty and not kinds
        for kind, own in kinds.items():
            if kind in _LAUNCH:
                self._add_launches(own)
            elif kind in _OPERATOR:
                self._operators.extend(self._coded(own), own)
                for event in own:
                    if event.name in COUNTED or event.name in UNCOUNTED:
                        self._count(event)
            elif kind in _DEVICE:
                self._add_device(own)
            elif kind == _ANNOTATION:
                self._annotations.extend(self._coded(own), own)
            elif kind == _PYTHON:
                modules = [event for event in own if event.name.startswith(_MODULE)]
                self._modules.extend(self._coded(modules), modules)

    def _coded(self, events: Sequence[Event]) -> list[int]:
        codes = self._codes
        return [codes.setdefault(event.name, len(codes)) for event in events]

    def _add_launches(self, events: Sequence[Event]) -> None:
        own = [event for event in events if event.args.correlation is not None]
        self._launch_ids.extend([event.args.correlation or 0 for event in own])
        self._launches.extend([0] * len(own), own)

    def _add_device(self, events: Sequence[Event]) -> None:
        for row, event in enumerate(events, start=len(self._streams)):
            if event.args.collective is not None:
                self._collectives.append(_collective(row, event))
        self._device.extend(self._coded(events), events)
        facts = [event.args for event in events]
        self._device_ids.extend([own.device or 0 for own in facts])
        # a stream is the thread of its event, too
        self._streams.extend(
            [
                _number(event.tid) if event.args.stream is None else event.args.stream
                for event in events
            ]
        )
        self._sizes.extend([own.bytes or 0 for own in facts])
        self._correlations.extend([own.correlation or 0 for own in facts])

    def _count(self, event: Event) -> None:
        flop = None
        if event.name in COUNTED:
            flop = product_flop(event.name, msgspec.json.decode(event.args.input_dims))
        if flop is None:
            self._uncounted.add(event.name)
        else:
            self._flop += flop

    def trace(self, headers: tuple[Header, ...]) -> DeviceTrace:
        """The columns, in order, without what is there twice."""
        base_ns = max((header.base_time_ns or 0 for header in headers), default=0)
        if base_ns > _MAX_US * 1000:
            raise OverflowError
        device, launches = self._device, self._launches
        start_ns, duration_ns = _times_ns(device.start_us, device.duration_us, base_ns)
        launch_start_ns, _ = _times_ns(launches.start_us, launches.duration_us, base_ns)
        launched, launch_ns, launch_thread = launches_of(
            _ints(self._correlations),
            _ints(self._launch_ids),
            launch_start_ns,
            _ints(launches.thread),
        )
        events = DeviceEvents(
            _ints(self._device.name),
            _ints(self._device_ids),
            _ints(self._streams),
            start_ns,
            duration_ns,
            _ints(self._sizes),
            launch_ns,
            launch_thread,
            launched,
        )
        found = ordered(events, _ints(self._correlations), self._collectives)
        rank, world_size, device_name = _identity(headers, found.events)
        return DeviceTrace(
            source=self._source,
            rank=rank,
            world_size=world_size,
            device_name=device_name,
            names=tuple(self._codes),
            events=found.events,
            annotations=self._annotations.spans(base_ns),
            operators=self._operators.spans(base_ns),
            modules=self._modules.spans(base_ns),
            collectives=found.collectives,
            products=MatrixProducts(self._flop, tuple(sorted(self._uncounted))),
            warnings=_warnings(found, len(self._launch_ids)),
        )


def read_kineto(stream: ByteStream, source: str) -> DeviceTrace:
    """The trace that `stream` holds.

    Raises:
        ProfileTraceError: it is none, it is cut off, or its times make no sense.
    """
    events = KinetoEvents(stream, source)
    columns = KinetoColumns(source)
    try:
        for batch in events:
            columns.add(batch)
        trace = columns.trace(events.headers)
    except ValueError as error:
        raise ProfileTraceError(f"{error}", path=source) from error
    except OverflowError as error:
        raise ProfileTraceError(
            "has a number beyond 64 bits: the file is damaged; record it again", path=source
        ) from error
    if columns.is_empty:
        raise ProfileTraceError(
            "has no events: nothing ran while it was recorded, or no step of the profiler's "
            "schedule was an active one; record it again",
            path=source,
        )
    return trace


def _collective(row: int, event: Event) -> CollectiveFacts:
    facts = event.args
    elements = [count for count in (facts.in_elements, facts.out_elements) if count is not None]
    return CollectiveFacts(
        event=row,
        name=facts.collective or event.name,
        elements=max(elements) if elements else None,
        dtype=facts.dtype,
        group=facts.group,
        group_ranks=None if facts.group_ranks is None else str(facts.group_ranks),
        group_size=facts.group_size,
        sequence=facts.sequence,
    )


def _identity(
    headers: tuple[Header, ...], events: DeviceEvents
) -> tuple[int | None, int | None, str | None]:
    """Rank, world size and the name of the device that ran most events."""
    rank = world_size = device_name = None
    devices, counts = np.unique(events.device, return_counts=True)
    busiest = int(devices[counts.argmax()]) if len(events) else None
    for header in headers:
        if header.distributed is not None:
            rank, world_size = header.distributed.rank, header.distributed.world_size
        for device in header.device_properties:
            if device.id == busiest:
                device_name = device.name
    return rank, world_size, device_name


def _warnings(found: OrderedEvents, launches: int) -> tuple[str, ...]:
    events = found.events
    said: list[str] = []
    if not len(events):
        said.append(
            "no event of a GPU: the trace was recorded without ProfilerActivity.CUDA or without "
            "a GPU, or another process held CUPTI; operators of the CPU stand in for kernels"
        )
    if found.repeated:
        said.append(
            f"{found.repeated} events are there more than once and count once: the file was "
            "written or merged repeatedly"
        )
    lonely = len(events) - int(events.launched.sum())
    if lonely and not launches:
        said.append(
            "no launch has a correlation id: steps are those in which kernels ran, and no wait "
            "can be explained; record ProfilerActivity.CPU with ProfilerActivity.CUDA"
        )
    elif lonely:
        said.append(
            f"{lonely} of {len(events)} device events have no launch with their correlation id "
            "and belong to the step in which they ran; start the profiler one step earlier"
        )
    early = events.launched & (events.start_ns < events.launch_ns)
    if early.any():
        worst_us = int((events.launch_ns - events.start_ns)[early].max()) / 1000
        said.append(
            f"{int(early.sum())} device events begin before their launch, by up to "
            f"{worst_us:,.0f} us: the clocks of GPU and host are apart, so host wait is not to be "
            "trusted; record again with a newer CUPTI"
        )
    delays_ns = (events.start_ns - events.launch_ns)[events.launched]
    if len(delays_ns) and int(delays_ns.min()) > _FAR_BEHIND_NS:
        said.append(
            f"every device event begins {int(delays_ns.min()) / 1e9:,.1f} s or more after its "
            "launch: the GPU was that far behind all the time, or its clock and the host's are "
            "apart, and then kernel wait is not to be trusted; record again with a newer CUPTI"
        )
    return tuple(said)


def _number(thread: int | str | None) -> int:
    """A thread's id; 0 where it has a name instead."""
    return thread if isinstance(thread, int) else 0


def _ints(column: array[int]) -> Ints:
    return np.frombuffer(column, dtype=np.int64) if len(column) else np.zeros(0, dtype=np.int64)


def _times_ns(start_us: array[float], duration_us: array[float], base_ns: int) -> tuple[Ints, Ints]:
    """Starts, counted from `base_ns`, and durations in nanoseconds.

    Whole and broken microseconds are scaled apart: absolute times times 1000 are no exact doubles.

    Raises:
        ValueError: a time that no clock shows.
    """
    starts = np.array(start_us, dtype=np.float64)
    durations = np.array(duration_us, dtype=np.float64)
    wrong: Flags = ~((np.abs(starts) < _MAX_US) & (durations >= 0) & (durations < _LONGEST_US))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise ValueError(
            f"has an event that starts at {starts[row]:g} us and takes {durations[row]:g} us: the "
            "clock was set while the trace was recorded, or the file is damaged; record it again"
        )
    whole = np.floor(starts)
    start_ns = whole.astype(np.int64) * 1000 + np.rint((starts - whole) * 1000).astype(np.int64)
    return base_ns + start_ns, np.rint(durations * 1000).astype(np.int64)
