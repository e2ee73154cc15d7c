"""Steps of a PyTorch loop that nobody edits, by the hooks that every optimizer calls.

A step is what lies between the ends of two `optimizer.step()`.
"""
# ruff: noqa: SLF001 - it looks at steps that are not its own

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Callable
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final

from apportion.client import layout
from apportion.client.counting import count
from apportion.client.import_watch import when_imported
from apportion.client.launchers import restarts_of_launcher
from apportion.client.nesting import innermost
from apportion.client.opened_steps import OpenedSteps
from apportion.client.ring import WORD, Ring
from apportion.client.session import session
from apportion.client.training import Step

if TYPE_CHECKING:
    from typing_extensions import Self

MODULE: Final = "torch.optim.optimizer"
_PARENT: Final = layout.OPEN_SLOT_OFFSETS["parent"] // WORD
_PACKED: Final = layout.OPEN_SLOT_OFFSETS["packed"] // WORD


def _nobody() -> None:
    """In place of a weak reference: no optimizer ends the steps."""


class OptimizerSteps(OpenedSteps):
    """Opens and ends steps at the optimizers' hooks. One for the process.

    Where a program has several optimizers, the one that stepped first ends the steps, and what the
    others do is part of them; one that steps twice while that one does not takes its place.
    """

    def __init__(self) -> None:
        super().__init__()
        self.hooked = False
        """PyTorch calls us: hooks are never taken away, since it may be going through them."""

    def forget(self) -> None:
        """See `OpenedSteps`."""
        super().forget()
        self._leader: Callable[[], Any] = _nobody
        """A weak reference to the optimizer that ends the steps."""
        self._followers: set[int] = set()
        """Which other ones have stepped since it did."""
        self._numbered = self._doubted = False
        self._resumed_ns = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Ask PyTorch to call us, once it is imported."""
        super().start()
        if not self.hooked:
            self.hooked = True
            when_imported(MODULE, _register)

    def before(self, optimizer: Any) -> None:
        """An optimizer is about to step. Only the first step has not been opened yet."""
        if not self.on:
            return
        if not self._numbered:
            ring = session.ring
            if ring is not None and _has_open_step(ring):
                self.stop()
                return
            self._numbered = True
            self.thread = get_ident()
            self.last = steps_of(optimizer)
            if session.resumed_step is not None:
                self._resumed_ns, self.last = session.resumed_ns, session.resumed_step
            elif self.last == 0 and restarts_of_launcher(os.environ):
                self.last = None  # it may be one that keeps no state, and never says where it is
                self._doubted = True
        if not self.thread:  # the training that ended the steps until now is over
            self.thread = get_ident()
        if get_ident() == self.thread:
            self.open()

    def after(self, optimizer: Any) -> None:
        """An optimizer has stepped."""
        if not self.on or get_ident() != self.thread:
            return
        if (self._leader() is not optimizer or self._followers) and not self._leads(optimizer):
            return
        span = self.span
        if span is not None:
            slot = span._slot
            around = innermost(slot[6]) if slot else None
            if around is not None and around is not span:
                if isinstance(around, Step):  # the program says itself what a step is
                    self.stop()
                return
        if self._doubted:
            self._doubted = False
            if optimizer.state:  # it keeps some and had none: this run begins anew
                self.number(1)
        if session.resumed_ns != self._resumed_ns:
            self._resumed_ns = session.resumed_ns
            self.number((session.resumed_step or 0) + 1)
        self.end_step()

    def _leads(self, optimizer: Any) -> bool:
        leader = self._leader()
        if leader is not optimizer:
            key = id(optimizer)
            if leader is not None and key not in self._followers:
                self._followers.add(key)
                return False
            self._leader = weakref.ref(optimizer, self._gone)
        self._followers.clear()
        return True

    def _gone(self, leader: object) -> None:
        """Nobody holds the optimizer any more: that training is over; any thread's may follow."""
        if self._leader is leader:
            self._leader, self.begun = _nobody, False
            self.take_back()
            self.thread = 0


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


def _before(optimizer: Any, _args: object, _kwargs: object) -> None:
    if optimizer_steps.span is not None:
        return
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
