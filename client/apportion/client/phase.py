"""A part of a span: `with step.phase("forward"): ...`."""

from __future__ import annotations

import sys
from time import monotonic_ns
from types import TracebackType
from typing import TYPE_CHECKING, Final

from apportion.client import layout
from apportion.client.counting import count
from apportion.client.framework import clock_bits_of
from apportion.client.locking import guarded
from apportion.client.records import PART, ThreadFacts, threads
from apportion.client.ring import ENDED, Ring, Slot
from apportion.client.status import OK, status_named, status_of
from apportion.client.surroundings import surroundings

if TYPE_CHECKING:
    from typing_extensions import Self

NO_OPEN_SLOT: Final = layout.FLAG_NO_OPEN_SLOT << layout.FLAGS_SHIFT
PHASE_BITS: Final = {
    name: layout.KINDS["phase"] | number << layout.PHASE_SHIFT
    for name, number in layout.PHASES.items()
}
"""Phase names to bits of `packed`."""
_pack_part: Final = PART.pack_into
_modules: Final = sys.modules


class Phase:
    """Divides the time of the span or phase that it is a part of. It is never the current span."""

    __slots__ = ("_bits", "_number", "_parent", "_ring", "_slot", "_start_ns", "_thread")

    _number: int
    _slot: Slot | tuple[()] | None
    _start_ns: int
    _thread: ThreadFacts

    def __init__(self, ring: Ring | None, parent: int, bits: int) -> None:
        self._ring = ring
        self._parent = parent
        self._bits = bits
        self._slot = None

    @guarded
    def __enter__(self) -> Self:
        try:
            ring = self._ring
            if ring is None or self._slot is not None:
                return self
            self._number = number = ring.number()
            clock_bits = ring.clock_bits
            if not clock_bits and (surroundings.cuda or len(_modules) != surroundings.modules):
                clock_bits = clock_bits_of(ring)
            self._bits = bits = self._bits | clock_bits
            self._thread = threads.facts
            slot = ring.open_slot(number, self._parent, bits, 0, layout.ABSENT)
            self._start_ns = start_ns = monotonic_ns()
            if slot is ring.spare:
                self._bits = bits | NO_OPEN_SLOT
            else:
                slot[2][slot[0]] = start_ns
            self._slot = slot
        except ValueError:
            count("ring_gone")
        except Exception:  # noqa: BLE001 - an observer never raises into the workload
            count("internal_error")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end(OK if kind is None else status_of(kind))

    @guarded
    def _end(self, status: int) -> None:
        try:
            if self._slot is None:
                return
            slot, self._slot = self._slot, ENDED  # no call between: one thread only gets the slot
            if not slot:
                return
            end_ns = monotonic_ns()
            opened, _, words, payload, take, give_back, _ = slot
            sequence, guard, offset = take()
            words[guard] = 0
            _pack_part(
                payload,
                offset,
                self._number,
                self._parent,
                self._bits | status,
                self._start_ns,
                end_ns,
                layout.ABSENT,
                self._thread.tail,
            )
            words[guard] = sequence
            words[opened] = 0
            give_back(slot)
        except ValueError:
            count("ring_gone")
        except Exception:  # noqa: BLE001 - an observer never raises into the workload
            count("internal_error")

    def start(self) -> Self:
        """Start it without a `with`."""
        return self.__enter__()

    def finish(self, status: str = "ok") -> None:
        """End it: `ok`, `error` or `cancelled`. A second time does nothing."""
        self._end(status_named(status))

    def phase(self, name: str) -> Phase:
        """A part of this phase, while it is open."""
        ring = self._ring
        if ring is None:
            return self
        return phase_of(ring if self._slot else None, self._number, name, type(self))


NULL_PHASE: Final = Phase(None, 0, 0)
"""Shared by all that measure nothing."""


def phase_of(
    ring: Ring | None, parent: int, name: object, made: type[Phase] | None = None
) -> Phase:
    """A phase of what has the number `parent`; without a ring, what it belongs to is not open.

    It is of the class `made`. Where that is not open or the name is wrong it measures nothing,
    which is counted.
    """
    bits = PHASE_BITS.get(name) if isinstance(name, str) else None
    if bits is None:
        count("phase_ignored")
        return NULL_PHASE
    if ring is None:
        count("not_open")
        return NULL_PHASE
    return (made or Phase)(ring, parent, bits)
