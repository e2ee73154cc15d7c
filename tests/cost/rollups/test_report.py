"""A report with rollups is the report without: to the unit, whenever and however they are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cost.rollups.random_book import T0, Pair

from apportion.core.units import NS_PER_HOUR
from apportion.cost.ledger.ledger import Ledger
from apportion.cost.report import report
from apportion.cost.report_rows import Report

HOUR = NS_PER_HOUR
BY = (
    ("workload", "tenant", "model"),
    (),
    ("day", "workload"),
    ("hour", "tenant", "run"),
    ("category", "phase"),
    ("device", "rate", "method", "day"),
)
PERIODS = ((None, None), (T0 + HOUR, T0 + 29 * HOUR), (T0 + 26 * HOUR, None))


def said(
    ledger: Ledger, by: Sequence[str], period: tuple[int | None, int | None], as_of: int | None
) -> Report:
    return replace(report(ledger, *period, by, as_of_unix_ns=as_of), ledger="")


@settings(max_examples=15)
@given(
    seed=st.integers(0, 10**9),
    ticks=st.integers(1, 10),
    by=st.sampled_from(BY),
    period=st.sampled_from(PERIODS),
)
def test_rolled_up_or_not(
    seed: int, ticks: int, by: tuple[str, ...], period: tuple[int | None, int | None]
) -> None:
    """Random books, rolled up at random times by random pieces, say what their rows say."""
    pair = Pair(Random(seed))
    try:
        for _ in range(ticks):
            pair.tick()
            pair.roll(pair.random.choice((0, 1, 3, None)))
        assert said(pair.rolled, by, period, None) == said(pair.plain, by, period, None)
        pair.roll()
        assert said(pair.rolled, by, period, None) == said(pair.plain, by, period, None)
    finally:
        pair.close()
