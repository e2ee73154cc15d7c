"""Steps that are opened before it is known that they are some, so that they are seen running.

A trainer's step begins where the last one ended. What is opened there is taken back where none
follows: at an evaluation or a checkpoint, and at the end of training.
"""
# ruff: noqa: SLF001 - this is Step's other half

from __future__ import annotations

import sys
from threading import get_ident
from typing import Final

from apportion.client import layout
from apportion.client.counters import NONE_REPORTED
from apportion.client.counting import count
from apportion.client.nesting import in_context, innermost
from apportion.client.phase import Phase
from apportion.client.ring import ENDED
from apportion.client.session import session
from apportion.client.status import CANCELLED, status_of
from apportion.client.training import Step

_NO_STEP: Final = layout.KINDS["evaluation"] - layout.KINDS["step"]


class OpenedStep(Step):
    """A step that was opened before anybody knew whether it would be one."""

    __slots__ = ()

    @property
    def counts_something(self) -> bool:
        """Whether a counter of it was ever reported."""
        return self._full and self._counters != NONE_REPORTED

    def end_with(self, status: int) -> None:
        """End it as any step."""
        self._leave(status, 0)

    def take_back(self) -> None:
        """End it where it began, as an evaluation that was cancelled: it cost nothing.

        The agent moves what it had charged to it until now to where it belongs without it.
        """
        if self._slot:
            self._bits += _NO_STEP
            self._leave(CANCELLED, self._start_ns)

    def _leave(self, status: int, end_ns: int) -> None:
        slot, self._slot = self._slot, ENDED
        try:
            if slot:
                self._write(slot, status, end_ns)
        except ValueError:
            count("ring_gone")
        if in_context.get() is self:
            in_context.reset(self._token)


class OpenedSteps:
    """Steps end to end on one thread, with what lies between them taken out."""

    def __init__(self) -> None:
        self.on = False
        self.forget()

    def forget(self) -> None:
        """Begin anew: a forked child has trained nothing."""
        self.last: int | None = None
        """Number of the last step; None where it is not known, which is never guessed."""
        self.begun = False
        """Whether there has been a step, so that another one may follow."""
        self.thread = 0
        self.span: OpenedStep | None = None
        """The step that is open."""
        self._phase: Phase | None = None

    def start(self) -> None:
        """Whoever opened steps until now does so no longer."""
        opener = session.opener
        if opener is not None and opener is not self:
            opener.stop()
        session.opener = self
        self.on = True

    def stop(self) -> None:
        """Training is over, or somebody else says what a step is."""
        self.on = False
        self.take_back()

    def fail(self, kind: type[BaseException]) -> None:
        """An error ends training: the step at hand failed."""
        self.on = False
        self.end_phase()
        span, self.span = self.span, None
        if span is not None:
            span.end_with(status_of(kind))

    def open(self) -> None:
        """Another step begins, unless the program is in a span of its own."""
        if not self.on or self.span is not None:
            return
        ring = session.ring
        around = None if ring is None else innermost(ring)
        if around is not None:
            if isinstance(around, Step):  # the program says itself what a step is
                self.stop()
            return
        self.thread = get_ident()
        span = OpenedStep()
        span._slot = None
        span._full = False
        span._step = self.next
        if span.__enter__() is span:  # else there is no ring
            self.span = span

    def begin_phase(self, name: str) -> None:
        """This part of the step at hand begins, and the one before it is over."""
        if get_ident() != self.thread:  # a replica's, of several that run at once
            return
        self.end_phase()
        if self.span is not None:
            self._phase = self.span.phase(name).start()

    def end_phase(self) -> None:
        """The part that began last is over, if it is not."""
        phase, self._phase = self._phase, None
        if phase is not None:
            phase.finish()

    def number(self, step: int) -> None:
        """The step at hand has this number."""
        self.last = step - 1
        if self.span is not None:
            self.span._step = step

    @property
    def next(self) -> int:
        """Number of the step that follows; ABSENT where it is not known."""
        return layout.ABSENT if self.last is None else self.last + 1

    def end_step(self) -> None:
        """The step is done, and what comes now is the next one."""
        self.begun = True
        if self.last is not None:
            self.last += 1
        self.end_phase()
        span = self.span
        if span is not None:
            self.span = None
            span.__exit__(None, None, None)  # the short way, where it may be
        self.open()

    def take_back(self) -> None:
        """The step that is open is none."""
        self.end_phase()
        span, self.span = self.span, None
        if span is not None:
            span.take_back()

    # -- the session's side -----------------------------------------------------------------
    def pause(self) -> None:
        """What this thread begins now is no step: the one that was opened is none.

        Unless something was counted in it already: then it is under way, and this is a phase of it.
        """
        span = self.span
        if get_ident() == self.thread and span is not None and not span.counts_something:
            self.take_back()

    def go_on(self) -> None:
        """That is over: what comes now may be a step, if there was one before."""
        if self.begun and get_ident() == self.thread:
            self.open()

    def end(self) -> None:
        """The process ends: by an error, then the open step failed; else it was none."""
        kind: type[BaseException] | None = getattr(sys, "last_type", None)
        if kind is None or hasattr(sys, "ps1"):  # which a prompt goes on after
            self.stop()
        else:
            self.fail(kind)
