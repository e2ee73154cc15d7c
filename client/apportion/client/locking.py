"""The lock of interpreters without a GIL.

With the GIL, what the ring's protocol needs is atomic by itself: `next()` of an
`itertools.count`, `list.pop`, `list.append`, and a swap on one line with no call in it.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def _gil_enabled() -> bool:
    check: Callable[[], bool] | None = getattr(sys, "_is_gil_enabled", None)
    return True if check is None else check()


FREE_THREADED: Final = not _gil_enabled()
"""A GIL that is switched on later, by an extension module, leaves the lock in place."""


class _Gate:
    """Holds the process's lock, so that a forked child can have one that nobody holds."""

    __slots__ = ("lock",)

    def __init__(self) -> None:
        self.lock = threading.RLock()  # re-entrant: a finaliser or signal may come in between

    def renew(self) -> None:
        self.lock = threading.RLock()


_gate = _Gate()


def _locked(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    @functools.wraps(function)
    def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        with _gate.lock:
            return function(*args, **kwargs)

    return call


def guarded(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """The function itself under a GIL, else one that holds the process's re-entrant lock."""
    return _locked(function) if FREE_THREADED else function


if FREE_THREADED:
    os.register_at_fork(after_in_child=_gate.renew)
