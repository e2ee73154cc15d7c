"""From a ring's clock to the host's: a container may live in a time namespace of its own."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from apportion.core.units import NS_PER_SECOND

NOISE_NS: Final = NS_PER_SECOND
"""Below this a difference is slew and the time between two readings, not a namespace."""


@dataclass(frozen=True, slots=True)
class ClockPair:
    """CLOCK_MONOTONIC and CLOCK_REALTIME read together, in nanoseconds."""

    monotonic_ns: int
    realtime_ns: int

    @property
    def anchor_ns(self) -> int:
        """Realtime at monotonic 0."""
        return self.realtime_ns - self.monotonic_ns


def clock_offset_ns(ring: ClockPair, agent: Iterable[ClockPair]) -> int:
    """What to add to a ring's monotonic times to have the host's.

    `ring` is the pair of the ring's header; `agent` are pairs of the agent on this boot, one
    for each time the wall clock was stepped. A step looks like a namespace, so the smallest
    difference that any of them gives is taken; below `NOISE_NS`, or with no pair, it is 0.
    """
    offsets = [ring.anchor_ns - pair.anchor_ns for pair in agent]
    offset_ns = min(offsets, key=abs, default=0)
    return 0 if abs(offset_ns) < NOISE_NS else offset_ns


def same_time_namespace(pid: int, proc: Path) -> bool | None:
    """Whether process `pid` reads the same monotonic clock as this one; None if unknown."""
    if pid <= 0:
        return None
    try:
        theirs = os.stat(proc / str(pid) / "ns" / "time")  # noqa: PTH116
        ours = os.stat(proc / "self" / "ns" / "time")  # noqa: PTH116
    except OSError:
        return None
    return (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino)
