"""What a program holds of a request, a step, a checkpoint or an evaluation."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic_ns
from types import TracebackType
from typing import Final, ParamSpec, TypeVar

from apportion.client import layout
from apportion.client.counters import summed
from apportion.client.counting import count
from apportion.client.lifetime import Lifetime
from apportion.client.locking import guarded
from apportion.client.nesting import in_context, innermost
from apportion.client.phase import NULL_PHASE, Phase, phase_of
from apportion.client.ring import ENDED, Slot
from apportion.client.session import session
from apportion.client.status import OK, status_named, status_of
from apportion.client.wrapping import wrap

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

ABSENT: Final = layout.ABSENT
SMALL: Final = (1 << 30) - 1
"""CPython compares up to here in one digit: what is larger takes the long way."""
_SCHEDULED_WORD: Final = layout.OPEN_SLOT_OFFSETS["scheduled_ns"] // 8
_FIRST_TOKEN_WORD: Final = layout.OPEN_SLOT_OFFSETS["first_token_ns"] // 8


class Span(Lifetime):
    """Measures from start to end: `with span:`, `@span`, or `start()` and `finish()`.

    Nothing here raises into the workload, blocks it or prints: what cannot be taken is ignored
    and counted (`client.counts()`).
    """

    __slots__ = ()
    _kind = _nested_kind = 0

    def __bool__(self) -> bool:
        """False only for the span that stands for all where there is no ring."""
        return True

    # -- start and end ----------------------------------------------------------------------

    def __enter__(self) -> Span:  # noqa: PYI034 - the null span where there is no ring
        try:
            if self._slot is None:
                ring = session.ring or session.acquire()
                if ring is None:
                    return NULL_SPAN
                self._begin(ring)
            elif not self._slot:
                count("span_reused")
                return self
            self._token = in_context.set(self)
        except ValueError:
            count("ring_gone")
        except Exception:  # noqa: BLE001 - an observer never raises into the workload
            count("internal_error")
        return self

    def _enter(self) -> Span:
        """Enter in the long way what could have taken the short one."""
        if session.ring is None and monotonic_ns() < session.retry_ns:
            return NULL_SPAN
        return Span.__enter__(self)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        slot, self._slot = self._slot, ENDED  # no call between: one thread only gets the slot
        self._exit(slot, kind)

    def _exit(self, slot: Slot | tuple[()] | None, kind: type[BaseException] | None) -> None:
        """Leave the `with` block in the long way; the slot is no longer this span's."""
        if slot is None:  # nothing was started
            self._slot = None
            return
        try:
            if slot:
                self._write(slot, OK if kind is None else status_of(kind))
        except ValueError:
            count("ring_gone")
        except Exception:  # noqa: BLE001 - an observer never raises into the workload
            count("internal_error")
        if in_context.get() is self:  # else noted with its thread, or left in another context
            in_context.reset(self._token)

    def start(self) -> Span:
        """Start without a `with`: it does not become current, and `finish()` ends it anywhere.

        A started span that nobody holds any more ends as cancelled.
        """
        try:
            if self._slot is not None:
                if not self._slot:
                    count("span_reused")
                return self
            ring = session.ring or session.acquire()
            if ring is None:
                return NULL_SPAN
            self._begin(ring)
            self._end_when_dropped()
        except ValueError:
            count("ring_gone")
        except Exception:  # noqa: BLE001 - an observer never raises into the workload
            count("internal_error")
        return self

    def finish(self, status: str = "ok") -> None:
        """End it, from any thread, task or context; a second time does nothing.

        Args:
            status: `ok`, `error` or `cancelled`.
        """
        try:
            bits = status_named(status)
            if self._slot is None:
                count("not_open")
            else:
                self._end(bits)
        except ValueError:
            count("ring_gone")
        except Exception:  # noqa: BLE001 - an observer never raises into the workload
            count("internal_error")

    def __call__(self, function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
        """Decorate a function, coroutine or generator: each call is a span of its own."""
        return wrap(self._again, function)

    # -- while it is open -------------------------------------------------------------------

    def phase(self, name: str) -> Phase:
        """A part of this span, for `with`; a name outside the closed set measures nothing."""
        slot = self._slot
        if not slot:
            return phase_of(None, 0, name)
        return phase_of(slot[6], self._number, name)

    def _is_open(self) -> bool:
        if self._slot:
            return True
        count("not_open")
        return False

    def _show(self, word: int, time_ns: int) -> None:
        """Store one time in the open slot."""
        slot = self._slot
        if slot and slot is not slot[6].spare:
            slot[2][slot[0] + word] = time_ns

    def scheduled(self) -> None:
        """The scheduler admits the request now: it waits no longer. The first call counts."""
        try:
            if self._is_open():
                if not (self._full or self._has_times):
                    self._fill()
                if not self._scheduled_ns:
                    self._scheduled_ns = now_ns = monotonic_ns()
                    self._show(_SCHEDULED_WORD, now_ns)
        except ValueError:
            count("ring_gone")
        except Exception:  # noqa: BLE001 - an observer never raises into the workload
            count("internal_error")

    def first_token(self) -> None:
        """The first output token is there: prefill ends, decode begins. The first call counts."""
        try:
            if self._is_open():
                if not (self._full or self._has_times):
                    self._fill()
                if not self._first_token_ns:
                    self._first_token_ns = now_ns = monotonic_ns()
                    self._show(_FIRST_TOKEN_WORD, now_ns)
        except ValueError:
            count("ring_gone")
        except Exception:  # noqa: BLE001 - an observer never raises into the workload
            count("internal_error")

    @guarded
    def add(
        self,
        # Not keyword-only, though written so: a default of one that is costs a dictionary look-up.
        input_tokens: int | None = None,
        cached_input_tokens: int | None = None,
        output_tokens: int | None = None,
        tokens: int | None = None,
        samples: int | None = None,
        micro_batches: int | None = None,
        preemptions: int | None = None,
        **others: int | None,
    ) -> None:
        """Add to counters, by name; `prompt_tokens` and `completion_tokens` are names too.

        Plain ints only: what is none is ignored and counted, unread, since reading a tensor would
        make the program wait for its device.
        """
        given = (
            input_tokens,
            cached_input_tokens,
            output_tokens,
            tokens,
            samples,
            micro_batches,
            preemptions,
        )
        try:
            if self._is_open():
                if not self._full:
                    self._fill()
                self._counters = summed(self._counters, given, others)
        except Exception:  # noqa: BLE001 - an observer never raises into the workload
            count("internal_error")


class NullSpan(Span):
    """Shared by all that have no ring: does nothing, and is false."""

    __slots__ = ()
    _kind = _nested_kind = 0

    def __init__(self) -> None:
        self._slot = None
        self._step = ABSENT
        self._full = False

    def __bool__(self) -> bool:
        """Nothing is measured."""
        return False

    def __enter__(self) -> Span:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Nothing was entered."""

    def __call__(self, function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
        """The function as it is."""
        return function

    def start(self) -> Span:
        """Nothing to start."""
        return self

    def finish(self, status: str = "ok") -> None:
        """Nothing was started."""

    def phase(self, name: str) -> Phase:  # noqa: ARG002 - as any span's
        """A phase that measures nothing."""
        return NULL_PHASE

    def scheduled(self) -> None:
        """Nothing was started."""

    def first_token(self) -> None:
        """Nothing was started."""

    def add(
        self,
        input_tokens: int | None = None,
        cached_input_tokens: int | None = None,
        output_tokens: int | None = None,
        tokens: int | None = None,
        samples: int | None = None,
        micro_batches: int | None = None,
        preemptions: int | None = None,
        **others: int | None,
    ) -> None:
        """Nothing was started."""


NULL_SPAN: Final = NullSpan()


def current_span() -> Span:
    """The span whose `with` block or decorated call this context is in.

    Where there is none, a span that is false and does nothing: calls on it are safe.
    """
    ring = session.ring
    span = None if ring is None else innermost(ring)
    return NULL_SPAN if span is None else span
