"""Windows of loss."""

from __future__ import annotations

from itertools import pairwise

import hypothesis.strategies as st
import numpy as np
from hypothesis import given

from apportion.agent.ingest import LossWindow
from apportion.agent.ingest.losses import Stretch, loss_windows, stretches
from apportion.core.ids import RingId

RING = RingId("0" * 32)


@given(st.lists(st.booleans(), max_size=40), st.integers(0, 5))
def test_stretches_cover_exactly_what_is_gone(gone: list[bool], lead: int) -> None:
    """Protects the count: each lost sequence is in one stretch, and they do not touch."""
    runs = stretches(np.array(gone, np.bool_), lead)
    covered = [index for run in runs for index in range(run.first, run.last + 1)]
    assert covered == [*range(-lead, 0), *(at for at, is_gone in enumerate(gone) if is_gone)]
    assert all(left.last + 1 < right.first for left, right in pairwise(runs))


def test_a_window_lies_between_its_neighbours() -> None:
    """Protects the time that is marked unattributed."""
    windows = loss_windows(
        RING,
        [Stretch(-3, 0), Stretch(4, 5), Stretch(8, 8)],
        np.array([1, 3, 6]),
        np.array([20, 40, 35]),
        before_ns=10,
        after_ns=99,
    )
    assert windows == [
        LossWindow(RING, 10, 20, 4),
        LossWindow(RING, 35, 40, 2),
        LossWindow(RING, 35, 99, 1),
    ]
