"""Who publishes in a state file: one simulator at a time, by a lock beside it.

The lock is the kernel's, so it ends with the simulator however that ends. Its file stays, as the
state file does.
"""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path
from typing import Final

from apportion.core.clock import Clock
from apportion.core.errors import ApportionError
from apportion.core.units import NS_PER_SECOND

_PATIENCE_NS: Final = NS_PER_SECOND // 5
"""Whoever looks whether a simulator lives holds the lock for that moment."""
_LOOK_NS: Final = NS_PER_SECOND // 50


class StateTakenError(ApportionError):
    """Another simulator publishes in the state file."""


class StateLock:
    """The lock of the state file at `state`, held from now on until `close`.

    Raises:
        StateTakenError: another simulator holds it.
        OSError: the lock's file cannot be made.
    """

    def __init__(self, state: Path, clock: Clock) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._descriptor: int | None = os.open(lock_path(state), flags, 0o644)
        deadline_ns = clock.monotonic_ns() + _PATIENCE_NS
        while not _locks(self._descriptor, fcntl.LOCK_EX):
            if clock.monotonic_ns() >= deadline_ns:
                self.close()
                raise StateTakenError(
                    f"{state}: another simulator publishes there; end it first, or give this one "
                    "another file with --state"
                )
            clock.wait(threading.Event(), _LOOK_NS)

    def close(self) -> None:
        """Let go; harmless when repeated."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def lock_path(state: Path) -> Path:
    """Where the lock of a state file is."""
    return state.with_name(f".{state.name}.lock")


def is_simulated(state: Path) -> bool:
    """Whether a simulator publishes in this state file now."""
    try:
        descriptor = os.open(lock_path(state), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not _locks(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def _locks(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
