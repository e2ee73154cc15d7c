"""Steps of a PyTorch loop that nobody edits, by the hooks that every optimizer calls.

A step is what lies between the ends of two `optimizer.step()`. Nobody says when one begins, so one
is opened at the end of the last, to be seen while it runs, and taken back where none follows: at
the end of the program, and at an evaluation or a checkpoint that says that it is one.
"""
# ruff: noqa: SLF001 - this is Step's other half

from __future__ import annotations

import os
import sys
import weakref
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final

from apportion.client import layout
from apportion.client.counting import count
from apportion.client.import_watch import when_imported
from apportion.client.nesting import in_context, innermost
from apportion.client.ring import ENDED, WORD, Ring
from apportion.client.session import session
from apportion.client.status import CANCELLED, status_of
from apportion.client.training import Step

if TYPE_CHECKING:
    from typing_extensions import Self

MODULE: Final = "torch.optim.optimizer"
_NO_STEP: Final = layout.KINDS["evaluation"] - layout.KINDS["step"]
_PARENT: Final = layout.OPEN_SLOT_OFFSETS["parent"] // WORD
_PACKED: Final = layout.OPEN_SLOT_OFFSETS["packed"] // WORD


class OpenedStep(Step):
    """A step that was opened before anybody knew whether it would be one."""

    __slots__ = ()

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


