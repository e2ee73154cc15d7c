"""Training: steps, and what happens between them."""
# ruff: noqa: SLF001 - a constructor that Python calls costs as much as four stores

from __future__ import annotations

from time import monotonic_ns
from types import TracebackType
from typing import Final

from apportion.client import layout
from apportion.client.capture import capture
from apportion.client.counters import NUMBER_LIMIT
from apportion.client.counting import count
from apportion.client.device_phases import DevicePhase, device_phases
from apportion.client.locking import guarded
from apportion.client.nesting import in_context
from apportion.client.phase import PHASE_BITS, Phase, phase_of
from apportion.client.records import OPEN_STEP, PLAIN, threads
from apportion.client.ring import ENDED, Ring, Slot
from apportion.client.session import session
from apportion.client.span import SMALL, Span
from apportion.client.status import OK, status_of
from apportion.client.surroundings import surroundings

STEP: Final = layout.KINDS["step"]

_in_context = in_context.get
_pack_open: Final = OPEN_STEP.pack_into
_pack_plain: Final = PLAIN.pack_into


class Step(Span):
    """A training step. The short way is for one inside no other span, with no counters."""

    __slots__ = ()
    _kind = _nested_kind = STEP

    def phase(self, name: str) -> Phase:
        """A part of this step; where PyTorch can use CUDA, by the device's clock too."""
        slot = self._slot
        if not slot or not surroundings.cuda:
            return super().phase(name)
        return phase_of(slot[6], self._number, name, DevicePhase)

    def _begin(self, ring: Ring) -> None:
        capture.at_step(ring.path, self._step)
        super()._begin(ring)

    def _write(self, slot: Slot, status: int, end_ns: int = 0) -> None:
        if device_phases.pending and not end_ns:
            device_phases.write(self, slot)
        super()._write(slot, status, end_ns)

    @guarded
    def __enter__(self) -> Span:
        try:
            ring = session.short
            if ring is None:
                return self._enter()
            facts = threads.facts
            around = facts.innermost
            if (
                self._slot is not None
                or (around is not None and around._slot)
                or _in_context() is not None
                or surroundings.running_loop() is not None
            ):
                return self._enter()
            start_ns = monotonic_ns()
            if start_ns >= session.due_ns:
                return self._enter()
            self._number = number = ring.next_number()
            slot = ring.take_slot()
            self._bits = bits = ring.clock_bits + STEP
            self._thread = facts
            facts.innermost = self
            self._start_ns = start_ns
            _pack_open(ring.payload, slot[1], number, bits, self._step)
            ring.words[slot[0]] = start_ns
            self._slot = slot
        except (IndexError, StopIteration):  # no open slot is free, or no number
            return super().__enter__()
        except ValueError:
            count("ring_gone")
        except Exception:  # noqa: BLE001 - an observer never raises into the workload
            count("internal_error")
        return self

    @guarded
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        slot, self._slot = self._slot, ENDED  # no call between: one thread only gets the slot
        if self._full or not slot or device_phases.pending:
            self._exit(slot, kind)
            return
        try:
            end_ns = monotonic_ns()
            words = slot[2]
            sequence, guard, offset = slot[4]()
            words[guard] = 0
            _pack_plain(
                slot[3],
                offset,
                self._number,
                self._bits + (OK if kind is None else status_of(kind)),
                self._start_ns,
                end_ns,
                self._step,
                self._thread.tail,
            )
            words[guard] = sequence
            words[slot[0]] = 0
            slot[5](slot)
        except ValueError:
            count("ring_gone")
        except Exception:  # noqa: BLE001 - an observer never raises into the workload
            count("internal_error")


class Aside(Span):
    """What a trainer does beside its steps: one that was opened beforehand is not begun yet."""

    __slots__ = ()

    def _begin(self, ring: Ring) -> None:
        if session.opener is not None:
            session.opener.pause()
        super()._begin(ring)

    def _write(self, slot: Slot, status: int, end_ns: int = 0) -> None:
        super()._write(slot, status, end_ns)
        if session.opener is not None:
            session.opener.go_on()


class Checkpoint(Aside):
    """Saving state."""

    __slots__ = ()
    _kind = layout.KINDS["checkpoint"]
    _nested_kind = PHASE_BITS["checkpoint"]


class Evaluation(Aside):
    """Measuring the model."""

    __slots__ = ()
    _kind = layout.KINDS["evaluation"]
    _nested_kind = PHASE_BITS["evaluation"]


def step(n: int) -> Span:
    """A training step.

    Args:
        n: Its number, a plain int: of optimizer steps, so that a resumed attempt repeats numbers.
    """
    span = Step()
    span._slot = None
    span._full = False
    if type(n) is int and 0 <= n <= SMALL:
        span._step = n
    else:
        span._step = _step_number(n)
    return span


def _step_number(n: int) -> int:
    if type(n) is int and 0 <= n < NUMBER_LIMIT:
        return n
    count("step_ignored")
    return layout.ABSENT


def checkpoint(n: int | None = None) -> Span:
    """Saving state: outside a step a category of its own, inside one a phase of it.

    Args:
        n: The last step that it holds, a plain int: what `resumed()` says when it is loaded.
    """
    span = Checkpoint()
    span._slot = None
    span._full = False
    span._step = layout.ABSENT if n is None else _step_number(n)
    return span


def evaluation() -> Span:
    """Measuring the model: outside a step a category of its own, inside one a phase of it."""
    span = Evaluation()
    span._slot = None
    span._full = False
    span._step = layout.ABSENT
    return span
