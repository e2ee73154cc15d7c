"""What is valid and doubtful about a table is named with its line and what to do."""

from __future__ import annotations

from pathlib import Path

from apportion.core.units import NS_PER_HOUR
from apportion.cost.prices.built_in import built_in_table
from apportion.cost.prices.doubts import doubts
from apportion.cost.rate import PriceTable

DAY_NS = 24 * NS_PER_HOUR
NOW_NS = 20_574 * DAY_NS
"""2026-05-01."""
HEAD = "device,per_hour,currency,covers,basis,source,as_of,from,to,match.zone\n"


def found(tmp_path: Path, *rows: str) -> list[tuple[int, str]]:
    """The doubts about a table of these rows; the first has line 2."""
    path = tmp_path / "prices.csv"
    path.write_text(HEAD + "".join(f"{row}\n" for row in rows))
    told = doubts(PriceTable.load(path), built_in_table(), NOW_NS)
    return [(doubt.line, doubt.text) for doubt in told]


def row(device: str = "H100", price: str = "2.5", **said: str) -> str:
    """One row of the table."""
    facts = {"currency": "USD", "as_of": "2026-04-01", "from": "", "to": "", "zone": "", **said}
    return (
        f"{device},{price},{facts['currency']},gpu,list,s,{facts['as_of']},"
        f"{facts['from']},{facts['to']},{facts['zone']}"
    )


def test_a_good_table_has_no_doubts(tmp_path: Path) -> None:
    """Two dated rows that meet, and a MIG instance of a known GPU."""
    rows = [row(to="2026-03-01"), row(**{"from": "2026-03-01"}), row("H100 MIG 1g.10gb", "0.4")]
    assert found(tmp_path, *rows) == []


def test_dates_that_cannot_be_and_old_ones(tmp_path: Path) -> None:
    """Together for all prices of one source and date; what is over may be as old as it is."""
    assert found(tmp_path, row(as_of="2026-05-02")) == [
        (2, "as_of 2026-05-02 of the price is in the future: when was it known to be right?")
    ]
    old = [row(as_of="2026-01-30", zone=zone) for zone in "ab"]
    over = row(as_of="2020-01-01", zone="c", to="2026-03-01")
    (two, *rest) = found(tmp_path, *old, over)
    assert two == (2, "2 prices of 's' are 91 days old (as of 2026-01-30): look it up again")
    assert [text for _, text in rest] == [
        "NVIDIA H100 80GB HBM3 has no price since 2026-03-01T00:00:00Z"
    ]


def test_gaps_between_rows_and_at_the_ends(tmp_path: Path) -> None:
    """By device and match: another zone's row fills no gap."""
    rows = [
        row(zone="a", to="2026-02-01"),
        row(zone="a", **{"from": "2026-02-02"}),
        row(zone="b"),
        row("T4", "0.5", **{"from": "2026-06-01"}),
    ]
    assert found(tmp_path, *rows) == [
        (
            3,
            "NVIDIA H100 80GB HBM3 has no price from 2026-02-01T00:00:00Z to 2026-02-02T00:00:00Z",
        ),
        (5, "Tesla T4 has no price before 2026-06-01T00:00:00Z"),
    ]


def test_names_and_prices_that_are_rather_slips(tmp_path: Path) -> None:
    """An instance's price for a device's, a minute's for an hour's, nothing, and a wrong name."""
    rows = [
        row("H100", "98.32"),
        row("H200", "0.05"),
        row("T4", "0"),
        row("NVIDIA L40X", "1"),
        row("Frobnicator", "1"),
        row("H100 MIG 1g.10gb", "9"),
    ]
    told = dict(found(tmp_path, *rows))
    assert "98.32 is 33 times the built-in estimate of 2.95 USD" in told[2]
    assert "`unit: instance`" in told[2]
    assert "0.05 is 70 times less than the built-in estimate of 3.5 USD" in told[3]
    assert told[4] == "the price is 0: where it is not known, leave the row out"
    assert "'NVIDIA L40X' is no device name known here; did you mean NVIDIA L40" in told[5]
    assert told[6].endswith("known here; `apportion doctor` shows yours")
    assert "9 is 21 times the built-in estimate of 0.421428571429 USD" in told[7]


def test_other_money_is_not_compared(tmp_path: Path) -> None:
    """9,000 won an hour is no absurd price."""
    assert found(tmp_path, row("H100", "9000", currency="KRW")) == []