class OptimizerSteps:
    """Opens and ends steps at the optimizers' hooks. One for the process.

    Where a program has several optimizers, the one that stepped first ends the steps, and what the
    others do is part of them; one that steps twice while that one does not takes its place.
    """

    def __init__(self) -> None:
        self.on = False
        self.hooked = False
        """PyTorch calls us: hooks are never taken away, since it may be going through them."""
        self.forget()

    def forget(self) -> None:
        """Begin anew: a forked child has trained nothing."""
        self._span: OpenedStep | None = None
        self._leader: Any = None
        """A weak reference to the optimizer that ends the steps."""
        self._followers: set[int] = set()
        """Which other ones have stepped since it did."""
        self._thread = 0
        self._last: int | None = None
        """Number of the last step; None where it is not known, which is never guessed."""
        self._numbered = False
        self._resumed_ns = 0

    # -- the program's side -----------------------------------------------------------------
    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Ask PyTorch to call us, once it is imported."""
        session.opener = self
        if not self.on:
            self.on = True
            if not self.hooked:
                self.hooked = True
                when_imported(MODULE, _register)

    def stop(self) -> None:
        """Training is over, or somebody else says what a step is."""
        self.on = False
        self._take_back()

    # -- the session's side -----------------------------------------------------------------
    def pause(self) -> None:
        """What this thread begins now is no step: the one that was opened is none."""
        if get_ident() == self._thread:
            self._take_back()

    def go_on(self) -> None:
        """That is over: what comes now may be a step, if there was one before."""
        if self.on and self._leader is not None and get_ident() == self._thread:
            self._open()

    def end(self) -> None:
        """The process ends: by an error, then the open step failed; else it was none."""
        self.on = False
        kind: type[BaseException] | None = getattr(sys, "last_type", None)
        if kind is None or hasattr(sys, "ps1"):  # which a prompt goes on after
            self._take_back()
        elif self._span is not None:
            self._span.end_with(status_of(kind))

    # -- PyTorch's side ---------------------------------------------------------------------
    def before(self, optimizer: Any) -> None:
        """An optimizer is about to step. Only the first step has not been opened yet."""
        if not self.on or self._span is not None:
            return
        if not self._numbered:
            ring = session.ring
            if ring is not None and _has_open_step(ring):
                self.stop()
                return
            self._numbered = True
            self._thread = get_ident()
            self._last = steps_of(optimizer)
            if session.resumed_step is not None:
                self._resumed_ns, self._last = session.resumed_ns, session.resumed_step
        if get_ident() == self._thread:
            self._open()

    def after(self, optimizer: Any) -> None:
        """An optimizer has stepped."""
        if not self.on or get_ident() != self._thread or not self._leads(optimizer):
            return
        span = self._span
        if span is not None:
            slot = span._slot
            around = innermost(slot[6]) if slot else None
            if around is not None and around is not span:
                if isinstance(around, Step):  # the program says itself what a step is
                    self.stop()
                return
        if session.resumed_ns != self._resumed_ns:
            self._resumed_ns, self._last = session.resumed_ns, session.resumed_step
            if span is not None:
                span._step = self._next()
        if self._last is not None:
            self._last += 1
        if span is not None:
            span.__exit__(None, None, None)
            self._span = None
        self._open()

    def _leads(self, optimizer: Any) -> bool:
        leader = None if self._leader is None else self._leader()
        if leader is not optimizer:
            key = id(optimizer)
            if leader is not None and key not in self._followers:
                self._followers.add(key)
                return False
            self._leader = weakref.ref(optimizer, self._gone)
        self._followers.clear()
        return True

    def _gone(self, leader: object) -> None:
        """Nobody holds the optimizer any more: that training is over."""
        if self._leader is leader:
            self._leader = None
            self._take_back()

    def _take_back(self) -> None:
        span, self._span = self._span, None
        if span is not None:
            span.take_back()

    def _next(self) -> int:
        return layout.ABSENT if self._last is None else self._last + 1

    def _open(self) -> None:
        if self._span is not None:
            return
        ring = session.ring
        around = None if ring is None else innermost(ring)
        if around is not None:
            if isinstance(around, Step):  # the program says itself what a step is
                self.stop()
            return
        span = OpenedStep()
        span._slot = None
        span._full = False
        span._step = self._next()
        if span.__enter__() is span:  # else there is no ring
            self._span = span


def _has_open_step(ring: Ring) -> bool:
    """Whether the program has begun a step of its own, entered or started."""
    if ring.idle:
        return False
    first, size = layout.OPEN_SLOTS_OFFSET // WORD, layout.OPEN_SLOT_BYTES // WORD
    words = ring.words
    return any(
        words[at] and not words[at + _PARENT] and words[at + _PACKED] & 0xFF == Step._kind
        for at in range(first, first + size * layout.OPEN_SLOT_CAPACITY, size)
    )


def steps_of(optimizer: Any) -> int | None:
    """How many steps the optimizer has behind it, as it says itself: 0 where it has no state.

    None where it does not say, or on a device: to read that, the program would have to wait.
    """
    state: Any = next(iter(optimizer.state.values()), None)
    if state is None:
        return 0
    find: Any = getattr(state, "get", None)
    steps: Any = None if find is None else find("step")
    if getattr(getattr(steps, "device", None), "type", None) == "cpu":
        steps = steps.item()
    return int(steps) if isinstance(steps, (int, float)) and steps >= 0 else None


optimizer_steps: Final = OptimizerSteps()
os.register_at_fork(after_in_child=optimizer_steps.forget)


def _before(optimizer: Any, _args: object, _kwargs: object) -> None:
    try:
        optimizer_steps.before(optimizer)
    except Exception:  # noqa: BLE001 - an observer never raises into the workload
        count("internal_error")


def _after(optimizer: Any, _args: object, _kwargs: object) -> None:
    try:
        optimizer_steps.after(optimizer)
    except Exception:  # noqa: BLE001 - an observer never raises into the workload
        count("internal_error")


# torch.compile does not look into what has this attribute, as if decorated by its `disable`.
_before._torchdynamo_disable = _after._torchdynamo_disable = True  # type: ignore[attr-defined]


def _register() -> None:
    module: Any = sys.modules[MODULE]
    before: Any = getattr(module, "register_optimizer_step_pre_hook", None)
    after: Any = getattr(module, "register_optimizer_step_post_hook", None)
    if before is None or after is None:  # before 2.0
        count("torch_too_old")
        return
    before(_before)
    after(_after)


def torch_steps() -> OptimizerSteps:
    """Steps of a PyTorch loop without an edit of it: each `optimizer.step()` ends one.

    For the whole process, or for a `with` block. What says itself what a step is (`step()`, an
    integration) goes before: this one then stays out.
    """
    try:
        optimizer_steps.start()
    except Exception:  # noqa: BLE001 - an observer never raises into the workload
        count("internal_error")
    return optimizer_steps
