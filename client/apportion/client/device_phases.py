"""Phases of steps by the clock of a CUDA device: events at their edges, read later; nobody waits.

The host's clock measures launches: a trainer runs ahead of its device. So where a phase begins and
where it ends an event goes into the current stream, and when a step ends, those that the device has
passed by then are read. What the device did *within a step's window* is written as phases of that
step, in the host's time. It may be work that an earlier step launched: its cost falls where the
device did it, as all time of a device does.

Recording an event costs microseconds, asking whether it was passed and how long it was behind
another one less, and neither waits. While a CUDA graph is captured nothing is recorded.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from threading import get_ident
from time import monotonic_ns
from typing import TYPE_CHECKING, Any, Final

from apportion.client import layout
from apportion.client.counting import count
from apportion.client.phase import Phase
from apportion.client.records import PART
from apportion.client.status import OK

if TYPE_CHECKING:
    from typing_extensions import Self

    from apportion.client.lifetime import Lifetime
    from apportion.client.ring import Ring, Slot

MOST_PENDING: Final = 1_000
"""Phases that a device may be behind; further ones are not measured."""
_NS_PER_MS: Final = 1e6
_PHASE_BITS: Final = 0xFF << layout.PHASE_SHIFT | 0xFF << layout.KIND_SHIFT
_CLOCK: Final = layout.CLOCK_DEVICE << layout.CLOCK_SHIFT

_pack_part: Final = PART.pack_into


class Edge:
    """Where a phase begins or ends. `at_ns`: when the device passed it, once that is known."""

    __slots__ = ("at_ns", "event", "host_ns")

    def __init__(self, event: Any, host_ns: int) -> None:
        self.event = event
        self.host_ns = host_ns
        """When the host put it into the stream."""
        self.at_ns: int | None = None


class Pending:
    """A phase that the device has not wholly passed. `from_ns`: what is before it is written."""

    __slots__ = ("begin", "bits", "end", "from_ns", "number")

    def __init__(self, bits: int, number: int, begin: Edge) -> None:
        self.bits = bits
        self.number = number
        self.begin = begin
        self.end: Edge | None = None
        """None while the host is in the phase."""
        self.from_ns = 0


class DevicePhases:
    """The phases of one thread's steps that the device has yet to pass."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew, as in a forked child: the events are its parent's."""
        self.pending: list[Pending] = []
        self._edges: deque[Edge] = deque()
        """As they were recorded, which is the order in which a stream passes them."""
        self._free: list[Any] = []
        """Events that nobody asks any more."""
        self._last: Edge | None = None
        """The last edge that was passed: the next one's time is told from it."""
        self._thread = 0
        self._failed = False

    def begin(self, bits: int, number: int) -> Pending | None:
        """The phase of these bits begins here; `number` grows with nesting. None: not measured."""
        if not self.pending:
            self._thread = get_ident()
        elif self._thread != get_ident() or len(self.pending) >= MOST_PENDING:
            return None
        edge = self._edge()
        if edge is None:
            return None
        phase = Pending(bits & _PHASE_BITS, number, edge)
        self.pending.append(phase)
        return phase

    def end(self, phase: Pending) -> None:
        """It ends here."""
        phase.end = self._edge()

    def write(self, step: Lifetime, slot: Slot) -> None:
        """A step ends: write what the device did of the phases since it began."""
        if self._thread != get_ident():
            return
        try:
            self._write(step, slot)
        except Exception:  # noqa: BLE001 - whatever the framework raises, the step goes on
            count("events_failed")
            self.forget()
            self._failed = True

    def _edge(self) -> Edge | None:
        if self._failed:
            return None
        try:
            cuda: Any = sys.modules["torch"].cuda
            if cuda.is_current_stream_capturing():
                return None
            event = self._free.pop() if self._free else cuda.Event(enable_timing=True)
            edge = Edge(event, monotonic_ns())
            event.record()
        except Exception:  # noqa: BLE001 - as above
            count("events_failed")
            self._failed = True
            return None
        self._edges.append(edge)
        return edge

    def _write(self, step: Lifetime, slot: Slot) -> None:
        if sys.modules["torch"].cuda.is_current_stream_capturing():
            return  # to ask an event would spoil the capture
        now_ns = monotonic_ns()
        while self._edges and self._edges[0].event.query():
            self._pass(self._edges.popleft(), now_ns)
        left: list[Pending] = []
        for phase in sorted(self.pending, key=_number):
            begin_ns, end = phase.begin.at_ns, phase.end
            if end is None:  # nobody has ended it with its step, or a capture began within
                continue
            if end.at_ns is None:
                left.append(phase)
            if begin_ns is not None:
                end_ns = now_ns if end.at_ns is None else end.at_ns
                start_ns = max(begin_ns, phase.from_ns, step._start_ns)  # noqa: SLF001 - its part
                if start_ns < end_ns:
                    _record(step, slot, phase.bits, start_ns, end_ns)
                phase.from_ns = end_ns  # the rest is in the next window
        self.pending = left

    def _pass(self, edge: Edge, now_ns: int) -> None:
        """The device has passed it: when, on the host's clock."""
        last, self._last = self._last, edge
        told_ns = 0
        if last is not None and last.at_ns is not None:
            told_ns = last.at_ns + round(last.event.elapsed_time(edge.event) * _NS_PER_MS)
            self._free.append(last.event)
        # An event is passed after it was recorded, and at once where the device had nothing to do:
        # what the first one was wrong by, and the two clocks' rates, is mended there.
        edge.at_ns = min(max(told_ns, edge.host_ns), now_ns)


def _record(step: Lifetime, slot: Slot, bits: int, start_ns: int, end_ns: int) -> None:
    _, _, words, payload, take, _, ring = slot
    number = ring.number()
    sequence, guard, offset = take()
    words[guard] = 0
    _pack_part(
        payload,
        offset,
        number,
        step._number,  # noqa: SLF001 - a part of it
        bits | _CLOCK | OK,
        start_ns,
        end_ns,
        layout.ABSENT,
        step._thread.tail,  # noqa: SLF001 - as above
    )
    words[guard] = sequence


def _number(phase: Pending) -> int:
    return phase.number


device_phases: Final = DevicePhases()
os.register_at_fork(after_in_child=device_phases.forget)


class DevicePhase(Phase):
    """A phase of a step in a program that may use CUDA: measured by both clocks, once it does."""

    __slots__ = ("_pending",)

    def __init__(self, ring: Ring | None, parent: int, bits: int) -> None:
        super().__init__(ring, parent, bits)
        self._pending: Pending | None = None

    def __enter__(self) -> Self:
        super().__enter__()
        if self._slot and self._ring is not None and self._ring.clock_bits:
            self._pending = device_phases.begin(self._bits, self._number)
        return self

    def _end(self, status: int) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            device_phases.end(pending)
        super()._end(status)
