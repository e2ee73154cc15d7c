"""Weeks, days and hours together are exactly the stretch that was asked for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from apportion.core.units import NS_PER_HOUR
from apportion.cost.rollups.cover import Stretch, covered, without

HOUR = NS_PER_HOUR


def hours_of(stretch: Stretch, hours: int = 1) -> list[int]:
    assert stretch.start_ns is not None
    assert stretch.end_ns is not None
    assert stretch.start_ns % (hours * HOUR) == stretch.end_ns % (hours * HOUR) == 0
    return list(range(stretch.start_ns // HOUR, stretch.end_ns // HOUR))


@given(start=st.integers(0, 2_000), length=st.integers(0, 2_000))
def test_every_hour_once(start: int, length: int) -> None:
    """No hour is left out, none is in two, and nothing longer could be used."""
    asked = Stretch(start * HOUR, (start + length) * HOUR)
    found = covered([asked])
    seen = [
        hour for hours, parts in found.items() for part in parts for hour in hours_of(part, hours)
    ]
    assert sorted(seen) == list(range(start, start + length))
    shorter = sum(len(hours_of(part)) for part in found.get(1, ()))
    assert shorter < 48
    assert sum(len(hours_of(part, 24)) for part in found.get(24, ())) < 2 * 168


@given(edge=st.none() | st.integers(0, 1_000), other=st.none() | st.integers(1_000, 2_000))
def test_open_ends_stay_open(edge: int | None, other: int | None) -> None:
    """Without an end on a side the longest rollups go on for ever there."""
    asked = Stretch(*(None if at is None else at * HOUR for at in (edge, other)))
    weeks = covered([asked]).get(168, ())
    assert (asked.start_ns is None) is any(part.start_ns is None for part in weeks)
    assert (asked.end_ns is None) is any(part.end_ns is None for part in weeks)


def test_only_the_lengths_that_may_be_read() -> None:
    """A report by hour reads hours, however long it is."""
    asked = Stretch(0, 1_000 * HOUR)
    assert covered([asked], [1]) == {1: (asked,)}
    assert set(covered([asked], [1, 24])) == {1, 24}


@given(
    start=st.integers(0, 50),
    length=st.integers(0, 50),
    gone=st.sets(st.integers(0, 120), max_size=20),
)
def test_without_some_hours(start: int, length: int, gone: set[int]) -> None:
    """What is left out is left out, and nothing else is."""
    asked = Stretch(start * HOUR, (start + length) * HOUR)
    left = without(asked, [hour * HOUR for hour in sorted(gone)])
    hours = [hour for part in left for hour in hours_of(part)]
    assert hours == [hour for hour in range(start, start + length) if hour not in gone]
