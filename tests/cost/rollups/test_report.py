"""A report with rollups is the report without: to the unit, whenever and however they are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cost.rollups.random_book import T0, Pair

from apportion.core.errors import LedgerError
from apportion.core.units import NS_PER_HOUR
from apportion.cost.keeping import Keep
from apportion.cost.ledger.reader import LedgerReader
from apportion.cost.loaded_cost import Loading
from apportion.cost.report import report
from apportion.cost.report_rows import OTHER, Report
from apportion.cost.retention import Retention

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
    ledger: LedgerReader,
    by: Sequence[str],
    period: tuple[int | None, int | None] = (None, None),
    as_of: int | None = None,
) -> Report:
    """A report without what depends on which ledger it is, or on when it is made."""
    found = report(ledger, *period, by, as_of_unix_ns=as_of)
    devices = tuple(replace(row, settled_until_unix_ns=None) for row in found.devices)
    return replace(
        found, ledger="", as_of_unix_ns=None, settled_until_unix_ns=None, devices=devices
    )


@settings(max_examples=settings().max_examples // 10)
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
    with Pair(Random(seed)) as pair:
        for _ in range(ticks):
            pair.tick()
            pair.roll(pair.random.choice((0, 1, 3, None)))
        assert said(pair.rolled, by, period) == said(pair.plain, by, period)
        pair.roll()
        assert said(pair.rolled, by, period) == said(pair.plain, by, period)


@settings(max_examples=3)
@given(seed=st.integers(0, 10**9), by=st.sampled_from(BY), keeps=st.booleans())
def test_as_of_is_what_was_said_then(seed: int, by: tuple[str, ...], keeps: bool) -> None:
    """Of hours that were complete a later report as of that time says the same, whatever came.

    Where rows are deleted meanwhile and their hour has changed, it is refused and never wrong.
    """
    said_then: list[tuple[int, int, Report]] = []
    refused: list[str] = []
    lengths = (60, 4_000, 20_000)
    with Pair(Random(seed), lengths_s=lengths, furthest_hours=12) as pair:
        keep = Keep(24 * HOUR if keeps else None)
        retention = Retention(pair.rolled._engine, "rolled", keep, most_rows=500)
        for _ in range(9):
            pair.tick()
            pair.roll()
            while retention.step(pair.agent_id):
                pass
            open_since = [line[7] for _, line in pair.running]
            complete_ns = min([*pair.marks.values(), *open_since])
            complete_ns -= complete_ns % HOUR
            if complete_ns > T0:
                found = said(pair.plain, by, (T0, complete_ns))
                said_then.append((pair.now_ns, complete_ns, found))
        for now_ns, complete_ns, found in said_then:
            assert said(pair.plain, by, (T0, complete_ns), now_ns) == found
            try:
                again = said(pair.rolled, by, (T0, complete_ns), now_ns)
            except LedgerError as error:
                refused.append(str(error))
            else:
                assert again == found
    assert keeps or not refused
    assert all("what they were is not kept any more" in text for text in refused)


def test_as_of_leaves_out_what_was_not_over() -> None:
    """Hours that had not ended then are no part of it, and lines that were missing are named."""
    with Pair(Random(3)) as pair:
        for _ in range(6):
            pair.tick()
        then_ns = T0 + 3 * HOUR + HOUR // 2
        found = report(pair.plain, as_of_unix_ns=then_ns)
        assert found.end_unix_ns == T0 + 3 * HOUR
        early = report(pair.plain, as_of_unix_ns=T0 + HOUR)
        missing = early.proof.open
        assert early.proof.posted + missing == early.proof.metered
        assert missing.device_ns > 0
        assert "had no line yet at that time" in early.warnings[0]


@settings(max_examples=3)
@given(
    seed=st.integers(0, 10**9),
    top=st.integers(1, 5),
    by=st.sampled_from([by for by in BY if by]),
)
def test_top_rows_and_the_others_are_all(seed: int, top: int, by: tuple[str, ...]) -> None:
    """With --top the rows that cost most are shown, and the last one makes the sum whole."""
    with Pair(Random(seed)) as pair:
        for _ in range(5):
            pair.tick()
        whole, some = report(pair.plain, by=by), report(pair.plain, by=by, top=top)
    assert len(some.rows) == min(top + 1, len(whole.rows))
    by_cost = sorted((row.total.units or 0 for row in whole.rows), reverse=True)
    assert [row.total.units or 0 for row in some.rows[:top]] == by_cost[:top]
    for name in ("device_ns", "units", "energy_mj", "unpriced_ns"):
        sums = [sum(getattr(row.total, name) or 0 for row in found.rows) for found in (whole, some)]
        assert sums[0] == sums[1], name
    assert sum(row.requests or 0 for row in whole.rows) == sum(
        row.requests or 0 for row in some.rows
    )
    assert (some.rows[-1].key == (OTHER,) * len(by)) is (len(whole.rows) > top)
    assert some.categories == whole.categories


@pytest.mark.parametrize("by", [("tenant",), ("day", "workload"), ("hour", "tenant")])
@pytest.mark.parametrize("loading", Loading)
def test_loaded_cost_is_shared_alike(by: tuple[str, ...], loading: Loading) -> None:
    """Rolled up or not each row has the same load, and what --top folds has the rest."""
    with Pair(Random(8)) as pair:
        for _ in range(5):
            pair.tick()
        pair.roll()
        whole, rolled = (
            report(ledger, by=by, loading=loading).loaded for ledger in (pair.plain, pair.rolled)
        )
        some = report(pair.rolled, by=by, loading=loading, top=1).loaded
    assert whole is not None
    assert some is not None
    assert rolled == whole
    assert sum(some.units.values()) == sum(whole.units.values())
    assert some.unshared_units == whole.unshared_units


@pytest.mark.parametrize(
    "by", [("category",), ("phase", "day"), ("device",), ("rate",), ("method",)]
)
def test_what_no_span_has_one_of_counts_no_spans(by: tuple[str, ...]) -> None:
    """A request has no one category, phase, device, rate or method: its count is unknown, not 0."""
    with Pair(Random(5)) as pair:
        for _ in range(5):
            pair.tick()
        found = report(pair.plain, by=by)
    assert found.rows
    assert {(row.requests, row.steps, row.input_tokens) for row in found.rows} == {
        (None, None, None)
    }
    assert sum(row.total.units or 0 for row in found.rows) == (
        (found.proof.posted + found.proof.open + found.proof.adjusted).units
    )
