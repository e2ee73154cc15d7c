"""When records were overwritten before they were read: the time that they may have covered."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from apportion.agent.ingest.record import Flags
from apportion.core.ids import RingId


@dataclass(frozen=True, slots=True)
class LossWindow:
    """`count` records that ended in `[start_ns, end_ns]` (host monotonic) were overwritten.

    From the end of the last record accepted before them to the end of the first one accepted
    after; where none was, from the ring's creation, and to the time of the look.
    """

    ring: RingId
    start_ns: int
    end_ns: int
    count: int


@dataclass(frozen=True, slots=True)
class Stretch:
    """Sequences `first` to `last`, as indices into a window; `first` may lie before it."""

    first: int
    last: int


def stretches(gone: Flags, lead: int) -> list[Stretch]:
    """The runs of `gone`; `lead` sequences just before the window are gone too."""
    padded = np.concatenate([[lead > 0], gone, [False]]).astype(np.int8)
    edges = np.flatnonzero(np.diff(padded, prepend=np.int8(0)))
    runs = [Stretch(int(first) - 1, int(end) - 2) for first, end in edges.reshape(-1, 2)]
    if runs and runs[0].first < 0:
        runs[0] = Stretch(-lead, runs[0].last)
    return runs


def loss_windows(
    ring: RingId,
    runs: list[Stretch],
    accepted: NDArray[np.int64],
    ends_ns: NDArray[np.int64],
    *,
    before_ns: int,
    after_ns: int,
) -> list[LossWindow]:
    """A window for each run.

    `accepted` are the ascending indices of accepted records and `ends_ns` their ends;
    `before_ns` and `after_ns` stand in where no accepted record precedes or follows.
    """
    windows: list[LossWindow] = []
    for run in runs:
        earlier = int(np.searchsorted(accepted, run.first))
        later = int(np.searchsorted(accepted, run.last, side="right"))
        start_ns = int(ends_ns[earlier - 1]) if earlier else before_ns
        end_ns = int(ends_ns[later]) if later < len(ends_ns) else after_ns
        count = run.last - run.first + 1
        windows.append(LossWindow(ring, min(start_ns, end_ns), max(start_ns, end_ns), count))
    return windows
