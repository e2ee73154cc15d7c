"""From a span's start to its record, once and completely: the long way.

`training` and `serving` have short ways for the common case and come back here for every other one.
"""
# ruff: noqa: SLF001 - a span reads the one that it is in

from __future__ import annotations

from time import monotonic_ns
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

from apportion.client.counters import NONE_REPORTED, Values
from apportion.client.counting import count
from apportion.client.framework import clock_bits_of
from apportion.client.layout import ADAPTER_SHIFT
from apportion.client.locking import guarded
from apportion.client.nesting import innermost
from apportion.client.phase import NO_OPEN_SLOT
from apportion.client.records import RECORD, ThreadFacts, threads
from apportion.client.ring import ENDED, Ring, Slot
from apportion.client.session import session
from apportion.client.status import CANCELLED

if TYPE_CHECKING:
    from contextvars import Token

    from typing_extensions import Self

    from apportion.client.span import Span

_pack_record: Final = RECORD.pack_into


class Lifetime:
    """What a span holds, from what it was made with to its record."""

    __slots__ = (
        "_adapter",
        "_arrival_ns",
        "_bits",
        "_counters",
        "_engine",
        "_first_token_ns",
        "_full",
        "_id",
        "_id_head",
        "_labels",
        "_number",
        "_parent",
        "_scheduled_ns",
        "_slot",
        "_start_ns",
        "_step",
        "_thread",
        "_token",
        "_trace",
        "_words",
        "above",
    )

    # What a span is made with: whoever makes one sets these.
    _step: int
    _slot: Slot | tuple[()] | None
    """None until it is started, ENDED once it has ended."""
    _full: bool
    """Whether its record says more than the short form of its kind holds."""

    # From its start on.
    _number: int
    _bits: int
    """The record's `packed`, but for the status."""
    _start_ns: int
    _thread: ThreadFacts
    _token: Token[Span | None]
    """Only where it was made the current span of its context."""
    above: Span | None
    """The span around it."""

    # Where it is full; a request sets some of them when it is made.
    _parent: int
    _arrival_ns: int
    _scheduled_ns: int
    _first_token_ns: int
    _counters: Values
    _labels: object
    _words: int
    _adapter: int
    _engine: int
    """Said where FLAG_ENGINE is among its bits."""
    _trace: bytes
    _id: bytes
    _id_head: int

    _kind: ClassVar[int]
    """Bits of `packed`."""
    _nested_kind: ClassVar[int]
    """The same inside another span: a checkpoint in a step is a phase of it."""
    _has_times: ClassVar[bool] = False
    """Whether the short form holds `scheduled` and `first_token`."""
    _started_class: ClassVar[type[Lifetime]]
    """The twin of a kind that `start()` makes of it: it ends when nobody holds it."""

    def __init_subclass__(cls, *, started: bool = False) -> None:
        if not started:
            body = {"__slots__": (), "__del__": _drop, "__doc__": cls.__doc__}
            make = cast("Any", type(cls))
            cls._started_class = make(f"Started{cls.__name__}", (cls,), body, started=True)

    def _fill(self) -> None:
        """Set what the short form leaves unsaid."""
        self._full = True
        self._parent = self._arrival_ns = self._scheduled_ns = self._first_token_ns = 0
        self._counters = NONE_REPORTED
        self._words = self._adapter = self._engine = self._id_head = 0
        self._trace = self._id = b""

    def is_in(self, ring: Ring) -> bool:
        """Whether it is open, in this ring: not in one before a fork or another init()."""
        slot = self._slot
        return slot[6] is ring if slot else False

    def _intern(self, ring: Ring) -> None:
        """Look the labels up in a ring's words: only requests have some."""

    def _end_when_dropped(self) -> None:
        """Become the twin that ends as cancelled when nobody holds it any more."""
        this: Any = self
        this.__class__ = self._started_class

    def _again(self) -> Self:
        """A span that was given the same, not yet started."""
        span = type(self)()
        span._step = self._step
        span._slot = None
        span._full = False
        return span

    @guarded
    def _begin(self, ring: Ring) -> None:
        """Take a number and an open slot, and become visible to the agent as running."""
        if not self._full:
            self._fill()
        clock_bits = clock_bits_of(ring)
        self.above = above = innermost(ring)
        if above is None:
            bits = self._kind | clock_bits
            if session.read_trace is not None and not self._trace:
                self._trace = session.read_trace()
        else:
            bits = self._nested_kind | clock_bits
            self._parent = above._number
        self._intern(ring)
        self._thread = threads.facts
        self._number = number = ring.number()
        words = self._words | self._adapter << ADAPTER_SHIFT
        slot = ring.open_slot(number, self._parent, bits, words, self._step)
        self._start_ns = start_ns = monotonic_ns()
        if slot is ring.spare:
            bits |= NO_OPEN_SLOT
        else:
            slot[2][slot[0]] = start_ns
        self._bits = bits
        self._slot = slot

    def _end(self, status: int, end_ns: int = 0) -> None:
        """End it once it has begun, unless it has ended before."""
        if self._slot:
            slot, self._slot = self._slot, ENDED  # no call between: one thread only gets the slot
            if slot:
                self._write(slot, status, end_ns)

    @guarded
    def _write(self, slot: Slot, status: int, end_ns: int = 0) -> None:
        """Write the full record, then clear the open slot. It ends now, if not said otherwise."""
        end_ns = end_ns or monotonic_ns()
        if not self._full:
            self._fill()
        opened, _, words, payload, take, give_back, _ = slot
        one, two, three, four, five, six, seven = self._counters
        sequence, guard, offset = take()
        words[guard] = 0
        _pack_record(
            payload,
            offset,
            self._number,
            self._parent,
            self._bits | status,
            self._arrival_ns,
            self._start_ns,
            self._scheduled_ns,
            self._first_token_ns,
            end_ns,
            self._step,
            one,
            two,
            three,
            four,
            five,
            six,
            seven,
            self._words,
            self._adapter,
            self._engine,
            self._trace,
            self._thread.native_id,
            self._id_head,
            self._id,
        )
        words[guard] = sequence
        words[opened] = 0
        give_back(slot)


def _drop(span: Lifetime) -> None:
    """Finaliser of a started span: nobody can end it any more."""
    try:
        if span._slot:
            count("span_dropped")
            span._end(CANCELLED)
    except Exception:  # noqa: BLE001 - at interpreter exit half of us may be gone
        return
