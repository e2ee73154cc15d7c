"""What two tables say differently, row by row."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from fractions import Fraction

from apportion.core.units import UnixNs
from apportion.cost.price_row import Rate
from apportion.cost.prices.billing import BillingRule
from apportion.cost.prices.differences import differences
from apportion.cost.rate import PriceTable

RATE = Rate("Tesla T4", Fraction(5), "5", "USD", "gpu", "list", "s", date(2026, 1, 1))


def changes(before: list[Rate], after: list[Rate]) -> list[tuple[str, tuple[str, ...]]]:
    """How each row that differs has changed."""
    found = differences(PriceTable(tuple(before)), PriceTable(tuple(after)))
    return [(pair.change, pair.facts) for pair in found]


def test_every_fact_of_a_price_is_a_difference() -> None:
    """Two euros are not two dollars, and what is billed beyond the rate counts, too."""
    other = replace(
        RATE,
        currency="EUR",
        covers="gpu+host",
        basis="contract",
        valid_to_ns=UnixNs(7),
        billing=BillingRule(1, 60),
        committed_devices=2,
        mig_policy="memory",
    )
    facts = ("currency", "covers", "basis", "to", "billing", "committed_devices", "mig")
    assert changes([RATE], [other]) == [("changed", facts)]
    assert changes([RATE], [replace(RATE, units_per_hour=Fraction(6))]) == [
        ("changed", ("per_hour",))
    ]


def test_who_says_so_and_when_is_none() -> None:
    """A price that was looked up again and is the same is the same."""
    again = replace(RATE, source="other", as_of=date(2026, 2, 2), line=7, per_hour="5.0")
    assert changes([RATE], [again]) == []


def test_rows_are_told_apart_by_device_nodes_and_begin() -> None:
    """An open begin is another row than one that begins at the epoch."""
    dated = replace(RATE, valid_from_ns=UnixNs(0))
    placed = replace(RATE, match=(("cloud", "a"),))
    assert changes([RATE], [dated, placed]) == [("gone", ()), ("added", ()), ("added", ())]
    pairs = differences(PriceTable((RATE,)), PriceTable((placed,)))
    assert [pair.rate for pair in pairs] == [RATE, placed]
