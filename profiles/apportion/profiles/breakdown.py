"""What a device's time went to: the definitions of HolisticTraceAnalysis, on any set of events.

The span goes from the first event's start to the last one's end. Every instant of it is idle or
has a mask of the types that run then; all figures here are sums over masks, so that they add up.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from apportion.profiles.coverage import Coverage, durations_by_mask
from apportion.profiles.device_trace import DeviceEvents, Flags, Ints
from apportion.profiles.kernel_type import KernelType

KERNEL_WAIT_NS: Final = 30_000
"""Gaps below it come from launching one kernel after another."""


@dataclass(frozen=True, slots=True)
class Idle:
    """Gaps, by why nothing ran.

    host_wait: the host began to launch the event that ends the gap only after the gap began.
    kernel_wait: else, below `KERNEL_WAIT_NS`: the cost of one kernel after another. other: the
    rest, such as waiting for an event of another stream; also gaps whose launch is not known.
    """

    host_wait_ns: int
    kernel_wait_ns: int
    other_ns: int

    @property
    def total_ns(self) -> int:
        """All of it."""
        return self.host_wait_ns + self.kernel_wait_ns + self.other_ns


@dataclass(frozen=True, slots=True)
class Breakdown:
    """How a set of device events filled its span.

    event_ns: the events' own durations added up; more than `busy_ns` where they ran at once.
    masks_ns: entry m is how long exactly the types of m's bits ran (see `KernelType`).
    """

    events: int
    event_ns: int
    span_ns: int
    masks_ns: tuple[int, ...]
    idle: Idle

    @classmethod
    def of(cls, events: DeviceEvents, types: Ints) -> Breakdown:
        """Of events in the order of their starts, with the `KernelType` of each."""
        end_ns = events.end_ns
        sets = [
            Coverage.of(events.start_ns[types == kind], end_ns[types == kind])
            for kind in KernelType
        ]
        whole = Coverage.of(events.start_ns, end_ns)
        return cls(
            events=len(events),
            event_ns=int(events.duration_ns.sum()),
            span_ns=whole.span_ns,
            masks_ns=tuple(durations_by_mask(sets).tolist()),
            idle=_idle(events, whole),
        )

    @property
    def busy_ns(self) -> int:
        """While anything ran."""
        return sum(self.masks_ns)

    @property
    def idle_ns(self) -> int:
        """While nothing ran."""
        return self.span_ns - self.busy_ns

    @property
    def compute_ns(self) -> int:
        """While a kernel of computation ran, whatever ran beside it."""
        return self.while_ns(KernelType.COMPUTATION)

    @property
    def communication_ns(self) -> int:
        """While a kernel of communication ran."""
        return self.while_ns(KernelType.COMMUNICATION)

    @property
    def memory_ns(self) -> int:
        """While a copy or set of memory ran."""
        return self.while_ns(KernelType.MEMORY)

    @property
    def overlapped_communication_ns(self) -> int:
        """Of communication, what computation hid."""
        return self.while_ns(KernelType.COMMUNICATION, KernelType.COMPUTATION)

    @property
    def exposed_communication_ns(self) -> int:
        """Of communication, what no computation hid: a step is longer by it."""
        return self.communication_ns - self.overlapped_communication_ns

    @property
    def non_compute_ns(self) -> int:
        """Busy without computation."""
        return self.busy_ns - self.compute_ns

    def while_ns(self, *kinds: KernelType) -> int:
        """How long all of `kinds` ran, alone or beside others."""
        wanted = sum(1 << kind for kind in kinds)
        return sum(ns for mask, ns in enumerate(self.masks_ns) if mask & wanted == wanted)


def stream_idle(events: DeviceEvents) -> dict[tuple[int, int], Idle]:
    """The same rule for the gaps of each (device, stream) alone, as HolisticTraceAnalysis does."""
    streams = np.unique(np.stack((events.device, events.stream)), axis=1)
    found: dict[tuple[int, int], Idle] = {}
    pairs: Iterable[tuple[int, int]] = zip(*streams.tolist(), strict=True)
    for device, stream in pairs:
        own = events.where((events.device == device) & (events.stream == stream))
        found[device, stream] = _idle(own, Coverage.of(own.start_ns, own.end_ns))
    return found


def waits(events: DeviceEvents, gaps: Coverage) -> tuple[Flags, Flags, Ints]:
    """Which gaps were host wait, which kernel wait; and the row of the event that ended each.

    Every gap must end where an event of `events`, which are in order, begins.
    """
    # the first event that starts where the gap ends
    ending = np.searchsorted(events.start_ns, gaps.end_ns, side="left")
    launched = events.launched[ending]
    host_wait = launched & (events.launch_ns[ending] > gaps.start_ns)
    is_short = gaps.end_ns - gaps.start_ns < KERNEL_WAIT_NS
    return host_wait, ~host_wait & launched & is_short, ending


def _idle(events: DeviceEvents, whole: Coverage) -> Idle:
    gaps = whole.gaps()
    length_ns = gaps.end_ns - gaps.start_ns
    host_wait, kernel_wait, _ = waits(events, gaps)
    return Idle(
        int(length_ns[host_wait].sum()),
        int(length_ns[kernel_wait].sum()),
        int(length_ns[~host_wait & ~kernel_wait].sum()),
    )
