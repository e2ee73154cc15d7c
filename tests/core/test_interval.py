"""Half-open intervals: clipping, splitting, union and what is left."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apportion.core.interval import Interval, subtract, union

EDGES = st.tuples(st.integers(0, 60), st.integers(0, 60)).map(sorted)
INTERVALS = EDGES.map(lambda edges: Interval(*edges))


def instants(*intervals: Interval) -> set[int]:
    """The whole numbers inside."""
    return {at for one in intervals for at in range(one.start_ns, one.end_ns)}


@given(st.lists(INTERVALS))
def test_a_union_covers_the_same_and_is_disjoint(intervals: list[Interval]) -> None:
    """Sorted, apart from each other, nothing added and nothing lost."""
    merged = union(intervals)
    assert instants(*merged) == instants(*intervals)
    assert all(one.end_ns < two.start_ns for one, two in pairwise(merged))


@given(INTERVALS, st.lists(INTERVALS))
def test_what_is_left_and_what_is_covered_are_the_whole(
    whole: Interval, covers: list[Interval]
) -> None:
    """Subtraction loses no instant."""
    covered = union(covers)
    rest = subtract(whole, covered)
    assert instants(*rest) == instants(whole) - instants(*covered)
    assert all(rest)


@given(INTERVALS, st.lists(st.integers(0, 60)))
def test_pieces_make_the_whole(whole: Interval, cuts: list[int]) -> None:
    """A split is a partition, whatever the cuts."""
    pieces = list(whole.split(cuts))
    assert sum(piece.duration_ns for piece in pieces) == whole.duration_ns
    assert instants(*pieces) == instants(whole)
    assert all(pieces)


@given(INTERVALS, st.integers(1, 20))
def test_periods_are_cut_at_their_multiples(whole: Interval, period_ns: int) -> None:
    """No piece crosses an hour or a minute."""
    for piece in whole.split_every(period_ns):
        assert piece.start_ns // period_ns == (piece.end_ns - 1) // period_ns


@given(INTERVALS, INTERVALS)
def test_a_clip_stays_inside(one: Interval, other: Interval) -> None:
    """The common part, or an empty one at an edge."""
    clipped = one.clip(other)
    assert instants(clipped) == instants(one) & instants(other)
    assert other.start_ns <= clipped.start_ns <= clipped.end_ns <= other.end_ns


def test_an_interval_cannot_end_before_it_starts() -> None:
    """A negative duration is a fault where it is made."""
    with pytest.raises(ValueError, match="before it starts"):
        Interval(2, 1)
    assert not Interval(1, 1)
