"""Budgets: their periods, and what of them a ledger has spent, to the unit."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cost.rollups.two_days import two_days
from tests.cost.test_report import T0, fleet, seconds

from apportion.core.category import Category
from apportion.core.units import NS_PER_HOUR, NS_PER_SECOND
from apportion.cost.budget import Budget, Every, spent
from apportion.cost.report import report
from apportion.cost.spenders import SPENDERS
from apportion.cost.testing import Claim, LedgerBuilder

UTC = ZoneInfo("UTC")
LIMIT = 10**12
SOON = T0 + NS_PER_HOUR


def budget(every: Every = "month", zone: ZoneInfo = UTC, **chooses: str) -> Budget:
    return Budget("b", LIMIT, every, zone, {name: frozenset([of]) for name, of in chooses.items()})


def unix_ns(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp()) * NS_PER_SECOND


@pytest.mark.parametrize(
    ("every", "zone", "start", "end"),
    [
        ("day", "UTC", "2024-02-29T00:00+00:00", "2024-03-01T00:00+00:00"),
        ("week", "UTC", "2024-02-26T00:00+00:00", "2024-03-04T00:00+00:00"),
        ("month", "UTC", "2024-02-01T00:00+00:00", "2024-03-01T00:00+00:00"),
        ("day", "Asia/Tokyo", "2024-03-01T00:00+09:00", "2024-03-02T00:00+09:00"),
        ("month", "Asia/Tokyo", "2024-03-01T00:00+09:00", "2024-04-01T00:00+09:00"),
        ("month", "Europe/Berlin", "2024-02-01T00:00+01:00", "2024-03-01T00:00+01:00"),
    ],
)
def test_a_period_is_of_the_calendar_of_its_zone(
    every: Every, zone: str, start: str, end: str
) -> None:
    """Months have their own lengths, weeks begin on Monday, and midnight is where the zone is."""
    bounds = budget(every, ZoneInfo(zone)).period(unix_ns("2024-02-29T20:00+00:00"))
    assert bounds == (unix_ns(start), unix_ns(end))


def test_a_month_in_which_the_clocks_change_is_an_hour_shorter() -> None:
    """Summer time begins in March: its month has 743 hours."""
    start, end = budget(zone=ZoneInfo("Europe/Berlin")).period(unix_ns("2024-03-20T00:00+00:00"))
    assert end - start == (31 * 24 - 1) * NS_PER_HOUR


@given(
    st.integers(365 * 86_400, 230 * 365 * 86_400),
    st.sampled_from(["day", "week", "month"]),
    st.sampled_from(["UTC", "America/Havana", "Asia/Kolkata", "Pacific/Apia"]),
)
def test_periods_follow_one_another(now_s: int, every: Every, zone: str) -> None:
    """An instant is in its period, and the next one begins where that ends."""
    now_ns = now_s * NS_PER_SECOND
    one = budget(every, ZoneInfo(zone))
    start, end = one.period(now_ns)
    assert start <= now_ns < end
    assert one.period(start) == one.period(end - 1) == (start, end)
    assert one.period(end)[0] == end


@pytest.mark.usefixtures("each_database")
def test_what_is_spent_is_what_a_report_says() -> None:
    """By each selector, open and moved cost in it, the same units as the rows of a report."""
    with fleet().ledger() as ledger:
        found = report(ledger, by=SPENDERS)
        whole = sum(row.total.units or 0 for row in found.rows)
        choices = [each for row in found.rows for each in named(row.key)]
        budgets = [
            Budget("b", LIMIT, "month", UTC, {name: frozenset([of]) for name, of in some})
            for some in ([], *([each] for each in choices))
        ]
        said = spent(ledger, budgets, SOON)
        for each in said:
            wanted = [row.total.units for row in found.rows if each.budget.takes(row.key)]
            assert each.units == sum(units for units in wanted if units is not None)
        assert said[0].units == whole > 0
        assert len({each.units for each in said}) > 3


def named(key: tuple[str | None, ...]) -> list[tuple[str, str]]:
    return [(name, of) for name, of in zip(SPENDERS, key, strict=True) if of is not None]


def test_only_the_present_period_counts() -> None:
    """Of 52 hours a day's budget has what was spent since midnight; before it began, 0."""
    with two_days().ledger() as ledger:
        day, month = spent(ledger, [budget("day"), budget("month")], T0 + 50 * NS_PER_HOUR)
        assert day.units is not None
        assert month.units is not None
        assert 0 < day.units < month.units
        since = report(ledger, day.start_unix_ns)
        assert day.units == sum(row.total.units or 0 for row in since.rows)
        (later,) = spent(ledger, [budget("day")], T0 + 9_000 * NS_PER_HOUR)
        assert later.units == 0


def test_without_a_price_it_is_not_known_what_was_spent() -> None:
    """Time without a rate is no money: None, and not 0."""
    builder = LedgerBuilder()
    builder.device(1, "GPU-1")
    builder.entity(1, "serve")
    builder.settle(1, seconds(0, 10), [Claim(Category.ALLOCATED_IDLE, 1, 1)])
    with builder.ledger() as ledger:
        everything, others = spent(ledger, [budget(), budget(workload="other")], SOON)
    assert everything.units is None
    assert others.units == 0
