"""The figures of comparisons that noise is in."""

from __future__ import annotations

import numpy as np
from benchmarks.estimate import Estimate


def test_outliers_do_not_move_it() -> None:
    """A neighbour on the machine spoils some pairs, and not the figure."""
    source = np.random.default_rng(3)
    theirs = source.uniform(0.9, 1.1, 500)
    mine = theirs * source.normal(1.01, 0.02, 500)
    mine[:50] *= 30
    theirs[50:100] *= 30

    found = Estimate.of_ratios(mine, theirs)

    assert found.low < 0.01 < found.high
    assert found.half < 0.005


def test_the_same_is_no_slower() -> None:
    """Nothing is made of nothing."""
    assert Estimate.of_ratios([3.0, 5.0, 9.0], [3.0, 5.0, 9.0]) == (0.0, 0.0, 0.0)
