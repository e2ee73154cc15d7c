"""Histograms of several engines as one, within a bound."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apportion.collectors.engine_histogram import MOST_BOUNDS, Histogram, merged
from apportion.collectors.exposition_text import RawSample

COUNTS = st.lists(st.integers(0, 1_000), min_size=1, max_size=60)


def row(value: float, **labels: str) -> RawSample:
    return RawSample(labels, value)


def series(engine: str, increments: list[int]) -> tuple[list[RawSample], RawSample]:
    """Cumulative buckets with bounds 1, 2, ... and infinity, and their count."""
    rows: list[RawSample] = []
    total = 0
    for index, increment in enumerate(increments):
        total += increment
        bound = "+Inf" if index == len(increments) - 1 else repr(float(index + 1))
        rows.append(row(total, engine=engine, le=bound))
    return rows, row(total, engine=engine)


@given(st.lists(COUNTS, min_size=1, max_size=4))
def test_the_merged_one_counts_every_observation(engines: list[list[int]]) -> None:
    """Cumulative at every bound it keeps, exact at each, and no larger than the bound."""
    made = [series(str(number), increments) for number, increments in enumerate(engines)]
    buckets = [each for rows, _ in made for each in rows]
    found = merged(buckets, [row(2.5)], [count for _, count in made], 1)
    assert found is not None
    assert found.count == sum(map(sum, engines))
    assert found.sum == 2.5
    assert len(found.buckets) <= MOST_BOUNDS + 1
    assert found.buckets[-1] == (math.inf, found.count)
    counts = [count for _, count in found.buckets]
    assert counts == sorted(counts)
    for bound, count in found.buckets[:-1]:
        assert count == sum(sum(increments[: int(bound)]) for increments in engines)


def test_thinning_keeps_the_ends_and_always_the_same_bounds() -> None:
    """A bound that came and went would break every rate over it."""
    rows, count = series("0", [1] * 100)
    first = merged(rows, [], [count], 1)
    assert first is not None
    bounds = [bound for bound, _ in first.buckets]
    assert (bounds[0], bounds[-2]) == (1, 99)
    later_rows, later = series("0", [7] * 100)
    again = merged(later_rows, [], [later], 1)
    assert again is not None
    assert bounds == [bound for bound, _ in again.buckets]


def test_bounds_that_not_all_have_are_left_out() -> None:
    """Their counts cannot be added up."""
    rows = [
        *(row(count, engine="0", le=le) for le, count in (("1", 1), ("2", 2), ("+Inf", 3))),
        *(row(count, engine="1", le=le) for le, count in (("2.0", 5), ("5", 6), ("+Inf", 7))),
    ]
    assert merged(rows, [], [], 1) == Histogram(((2.0, 7), (math.inf, 10)), 0, 10)


def test_another_unit() -> None:
    """Triton's milliseconds."""
    rows = [row(1, le="250"), row(2, le="+Inf")]
    assert merged(rows, [row(800)], [row(2)], 0.001) == Histogram(
        ((0.25, 1), (math.inf, 2)), 0.8, 2
    )


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [row(1)],
        [row(1, le="x"), row(2, le="+Inf")],
        [row(1, le="NaN"), row(2, le="+Inf")],
        [row(5, le="1"), row(2, le="+Inf")],
        [row(math.nan, le="1"), row(2, le="+Inf")],
        [row(-1, le="1"), row(2, le="+Inf")],
    ],
)
def test_what_is_no_histogram(rows: list[RawSample]) -> None:
    """Nothing is shown rather than something wrong."""
    assert merged(rows, [row(1)], [row(2)], 1) is None


def test_a_sum_that_is_no_number_does_not_spoil_the_rest() -> None:
    """It does not count."""
    found = merged([row(2, le="+Inf")], [row(math.nan), row(1.5)], [row(2)], 1)
    assert found == Histogram(((math.inf, 2),), 1.5, 2)
