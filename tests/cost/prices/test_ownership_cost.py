"""Hardware of one's own: every term shown, nothing counted twice."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apportion.agent.cli import main
from apportion.cost.prices.ownership_cost import OwnedHardware

NODE = OwnedHardware(
    devices=8,
    capital_cost=Decimal(280_000),
    life_years=Decimal(5),
    salvage=Decimal(20_000),
    cost_of_capital_ratio=Decimal("0.08"),
    power_w=Decimal(8_000),
    pue=Decimal("1.25"),
    power_price_per_kwh=Decimal("0.10"),
    colocation_per_kw_month=Decimal(146),
    staff_per_year=Decimal(70_080),
)


def test_every_term_by_hand() -> None:
    """An annuity at 8 % over five years is 0.2504565 of the capital a year."""
    terms = {name: float(amount) for name, amount in NODE.terms().items()}
    assert terms["capital"] == pytest.approx(280_000 * 0.2504564546 / 8_760 / 8, rel=1e-9)
    assert terms["salvage"] == pytest.approx(-20_000 * 0.1704564546 / 8_760 / 8, rel=1e-9)
    assert terms["power"] == pytest.approx(8 * 1.25 * 0.10 / 8)
    assert terms["colocation"] == pytest.approx(8 * 0.2 / 8)
    assert terms["staff"] == pytest.approx(1.0)
    assert NODE.per_device_hour() == sum(NODE.terms().values())


def test_without_interest_capital_is_spread_evenly() -> None:
    """No division by zero, and the limit that everybody can check."""
    plain = OwnedHardware(1, Decimal(87_600), Decimal(2))
    assert plain.terms()["capital"] == Decimal(5)
    assert plain.per_device_hour() == Decimal(5)


@given(st.decimals("0.001", "0.3", places=3), st.integers(1, 15))
def test_the_annuity_pays_back_the_capital(ratio: Decimal, years: int) -> None:
    """Discounted to today, what a life's hours pay is what was spent, less the salvage."""
    node = replace(
        OwnedHardware(1, Decimal(100_000), Decimal(years), Decimal(10_000)),
        cost_of_capital_ratio=ratio,
    )
    yearly = node.per_device_hour() * 8_760
    present = sum(yearly / (1 + ratio) ** year for year in range(1, years + 1))
    present += 10_000 / (1 + ratio) ** years
    assert abs(present - 100_000) < Decimal("0.001")


@pytest.mark.parametrize(
    "change",
    [
        {"devices": 0},
        {"life_years": Decimal(0)},
        {"life_years": Decimal("1e9")},
        {"cost_of_capital_ratio": Decimal(8)},
        {"pue": Decimal("0.9")},
        {"salvage": Decimal(300_000)},
    ],
)
def test_what_no_hardware_can_be_is_refused(change: dict[str, Decimal | int]) -> None:
    """A rate from an impossible input would look like any other."""
    with pytest.raises(ValueError, match=r"devices|life|capital|PUE|salvage"):
        replace(NODE, **change)  # type: ignore[arg-type]


def test_the_command_shows_its_terms(capsys: pytest.CaptureFixture[str]) -> None:
    """Utilisation is shown beside the rate and changes nothing in it."""
    arguments = ["prices", "owned", "--devices", "1", "--capital-cost", "87600"]
    arguments += ["--life-years", "2", "--format", "csv"]
    assert main(arguments) == 0
    plain = capsys.readouterr().out
    assert "rate,5.000000000000\n" in plain
    assert main([*arguments, "--planned-utilisation", "0.5"]) == 0
    assert capsys.readouterr().out == plain + "for information: per used hour,10.000000000000\n"
    assert main([*arguments, "--pue", "x"]) == 2
    assert "--pue 'x' is not a number" in capsys.readouterr().err
    assert main([*arguments, "--salvage", "99999"]) == 2
    assert "salvage value is above" in capsys.readouterr().err
