"""Coverage: the same answers as the plain intervals of core, for any intervals."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from apportion.core.interval import Interval, union
from apportion.profiles.coverage import Coverage, durations_by_mask

INTERVALS = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 20)).map(lambda pair: (pair[0], sum(pair))),
    max_size=12,
)


def coverage(pairs: list[tuple[int, int]]) -> Coverage:
    array = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return Coverage.of(array[:, 0], array[:, 1])


def instants(pairs: list[tuple[int, int]]) -> set[int]:
    return {instant for start, end in pairs for instant in range(start, end)}


@given(INTERVALS)
def test_union_is_cores_union(pairs: list[tuple[int, int]]) -> None:
    """Two implementations of one set operation agree, empty and touching intervals included."""
    found = coverage(pairs)
    expected = union(Interval(*pair) for pair in pairs)

    pieces = zip(found.start_ns.tolist(), found.end_ns.tolist(), strict=True)
    assert [Interval(*piece) for piece in pieces] == expected
    assert found.covered_ns == len(instants(pairs))
    assert found.span_ns == found.covered_ns + found.gaps().covered_ns


@given(st.tuples(INTERVALS, INTERVALS, INTERVALS))
def test_masks_count_every_instant_once(sets: tuple[list[tuple[int, int]], ...]) -> None:
    """An instant is counted under exactly the sets that hold it, whatever order they come in."""
    expected = [0] * 8
    held = [instants(pairs) for pairs in sets]
    for instant in held[0] | held[1] | held[2]:
        expected[sum(1 << bit for bit, one in enumerate(held) if instant in one)] += 1

    assert durations_by_mask([coverage(pairs) for pairs in sets]).tolist() == expected


@given(INTERVALS, st.integers(0, 60), st.integers(0, 30))
def test_clipping_keeps_what_is_inside(
    pairs: list[tuple[int, int]], start: int, length: int
) -> None:
    """A window takes its own instants and no other."""
    clipped = coverage(pairs).clipped(start, start + length)

    assert clipped.covered_ns == len(instants(pairs) & set(range(start, start + length)))
