"""One engine's iterations out of what several processes heard, late, twice and in any order."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from apportion.agent.pipeline.merged_iterations import ITERATION, MergedIterations

MS = 1_000_000


def told(*rows: tuple[int, int, int]) -> np.ndarray[tuple[int], np.dtype[np.void]]:
    """Iterations by (index, end, elapsed) in ms."""
    table = np.zeros(len(rows), ITERATION)
    for row, (index, end_ms, elapsed_ms) in zip(table, rows, strict=True):
        row["index"], row["end_ns"] = index, end_ms * MS
        row["start_ns"] = (end_ms - elapsed_ms) * MS
    return table


def test_laid_end_to_end_but_for_those_that_are_missing() -> None:
    """What lies between two is the next one's; after a gap one begins where it says."""
    merged = MergedIterations.of([told((0, 100, 10), (1, 120, 8)), told((4, 200, 30), (5, 210, 9))])
    assert (merged.begun_ns[1:] // MS).tolist() == [100, 170, 200]
    assert merged.missing.tolist() == [0, 0, 2, 0]
    times = np.array([[95, 120], [95, 121], [115, 175], [171, 209], [150, 205], [190, 311]]) * MS
    covered = merged.cover(times[:, 0], times[:, 1]).tolist()
    assert covered == [True, True, False, True, False, False]


def test_another_engine_counts_from_0_again() -> None:
    """A server that restarts: nothing is missing, and what it heard before is no gap."""
    merged = MergedIterations.of([told((70, 100, 9), (71, 110, 9), (0, 500, 20), (1, 510, 9))])
    assert merged.index.tolist() == [70, 71, 0, 1]
    assert merged.missing.sum() == 0
    assert merged.cover(np.array([480 * MS]), np.array([505 * MS])).all()


def test_what_was_told_late_leaves_the_next_one_its_time() -> None:
    """The second was told of 40 ms late: the third began before that."""
    merged = MergedIterations.of([told((0, 100, 10), (1, 150, 9), (2, 160, 49))])
    assert (merged.counts.end_ns // MS).tolist() == [100, 111, 160]


@given(st.permutations(list(range(12))), st.lists(st.integers(0, 11), max_size=5))
def test_neither_order_nor_doubles_matter(order: list[int], doubles: list[int]) -> None:
    """However the records of an engine come, and whichever come twice."""
    rows = [(index, 100 + 10 * index, 9) for index in range(12)]
    plain = MergedIterations.of([told(*rows)])
    mixed = MergedIterations.of(
        [told(*(rows[at] for at in order)), told(*(rows[at] for at in doubles))]
    )
    for name in ("index", "begun_ns", "after_gap", "missing"):
        assert getattr(plain, name).tolist() == getattr(mixed, name).tolist()
    assert plain.counts.end_ns.tolist() == mixed.counts.end_ns.tolist()
