"""The time between the steps of one ring."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Column = NDArray[np.int64]


def step_gaps(starts: Column, ends: Column, before_ns: int | None) -> NDArray[np.int64]:
    """(start, end) of the times that lie after one step and before another; shape (n, 2).

    `before_ns` is the end of the last step before all of these; None where there was none.
    """
    if not starts.size:
        return np.zeros((0, 2), np.int64)
    order = np.argsort(starts, kind="stable")
    starts, ends = starts[order], ends[order]
    reached = np.maximum.accumulate(ends)
    first_ns = int(starts[0]) if before_ns is None else before_ns
    reached = np.maximum(np.concatenate([[first_ns], reached[:-1]]), first_ns)
    free = reached < starts
    return np.stack([reached[free], starts[free]], axis=1)


def differing(one: NDArray[np.int64], other: NDArray[np.int64]) -> list[tuple[int, int]]:
    """The rows of two (n, 2) arrays that only one of them has."""
    left = {(int(start), int(end)) for start, end in one.tolist()}
    right = {(int(start), int(end)) for start, end in other.tolist()}
    return sorted(left ^ right)
