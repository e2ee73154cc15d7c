"""What all operations so far add up to, by communicator and collective."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from apportion.collectors.nccl_operation import Operation
from apportion.core.collective import OTHER, bus_factor
from apportion.core.sample import Sample

MOST_COMMUNICATORS: Final = 64
MOST_MEETINGS: Final = 20_000
"""Operations of several ranks whose other halves are awaited; then the oldest goes without."""

_Place = tuple[str, str]
"""Communicator and collective."""


@dataclass(slots=True)
class _Sums:
    size_bytes: int = 0
    operations: int = 0
    duration_ns: int | None = None
    wait_ns: int | None = None
    recent_bytes: int = 0
    """Of timed operations since the last look, with the times and the bytes on the bus below."""
    recent_bus_bytes: float = 0.0
    recent_ns: int = 0


@dataclass(slots=True)
class _Meeting:
    """One operation of a group, and how long it took each rank that is seen here."""

    place: _Place
    durations_ns: list[int] = field(default_factory=list[int])


class NcclTotals:
    """Counters that only rise. Each operation is to be given once."""

    def __init__(self) -> None:
        self._sums: dict[_Place, _Sums] = {}
        self._communicators: set[str] = set()
        self._meetings: OrderedDict[tuple[str, str, int], _Meeting] = OrderedDict()
        self._members: dict[tuple[str, str], set[str]] = {}
        self.missed = 0
        """Operations that a source had overwritten before they were read."""

    def add(self, process: str, operation: Operation) -> None:
        """An operation that `process`, any stable name of it, took part in."""
        place = (self._folded(operation.communicator), operation.collective)
        sums = self._sums.setdefault(place, _Sums())
        sums.size_bytes += operation.size_bytes
        sums.operations += 1
        if operation.duration_ns is None:
            return
        sums.duration_ns = (sums.duration_ns or 0) + operation.duration_ns
        sums.recent_ns += operation.duration_ns
        sums.recent_bytes += operation.size_bytes
        if operation.ranks is not None:
            factor = float(bus_factor(operation.collective, operation.ranks))
            sums.recent_bus_bytes += operation.size_bytes * factor
        if operation.sequence is not None:
            self._meet(process, place, operation)

    def samples(self) -> Iterator[Sample]:
        """Everything as it is now; bandwidths are those since the last call that had timings."""
        for (communicator, collective), sums in sorted(self._sums.items()):
            labels = (("communicator", communicator), ("collective", collective))
            yield Sample("nccl_bytes_total", sums.size_bytes, labels)
            yield Sample("nccl_operations_total", sums.operations, labels)
            if sums.duration_ns is not None:
                yield Sample("nccl_seconds_total", sums.duration_ns / 1e9, labels)
            if sums.wait_ns is not None:
                yield Sample("nccl_wait_seconds_total", sums.wait_ns / 1e9, labels)
            if sums.recent_ns:
                seconds = sums.recent_ns / 1e9
                algorithm, bus = sums.recent_bytes / seconds, sums.recent_bus_bytes / seconds
                yield Sample("nccl_algorithm_bandwidth_bytes_per_second", algorithm, labels)
                if sums.recent_bus_bytes:
                    yield Sample("nccl_bus_bandwidth_bytes_per_second", bus, labels)
                sums.recent_bytes = sums.recent_ns = 0
                sums.recent_bus_bytes = 0.0
        yield Sample("nccl_missed_operations_total", self.missed)

    def _folded(self, communicator: str) -> str:
        if communicator in self._communicators:
            return communicator
        if len(self._communicators) >= MOST_COMMUNICATORS:
            return OTHER
        self._communicators.add(communicator)
        return communicator

    def _meet(self, process: str, place: _Place, operation: Operation) -> None:
        """The quickest rank only moved bytes; what others took longer they waited for somebody.

        That is known once every rank that is seen here has told its time.
        """
        group = (place[0], operation.group)
        members = self._members.setdefault(group, set())
        members.add(process)
        key = (*group, operation.sequence or 0)
        meeting = self._meetings.setdefault(key, _Meeting(place))
        meeting.durations_ns.append(operation.duration_ns or 0)
        if len(meeting.durations_ns) >= max(2, len(members)):
            self._part(self._meetings.pop(key))
        elif len(self._meetings) > MOST_MEETINGS:
            self._part(self._meetings.popitem(last=False)[1])

    def _part(self, meeting: _Meeting) -> None:
        durations = meeting.durations_ns
        if len(durations) > 1:
            sums = self._sums[meeting.place]
            waited_ns = sum(durations) - len(durations) * min(durations)
            sums.wait_ns = (sums.wait_ns or 0) + waited_ns
