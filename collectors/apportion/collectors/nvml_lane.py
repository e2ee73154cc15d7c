"""Calls that may hang: each is awaited for a while, then left to the thread that makes it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Generic, Protocol, TypeVar

from apportion.core.clock import Clock

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """What became of a call: its value, or what it raised; and how long it took."""

    value: T | None = None
    error: BaseException | None = None
    took_ns: int = 0


class Lane(Protocol[T]):
    """One call at a time: `begin`, then `outcome` until there is one."""

    def begin(self, call: Callable[[], T]) -> None:
        """Make the call."""
        ...

    def outcome(self, patience_ns: int) -> Outcome[T] | None:
        """What became of it; None where it has not returned within `patience_ns`."""
        ...

    def close(self) -> None:
        """No more calls. A call that hangs goes on hanging."""
        ...


class ThreadLane(Generic[T]):
    """A lane in a thread of its own. A driver call lets other threads run meanwhile."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._calls: SimpleQueue[Callable[[], T] | None] = SimpleQueue()
        self._outcomes: SimpleQueue[Outcome[T]] = SimpleQueue()
        # A daemon: what is stuck in a driver must not keep the process from ending.
        threading.Thread(target=self._work, name="nvml-lane", daemon=True).start()

    def begin(self, call: Callable[[], T]) -> None:
        """See `Lane`."""
        self._calls.put(call)

    def outcome(self, patience_ns: int) -> Outcome[T] | None:
        """See `Lane`."""
        try:
            return self._outcomes.get(timeout=max(0, patience_ns) / 1e9)
        except Empty:
            return None

    def close(self) -> None:
        """See `Lane`."""
        self._calls.put(None)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            begun_ns = self._clock.monotonic_ns()
            value: T | None = None
            failure: BaseException | None = None
            try:
                value = call()
            except BaseException as error:  # noqa: BLE001 - it belongs to whoever asked
                failure = error
            self._outcomes.put(Outcome(value, failure, self._clock.monotonic_ns() - begun_ns))


class InlineLane(Generic[T]):
    """A lane without a thread: `begin` returns when the call does. For tests and tools."""

    def __init__(self) -> None:
        self._outcome: Outcome[T] | None = None

    def begin(self, call: Callable[[], T]) -> None:
        """See `Lane`."""
        try:
            self._outcome = Outcome(call())
        except Exception as error:  # noqa: BLE001 - it belongs to whoever asked
            self._outcome = Outcome(error=error)

    def outcome(self, patience_ns: int) -> Outcome[T] | None:
        """See `Lane`."""
        del patience_ns
        outcome, self._outcome = self._outcome, None
        return outcome

    def close(self) -> None:
        """See `Lane`."""
