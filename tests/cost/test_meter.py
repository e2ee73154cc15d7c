"""The meter: exact at any partition, for any currency."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apportion.core.units import NS_PER_HOUR, UNITS_PER_CURRENCY
from apportion.cost.meter import Meter, hour_of

RATES = st.one_of(
    st.integers(0, 20_000 * UNITS_PER_CURRENCY).map(Fraction),
    st.fractions(min_value=0, max_value=20_000 * UNITS_PER_CURRENCY, max_denominator=64),
)
OFFSETS = st.lists(st.integers(0, NS_PER_HOUR), min_size=1, max_size=20)
ORIGIN = 1_790_000 * NS_PER_HOUR


@given(RATES, OFFSETS)
def test_vector_equals_exact(rate: Fraction, offsets: list[int]) -> None:
    """The 64-bit arithmetic never differs from Python's integers."""
    meter = Meter(rate, ORIGIN)
    times = np.array([ORIGIN + offset for offset in offsets], dtype=np.int64)
    assert meter.at_all(times).tolist() == [meter.at(int(time_ns)) for time_ns in times]


@given(RATES, OFFSETS)
def test_any_partition_adds_up(rate: Fraction, cuts: list[int]) -> None:
    """Pieces of an hour cost together what the hour costs, to the unit."""
    meter = Meter(rate, ORIGIN)
    edges = sorted({0, NS_PER_HOUR, *cuts})
    pieces = [meter.at(ORIGIN + b) - meter.at(ORIGIN + a) for a, b in pairwise(edges)]
    assert sum(pieces) == rate.numerator // rate.denominator


def test_hour_at_a_whole_rate_costs_the_rate() -> None:
    """2.40 an hour is 2.40 for an hour."""
    meter = Meter.within_hour(Fraction(2_400_000_000_000), ORIGIN + 5, None)
    assert meter.origin_ns == ORIGIN
    assert meter.at(ORIGIN + NS_PER_HOUR) == 2_400_000_000_000


def test_a_rate_that_begins_within_the_hour_counts_from_there() -> None:
    """T0 is the start of the rate where that is later than the hour's."""
    meter = Meter.within_hour(Fraction(10), ORIGIN + 500, ORIGIN + 400)
    assert meter.origin_ns == ORIGIN + 400
    assert hour_of(ORIGIN + 500) == ORIGIN


def test_instants_outside_the_hour_are_refused() -> None:
    """A caller that forgets to split at the hour must not get a wrong amount."""
    with pytest.raises(ValueError, match="outside the hour"):
        Meter(Fraction(1), ORIGIN).at_all(np.array([ORIGIN - 1], dtype=np.int64))
