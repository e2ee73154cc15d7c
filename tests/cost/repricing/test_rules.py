"""Quanta, minimums and unused commitments become lines of nobody's, once, and follow the book."""

from __future__ import annotations

import sqlite3
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.agent.pipeline.world import rate
from tests.cost.repricing.books import H100, HOUR, T0, rows

from apportion.core.category import Category
from apportion.core.clock import ManualClock
from apportion.core.interval import Interval
from apportion.core.units import NS_PER_MINUTE, NS_PER_SECOND
from apportion.cost.audit import audit, audit_text
from apportion.cost.ledger.ledger import Ledger
from apportion.cost.ledger.reader import LedgerReader
from apportion.cost.prices.billing import BillingRule
from apportion.cost.rate import PriceTable
from apportion.cost.report import report
from apportion.cost.repricing.apply import apply_prices
from apportion.cost.repricing.proposal import Proposal
from apportion.cost.repricing.rules import ENDED_NS
from apportion.cost.testing import Claim, LedgerBuilder

DOLLAR = 10**12
M = NS_PER_MINUTE
BY_THE_HOUR = BillingRule(HOUR, 0)


def table(
    price: int = DOLLAR, billing: BillingRule = BY_THE_HOUR, committed: int | None = None
) -> PriceTable:
    """One price of the H100; committed for the first four hours."""
    valid = {"valid_from_ns": T0, "valid_to_ns": T0 + 4 * HOUR} if committed else {}
    row = rate(
        price,
        H100,
        billing=billing,
        committed_devices=committed,
        as_of=date(2023, 11, 1),
        **valid,
    )
    return PriceTable((row,))


def metered(until_ns: int, *, devices: int = 1, path: str | Path = "sqlite://") -> Ledger:
    """Devices that were seen from five minutes into the first hour on; it is much later now."""
    builder = LedgerBuilder()
    for key in range(1, devices + 1):
        builder.device(key, f"GPU-{key}")
    go_on(builder, T0 + 5 * M, until_ns, devices)
    return builder.ledger(path, clock=ManualClock(realtime_ns=until_ns + 24 * HOUR))


def go_on(builder: LedgerBuilder, start_ns: int, until_ns: int, devices: int = 1) -> None:
    """Nobody's time on each device."""
    for key in range(1, devices + 1):
        builder.settle(key, Interval(start_ns, until_ns), [Claim(Category.UNALLOCATED, key)])


def apply(ledger: Ledger, prices: PriceTable) -> Proposal:
    """Apply to everything; the book is clean, the report proves it, and again posts nothing."""
    found = apply_prices(ledger, "node-1", prices, None, None)
    result = audit(ledger)
    assert result.holds, audit_text(result)
    assert report(ledger).proof.holds
    again = apply_prices(ledger, "node-1", prices, None, None)
    assert (again.batch.inserted, again.rules) == ({}, ())
    return found


def by_hour(ledger: Ledger, category: Category) -> dict[int, int]:
    """Units by hour since the start; each line is nobody's and has no time."""
    found: dict[int, int] = {}
    for row in rows(ledger, "charge"):
        if row["category"] == category:
            names = ("entity_key", "ring_key", "number", "phase", "energy_mj")
            assert [row[name] for name in names] == [None] * len(names)
            assert (row["device_ns"], row["kind"]) == (0, 3)
            hour = (row["start_ns"] - T0) // HOUR
            found[hour] = found.get(hour, 0) + row["units"]
    return {hour: units for hour, units in found.items() if units}


def test_a_rental_is_rounded_up_after_its_end() -> None:
    """2 h 12 min by the hour are 3 h: what is beyond is billing_rounding, in the hours it is in."""
    with metered(T0 + 2 * HOUR + 17 * M) as ledger:
        found = apply(ledger, table())
        assert by_hour(ledger, Category.BILLING_ROUNDING) == {
            2: DOLLAR - DOLLAR * 17 // 60,
            3: DOLLAR * 5 // 60,
        }
        (rule,) = found.rules
        assert (rule.device, rule.category) == ("GPU-1", Category.BILLING_ROUNDING)
        said = report(ledger)
        rounding = next(r for r in said.categories if r.category is Category.BILLING_ROUNDING)
        assert rounding.total.units == rounding.adjusted.units == rule.units
        assert rounding.total.device_ns == 0


