"""The columns of one rank's trace, whichever profiler wrote it.

All times are integer nanoseconds of the trace's own clock: only differences mean anything, and
two ranks' clocks may differ. Arrays of one table have one length and are never written to.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class DeviceEvents:
    """What ran on a device: kernels, copies and sets, in the order of their starts. Shape n.

    name: index into the trace's `names`.
    size_bytes: of copies and sets, 0 where the trace does not say.
    launch_ns, launch_thread: when the host began the call that launched it, and in which thread;
    meaningless where not `launched`.
    """

    name: Ints
    device: Ints
    stream: Ints
    start_ns: Ints
    duration_ns: Ints
    size_bytes: Ints
    launch_ns: Ints
    launch_thread: Ints
    launched: Flags

    @property
    def end_ns(self) -> Ints:
        """When each ended."""
        return self.start_ns + self.duration_ns

    def __len__(self) -> int:
        return len(self.name)

    def where(self, chosen: Flags | Ints) -> DeviceEvents:
        """The events that a mask or an index chooses."""
        return DeviceEvents(
            self.name[chosen],
            self.device[chosen],
            self.stream[chosen],
            self.start_ns[chosen],
            self.duration_ns[chosen],
            self.size_bytes[chosen],
            self.launch_ns[chosen],
            self.launch_thread[chosen],
            self.launched[chosen],
        )

    def whole_microseconds(self) -> DeviceEvents:
        """Each event shrunk to the whole microseconds inside it, as HolisticTraceAnalysis does.

        It loses up to 2 us of every event, half a percent of a trace of short kernels: only for
        figures that are to be compared with that program's.
        """
        start_ns = -(-self.start_ns // 1000) * 1000
        duration_ns = np.maximum(self.end_ns // 1000 * 1000 - start_ns, 0)
        return replace(self, start_ns=start_ns, duration_ns=duration_ns)


@dataclass(frozen=True, slots=True)
class HostSpans:
    """What the host did: annotations or operators, in the order of their starts. Shape n."""

    name: Ints
    thread: Ints
    start_ns: Ints
    duration_ns: Ints

    @property
    def end_ns(self) -> Ints:
        """When each ended."""
        return self.start_ns + self.duration_ns

    def __len__(self) -> int:
        return len(self.name)

    @classmethod
    def none(cls) -> HostSpans:
        """No spans at all."""
        nothing = np.zeros(0, np.int64)
        return cls(nothing, nothing, nothing, nothing)

    def together(self, other: HostSpans) -> HostSpans:
        """Both, in no order."""
        return HostSpans(
            np.concatenate((self.name, other.name)),
            np.concatenate((self.thread, other.thread)),
            np.concatenate((self.start_ns, other.start_ns)),
            np.concatenate((self.duration_ns, other.duration_ns)),
        )

    def where(self, chosen: Flags | Ints) -> HostSpans:
        """The spans that a mask or an index chooses."""
        return HostSpans(
            self.name[chosen], self.thread[chosen], self.start_ns[chosen], self.duration_ns[chosen]
        )


@dataclass(frozen=True, slots=True)
class CollectiveFacts:
    """What a trace says of the collective behind event number `event`; None where it does not.

    elements: the greater of what goes in and what comes out of one rank.
    sequence: its number in the group, where the profiler counted.
    """

    event: int
    name: str
    elements: int | None
    dtype: str | None
    group: str | None
    group_ranks: str | None
    group_size: int | None
    sequence: int | None


@dataclass(frozen=True, slots=True)
class MatrixProducts:
    """Floating point operations that operators' recorded shapes prove.

    flop: of the operators that were counted. uncounted: names of operators that multiply, too,
    and whose shapes were not recorded or whose formula is not known here.
    """

    flop: int
    uncounted: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DeviceTrace:
    """One rank's trace.

    source: the file, and the member in an archive. annotations: what the user marked, such as
    steps. modules: calls of the model's, where they were recorded. warnings: what is doubtful, each
    with its remedy. unverified: why nobody can vouch for the reader, None where real files were
    read.
    """

    source: str
    rank: int | None
    world_size: int | None
    device_name: str | None
    names: tuple[str, ...]
    events: DeviceEvents
    annotations: HostSpans
    operators: HostSpans
    modules: HostSpans
    collectives: tuple[CollectiveFacts, ...]
    products: MatrixProducts
    warnings: tuple[str, ...]
    unverified: str | None = None
