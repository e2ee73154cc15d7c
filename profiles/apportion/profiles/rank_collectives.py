"""A rank's collectives: bytes, time and bandwidth of each operation that its trace shows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from apportion.core.collective import (
    algorithm_bandwidth,
    bus_bandwidth,
    collective_named,
    item_bytes,
)
from apportion.profiles.device_trace import DeviceTrace
from apportion.profiles.kernel_type import KernelType, kernel_types
from apportion.profiles.rank_breakdown import RankBreakdown, StepBreakdown
from apportion.profiles.steps import OUTSIDE, Steps

NO_FACTS: Final = (
    "its communication kernels say neither bytes nor group: PyTorch writes them since late 2023; "
    "times are shown, and ranks are matched by order alone"
)


@dataclass(frozen=True, slots=True)
class Collective:
    """One operation as one rank saw it; None where the trace does not say.

    name: of `core.collective`. step: its number. size_bytes: S of NCCL's tests, the whole
    result of a gather and the whole input of a scatter. sequence: the profiler's own number.
    """

    name: str
    kernel: str
    step: int | None
    start_ns: int
    duration_ns: int
    size_bytes: int | None
    group: str | None
    group_ranks: str | None
    group_size: int | None
    sequence: int | None

    @property
    def end_ns(self) -> int:
        """When this rank had finished it."""
        return self.start_ns + self.duration_ns

    def algorithm_bandwidth(self, duration_ns: int) -> float | None:
        """Bytes a second, had it taken `duration_ns`."""
        return (
            None if self.size_bytes is None else algorithm_bandwidth(self.size_bytes, duration_ns)
        )

    def bus_bandwidth(self, duration_ns: int) -> float | None:
        """Bytes a second over the slowest link, had it taken `duration_ns`."""
        if self.size_bytes is None or self.group_size is None:
            return None
        return bus_bandwidth(self.name, self.size_bytes, duration_ns, self.group_size)


@dataclass(frozen=True, slots=True)
class RankCollectives:
    """One trace's communication. operations: in the order of their starts."""

    source: str
    rank: int | None
    world_size: int | None
    operations: tuple[Collective, ...]
    steps: tuple[StepBreakdown, ...]
    whole: StepBreakdown
    warnings: tuple[str, ...]
    unverified: str | None

    @classmethod
    def of(cls, trace: DeviceTrace) -> RankCollectives:
        """Everything of communication in a trace."""
        divided = RankBreakdown.of(trace)
        operations = tuple(_operations(trace))
        warnings = divided.warnings
        if not operations:
            warnings = (*warnings, "no kernel of communication: nothing was sent while it recorded")
        elif all(one.size_bytes is None and one.group is None for one in operations):
            warnings = (*warnings, NO_FACTS)
        return cls(
            source=trace.source,
            rank=trace.rank,
            world_size=trace.world_size,
            operations=operations,
            steps=divided.steps,
            whole=divided.whole,
            warnings=warnings,
            unverified=trace.unverified,
        )


def _operations(trace: DeviceTrace) -> Iterator[Collective]:
    events = trace.events
    steps = Steps.of(trace.annotations, trace.names)
    owners = steps.of_events(events)
    facts = {one.event: one for one in trace.collectives}
    types = kernel_types(trace.names, events.name)
    for row in np.flatnonzero(types == KernelType.COMMUNICATION).tolist():
        kernel = trace.names[int(events.name[row])]
        owner = int(owners[row])
        known = facts.get(row)
        size_bytes = None
        if known is not None and known.elements is not None and known.dtype is not None:
            item = item_bytes(known.dtype)
            size_bytes = None if item is None else known.elements * item
        yield Collective(
            name=collective_named(kernel if known is None else known.name),
            kernel=kernel.partition("(")[0],
            step=None if owner == OUTSIDE else steps.numbers[owner],
            start_ns=int(events.start_ns[row]),
            duration_ns=int(events.duration_ns[row]),
            size_bytes=size_bytes,
            group=None if known is None else known.group,
            group_ranks=None if known is None else known.group_ranks,
            group_size=None if known is None else known.group_size,
            sequence=None if known is None else known.sequence,
        )
