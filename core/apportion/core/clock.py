"""Time as a parameter: the protocol, the system's clock and one that tests turn by hand."""

from __future__ import annotations

import threading
import time
from typing import Protocol

from apportion.core.units import MonotonicNs, UnixNs


class Clock(Protocol):
    """Durations come from `monotonic_ns`; `realtime_ns` is for display and dates only."""

    def monotonic_ns(self) -> MonotonicNs:
        """CLOCK_MONOTONIC, nanoseconds since an arbitrary point of this boot."""
        ...

    def realtime_ns(self) -> UnixNs:
        """CLOCK_REALTIME, nanoseconds since 1970-01-01 UTC; it may step."""
        ...

    def wait(self, event: threading.Event, timeout_ns: int) -> bool:
        """Block until `event` is set or `timeout_ns` have passed; True if it was set."""
        ...


class SystemClock:
    """The host's clocks."""

    def monotonic_ns(self) -> MonotonicNs:
        """See `Clock`."""
        return MonotonicNs(time.monotonic_ns())

    def realtime_ns(self) -> UnixNs:
        """See `Clock`."""
        return UnixNs(time.time_ns())

    def wait(self, event: threading.Event, timeout_ns: int) -> bool:
        """See `Clock`."""
        return event.wait(max(0, timeout_ns) / 1e9)


class ManualClock:
    """A clock that stands still until `advance` or `step_realtime` is called."""

    def __init__(self, monotonic_ns: int = 0, realtime_ns: int = 1_700_000_000_000_000_000) -> None:
        self._monotonic_ns = monotonic_ns
        self._realtime_ns = realtime_ns

    def monotonic_ns(self) -> MonotonicNs:
        """See `Clock`."""
        return MonotonicNs(self._monotonic_ns)

    def realtime_ns(self) -> UnixNs:
        """See `Clock`."""
        return UnixNs(self._realtime_ns)

    def advance(self, duration_ns: int) -> None:
        """Both clocks go on by `duration_ns` (>= 0)."""
        if duration_ns < 0:
            message = f"a monotonic clock cannot go back by {-duration_ns} ns"
            raise ValueError(message)
        self._monotonic_ns += duration_ns
        self._realtime_ns += duration_ns

    def step_realtime(self, step_ns: int) -> None:
        """Only the wall clock moves, as when NTP or a person sets it."""
        self._realtime_ns += step_ns

    def wait(self, event: threading.Event, timeout_ns: int) -> bool:
        """Advance by the whole timeout at once, unless `event` is set already."""
        if event.is_set():
            return True
        self.advance(max(0, timeout_ns))
        return event.is_set()
