"""The built-in table: facts with a source and a date, every one marked as an estimate."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

from apportion.core.units import UNITS_PER_CURRENCY
from apportion.cost.price_row import ESTIMATE
from apportion.cost.prices.built_in import built_in_table
from apportion.cost.prices.device_names import nvml_name
from apportion.cost.prices.importers.skypilot import read_skypilot


def test_every_row_is_an_estimate_with_a_source_and_a_date() -> None:
    """Nobody's bill: a report that rests on it says so, and how old it is."""
    table = built_in_table()
    assert table.currency == "USD"
    assert {rate.basis for rate in table.rates} == {ESTIMATE}
    assert {rate.match for rate in table.rates} == {()}
    for rate in table.rates:
        assert nvml_name(rate.device_name) == rate.device_name
        assert "catalogue" in rate.source or "survey" in rate.source
        assert table.rate_for(rate.device_name, 0) == rate


def test_each_price_is_a_published_one(published_prices: Path) -> None:
    """Of the instance and region that its source names, to the cent, in the real lists."""
    offers = {
        (dict(offer.match)["instance_type"], dict(offer.match)["region"]): offer
        for path in sorted(published_prices.glob("skypilot_*/*.csv"))
        for offer in read_skypilot(path, path.stem).offers
        if ("capacity", "on-demand") in offer.match and "instance_type" in dict(offer.match)
    }
    checked = 0
    for rate in built_in_table().rates:
        if "SkyPilot" in rate.source:
            _, instance, region = rate.source.partition(" (")[0].split(", ")
            offer = offers[instance, region]
            assert offer.device == rate.device_name
            assert offer.per_device * UNITS_PER_CURRENCY == rate.units_per_hour
            checked += 1
    assert checked == len(built_in_table().rates) - 1


def test_the_prices_that_a_newcomer_sees() -> None:
    """A change of a built-in price is on purpose."""
    table = built_in_table()
    prices = {rate.device_name: rate.units_per_hour / UNITS_PER_CURRENCY for rate in table.rates}
    assert prices["NVIDIA H100 80GB HBM3"] == Fraction("2.95")
    assert prices["Tesla T4"] == Fraction("0.526")
    assert len(prices) == 15
