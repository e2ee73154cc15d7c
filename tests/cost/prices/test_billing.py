"""What is billed beyond the meter: exact, and nothing twice."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apportion.core.interval import Interval
from apportion.core.units import NS_PER_HOUR, NS_PER_SECOND, UNITS_PER_CURRENCY
from apportion.cost.prices.billing import (
    AS_METERED,
    BillingRule,
    Commitment,
    billing_rounding,
    commitment_unused,
    priced,
    units_by_hour,
)

S = NS_PER_SECOND
HOUR = NS_PER_HOUR
NINE = 494_445 * HOUR
"""The start of some hour."""
CENT = UNITS_PER_CURRENCY // 100
PER_SECOND = BillingRule(S, 60 * S)
HOURLY = BillingRule(HOUR)

_rates = st.fractions(0, 20, max_denominator=1024).map(lambda rate: rate * UNITS_PER_CURRENCY)
_rules = st.builds(BillingRule, st.integers(1, 3 * HOUR), st.integers(0, 3 * HOUR))
_times = st.integers(NINE - HOUR, NINE + 3 * HOUR)


def total(pieces: tuple[tuple[int, int, int], ...]) -> int:
    """Units of all pieces."""
    return sum(units for _, _, units in pieces)


@pytest.mark.parametrize(
    ("rule", "seconds", "billed"),
    [
        (AS_METERED, 0.000_000_001, 0.000_000_001),
        (PER_SECOND, 0.5, 60),
        (PER_SECOND, 60, 60),
        (PER_SECOND, 60.000_000_001, 61),
        (PER_SECOND, 3_600, 3_600),
        (HOURLY, 1, 3_600),
        (HOURLY, 3_600, 3_600),
        (HOURLY, 3_601, 7_200),
        (BillingRule(60 * S, 90 * S), 30, 90),
        (BillingRule(60 * S, 90 * S), 91, 120),
    ],
)
def test_quanta_and_minimums_by_hand(rule: BillingRule, seconds: float, billed: float) -> None:
    """max(minimum, ceil(duration / granularity) x granularity)."""
    assert rule.billed_ns(round(seconds * S)) == round(billed * S)


def test_a_short_rental_pays_its_minimum() -> None:
    """Ten seconds of a cent a second, with a minimum of a minute: fifty cents more."""
    spell = Interval(NINE + 100 * S, NINE + 110 * S)
    pieces = billing_rounding([spell], PER_SECOND, Fraction(3_600 * CENT), None)
    assert pieces == ((NINE + 110 * S, NINE + 160 * S, 50 * CENT),)


def test_rounding_over_the_hour_is_cut_there() -> None:
    """A ledger line lies in one clock hour, and so does each piece."""
    spell = Interval(NINE + HOUR - 10 * S, NINE + HOUR - 5 * S)
    pieces = billing_rounding([spell], PER_SECOND, Fraction(3_600 * CENT), None)
    assert pieces == (
        (NINE + HOUR - 5 * S, NINE + HOUR, 5 * CENT),
        (NINE + HOUR, NINE + HOUR + 50 * S, 50 * CENT),
    )


def test_each_rental_is_billed_for_itself() -> None:
    """Two short spells pay the minimum twice, also where the first is billed into the second."""
    spells = [Interval(NINE, NINE + 5 * S), Interval(NINE + 20 * S, NINE + 25 * S)]
    assert total(billing_rounding(spells, PER_SECOND, Fraction(3_600 * CENT), None)) == 110 * CENT
    empty = Interval(NINE, NINE)
    assert billing_rounding([empty], PER_SECOND, Fraction(3_600 * CENT), None) == ()


@given(st.lists(st.tuples(_times, st.integers(1, 2 * HOUR)), max_size=4), _rules, _rates)
def test_metered_and_rounding_are_the_meter_of_what_is_billed(
    spells: list[tuple[int, int]], rule: BillingRule, rate: Fraction
) -> None:
    """To the unit, for any rate, and never negative: R(end) - R(start) + rounding = R(billed)."""
    intervals = [Interval(start, start + length) for start, length in spells]
    metered = sum(total(priced(spell, rate, None)) for spell in intervals)
    pieces = billing_rounding(intervals, rule, rate, None)
    billed = [
        Interval(spell.start_ns, spell.start_ns + rule.billed_ns(spell.duration_ns))
        for spell in intervals
    ]
    assert metered + total(pieces) == sum(total(priced(spell, rate, None)) for spell in billed)
    assert all(units >= 0 and start // HOUR == (end - 1) // HOUR for start, end, units in pieces)


@given(_times, st.integers(1, 3 * HOUR), st.lists(_times, max_size=5), _rates)
def test_any_partition_costs_the_same(
    start: int, length: int, cuts: list[int], rate: Fraction
) -> None:
    """By hour and in all, however the time was cut, also for a rate that begins inside an hour."""
    whole = Interval(start, start + length)
    pieces = [one for part in whole.split(cuts) for one in priced(part, rate, start)]
    assert units_by_hour(pieces) == units_by_hour(priced(whole, rate, start))


def committed(devices: int, first: int, last: int, rate: Fraction | int = 360) -> Commitment:
    """So many devices from one second after NINE to another; 360 cents an hour."""
    span = Interval(NINE + first * S, NINE + last * S)
    return Commitment(devices, Fraction(rate * CENT), span)


def test_what_nobody_used_is_what_was_committed_less_what_was_metered() -> None:
    """Of two devices one ran for half of the first hour, and both throughout the second."""
    reserved = committed(2, 0, 3 * 3_600)
    metered = {NINE: 180 * CENT, NINE + HOUR: 720 * CENT}
    pieces = commitment_unused(reserved, Interval(NINE, NINE + 3 * HOUR), metered)
    assert pieces == (
        (NINE, NINE + HOUR, 540 * CENT),
        (NINE + 2 * HOUR, NINE + 3 * HOUR, 720 * CENT),
    )


def test_more_use_in_one_hour_makes_up_for_nothing_in_another() -> None:
    """Use it or lose it, hour by hour: nothing is negative and nothing is carried over."""
    metered = {NINE: 5_000 * CENT}
    pieces = commitment_unused(committed(1, 0, 7_200), Interval(NINE, NINE + 2 * HOUR), metered)
    assert pieces == ((NINE + HOUR, NINE + 2 * HOUR, 360 * CENT),)


def test_an_hour_that_has_not_ended_is_left_alone() -> None:
    """Its use is not known yet; and before and after the commitment nothing is committed."""
    reserved = committed(1, 1_800, 5_400)
    whole = Interval(NINE - 3 * HOUR, NINE + 9 * HOUR)
    assert commitment_unused(reserved, whole, {}) == (
        (NINE + HOUR // 2, NINE + HOUR, 180 * CENT),
        (NINE + HOUR, NINE + HOUR + HOUR // 2, 180 * CENT),
    )
    for part in (Interval(NINE + 1, NINE + 2 * HOUR - 1), Interval(NINE + 1, NINE + HOUR)):
        assert commitment_unused(reserved, part, {}) == ()


@given(
    st.integers(1, 12),
    st.lists(st.tuples(_times, st.integers(1, 2 * HOUR)), max_size=6),
    _rates,
    st.lists(st.integers(-2, 5), max_size=4),
)
def test_unused_is_exact_by_hour_and_does_not_depend_on_the_calls(
    devices: int, spells: list[tuple[int, int]], rate: Fraction, hours: list[int]
) -> None:
    """max(0, committed - metered) in each hour, however the hours are asked for."""
    valid = Interval(NINE - HOUR, NINE + 4 * HOUR)
    reserved = Commitment(devices, rate, valid)
    used = [Interval(start, start + length).clip(valid) for start, length in spells]
    metered = units_by_hour(piece for one in used for piece in priced(one, rate, None))
    whole = Interval(NINE - 2 * HOUR, NINE + 5 * HOUR)
    pieces = commitment_unused(reserved, whole, metered)
    for piece in priced(valid, rate, None):
        found = sum(units for start, _, units in pieces if start == piece.start_ns)
        assert found == max(0, devices * piece.units - metered[piece.start_ns])
    edges = sorted({whole.start_ns, whole.end_ns, *(NINE + hour * HOUR for hour in hours)})
    parts = [commitment_unused(reserved, Interval(*edge), metered) for edge in pairwise(edges)]
    assert tuple(piece for part in parts for piece in part) == pieces


@given(st.integers(1, 12), _rates)
def test_a_commitment_that_is_fully_used_costs_nothing_more(devices: int, rate: Fraction) -> None:
    """Not a unit, whatever the rate rounds to: it is the same floor as the meter's."""
    valid = Interval(NINE + HOUR // 3, NINE + 3 * HOUR)
    one = priced(valid, rate, valid.start_ns)
    metered = units_by_hour(piece for _ in range(devices) for piece in one)
    reserved = Commitment(devices, rate, valid)
    assert commitment_unused(reserved, Interval(NINE, NINE + 3 * HOUR), metered) == ()