def test_a_minimum_is_charged_once() -> None:
    """Ten minutes with a minimum of two hours cost two hours."""
    with metered(T0 + 15 * M) as ledger:
        apply(ledger, table(billing=BillingRule(1, 2 * HOUR)))
        total = sum(by_hour(ledger, Category.BILLING_ROUNDING).values())
        assert total == 2 * DOLLAR - DOLLAR * 10 // 60 - 1


def test_a_rental_that_runs_is_not_rounded_yet() -> None:
    """What it will be rounded to is not known before it ends."""
    with metered(T0 + 2 * HOUR + 17 * M) as ledger:
        ledger.clock = ManualClock(realtime_ns=T0 + 2 * HOUR + 17 * M + ENDED_NS - 1)
        apply(ledger, table())
        assert by_hour(ledger, Category.BILLING_ROUNDING) == {}


def test_a_rental_that_went_on_after_all() -> None:
    """An agent that was away for a day comes back: the rounding is taken back, and made anew."""
    with metered(T0 + 2 * HOUR + 17 * M) as ledger:
        apply(ledger, table())
        builder = LedgerBuilder()
        builder.batch.inserted.clear()
        builder._next_charge = 100
        builder._marks[1] = (T0 + 5 * M, 0)
        go_on(builder, T0 + 2 * HOUR + 17 * M, T0 + 26 * HOUR)
        builder.commit(ledger)
        assert audit(ledger).holds
        apply(ledger, table())
        assert by_hour(ledger, Category.BILLING_ROUNDING) == {}
        ledger.clock = ManualClock(realtime_ns=T0 + 99 * HOUR)
        apply(ledger, table())
        assert by_hour(ledger, Category.BILLING_ROUNDING) == {26: DOLLAR * 5 // 60}


def test_another_price_or_rule_replaces_it() -> None:
    """The rounding is at the row that holds, and goes when its row has no rule any more."""
    with metered(T0 + 2 * HOUR + 35 * M) as ledger:
        apply(ledger, table())
        apply(ledger, table(price=2 * DOLLAR))
        assert sum(by_hour(ledger, Category.BILLING_ROUNDING).values()) == 2 * DOLLAR // 2
        apply(ledger, table(price=2 * DOLLAR, billing=BillingRule(1, 0)))
        assert by_hour(ledger, Category.BILLING_ROUNDING) == {}


def test_what_is_committed_and_not_used() -> None:
    """Four devices are paid for, two are there: the rest of each whole hour was not used."""
    with metered(T0 + 3 * HOUR + 20 * M, devices=2) as ledger:
        apply(ledger, table(committed=4, billing=BillingRule()))
        # The first hour is known from its sixth minute on, and the fourth is not over.
        assert by_hour(ledger, Category.COMMITMENT_UNUSED) == {1: 2 * DOLLAR, 2: 2 * DOLLAR}
        apply(ledger, table(price=3 * DOLLAR, committed=3, billing=BillingRule()))
        assert by_hour(ledger, Category.COMMITMENT_UNUSED) == {1: 3 * DOLLAR, 2: 3 * DOLLAR}
        apply(ledger, table(price=3 * DOLLAR, committed=2, billing=BillingRule()))
        assert by_hour(ledger, Category.COMMITMENT_UNUSED) == {}


def test_only_hours_that_are_asked_for() -> None:
    """A period decides about the commitments of its hours, and about rentals that end in it."""
    prices = table(committed=4)
    with metered(T0 + 3 * HOUR + 20 * M) as ledger:
        apply_prices(ledger, "node-1", prices, T0 + HOUR, T0 + 2 * HOUR)
        assert by_hour(ledger, Category.COMMITMENT_UNUSED) == {1: 3 * DOLLAR}
        assert by_hour(ledger, Category.BILLING_ROUNDING) == {}
        cheaper = table(price=DOLLAR // 2, committed=4)
        apply_prices(ledger, "node-1", cheaper, T0 + 2 * HOUR, T0 + 3 * HOUR)
        wanted = {1: 3 * DOLLAR, 2: 3 * DOLLAR // 2}
        assert by_hour(ledger, Category.COMMITMENT_UNUSED) == wanted
        assert audit(ledger).holds


def test_mig_instances_draw_on_nothing() -> None:
    """What is committed, and what billing adds, is the GPU's: an instance has its rate alone."""
    builder = LedgerBuilder()
    builder.device(1, "MIG-1", f"{H100} MIG 3g.40gb")
    go_on(builder, T0, T0 + 2 * HOUR + 17 * M)
    clock = ManualClock(realtime_ns=T0 + 99 * HOUR)
    with builder.ledger(clock=clock) as ledger:
        found = apply(ledger, table(committed=4))
        assert found.rules == ()
        assert found.changes[0].after_units == 2 * (DOLLAR * 3 // 7)


@settings(max_examples=settings().max_examples // 8)
@given(
    lengths=st.lists(st.integers(1, 90 * 60), min_size=1, max_size=4),
    rules=st.lists(
        st.tuples(
            st.integers(0, 10**13),
            st.builds(BillingRule, st.integers(1, 3 * HOUR), st.integers(0, 5 * HOUR)),
            st.none() | st.integers(1, 5),
        ),
        min_size=1,
        max_size=3,
    ),
)
def test_whatever_was_posted_before(
    lengths: list[int], rules: list[tuple[int, BillingRule, int | None]]
) -> None:
    """However a device goes on and its rules change, the last ones alone decide what stands."""
    end_ns = T0 + 5 * M
    ledger = metered(end_ns + 1)
    builder = LedgerBuilder()
    builder.batch.inserted.clear()
    builder._next_charge = 100
    builder._marks[1] = (T0 + 5 * M, 0)
    reached_ns = end_ns + 1
    prices = table()
    for length_s, rule in zip(lengths, rules * 4, strict=False):
        prices = table(*rule)
        go_on(builder, reached_ns, reached_ns + length_s * NS_PER_SECOND)
        builder.commit(ledger)
        reached_ns += length_s * NS_PER_SECOND
        ledger.clock = ManualClock(realtime_ns=reached_ns + 24 * HOUR)
        apply(ledger, prices)
    with metered(reached_ns) as alone:
        apply(alone, prices)
        for category in (Category.BILLING_ROUNDING, Category.COMMITMENT_UNUSED):
            assert by_hour(ledger, category) == by_hour(alone, category)
    ledger.close()


TAMPERINGS = {
    "more than the rate says": (
        "UPDATE price_rule SET units = units + 1 WHERE category = 12",
        "rules",
        "billing_rounding beside device GPU-1",
    ),
    "more than was committed": (
        "UPDATE price_rule SET units = units * 2 WHERE category = 11",
        "rules",
        "commitment_unused beside device GPU-1",
    ),
    "an unknown rate": ("DELETE FROM rate", "rules", "a row of rate -1"),
    "another category": (
        "UPDATE price_rule SET category = 99 WHERE category = 12",
        "rules",
        "category 99 beside",
    ),
    "a line made dearer": (
        "UPDATE charge SET units = units + 1 WHERE category = 12",
        "ruled",
        "billing_rounding beside device GPU-1",
    ),
    "a line given to somebody": (
        "UPDATE charge SET number = 1 WHERE category = 12",
        "ruled",
        "an adjustment of nobody's",
    ),
    "a line taken out": ("DELETE FROM charge WHERE category = 11", "ruled", "should be 3"),
}


@pytest.mark.parametrize("kind", TAMPERINGS)
def test_tampering_is_found(tmp_path: Path, kind: str) -> None:
    """The audit knows what a rule may add, and whose lines it is in."""
    statement, name, message = TAMPERINGS[kind]
    path = tmp_path / "ledger.db"
    with metered(T0 + 2 * HOUR + 17 * M, path=path) as ledger:
        apply(ledger, table(committed=4))
    with sqlite3.connect(path) as connection:
        assert connection.execute(statement).rowcount
    connection.close()
    with LedgerReader.of(path) as reader:
        result = audit(reader)
    failing = {check.name: str(check.finding) for check in result.checks if not check.holds}
    assert message in failing[name], audit_text(result)
