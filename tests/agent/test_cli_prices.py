"""`apportion prices`: import, list, quote, diff, check."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from apportion.agent.cli import main
from apportion.cost.rate import PriceTable

VMS = """\
InstanceType,AcceleratorName,AcceleratorCount,Price,SpotPrice,Region
h100x8,H100,8,23.60,10.00,eu-north1
h100x1,H100,1,2.95,1.25,eu-north1
l40s,L40S,1,1.80,,eu-west1
cpu,,0,0.1,,eu-west1
"""
QUOTE = ["--cloud", "nebius", "--region", "eu-north1", "--instance-type", "h100x8"]


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    folder = tmp_path / "nebius"
    folder.mkdir()
    path = folder / "vms.csv"
    path.write_text(VMS)
    return path


@pytest.fixture
def table(tmp_path: Path, catalogue: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    path = tmp_path / "prices.yaml"
    assert run_import(catalogue, path) == 0
    capsys.readouterr()
    return path


def run_import(catalogue: Path, into: Path, *more: str, as_of: str = "2026-10-01") -> int:
    options = ["--into", str(into), "--as-of", as_of, *more]
    return main(["prices", "import", "skypilot", str(catalogue), *options])


def test_an_imported_table_is_one(table: Path) -> None:
    """What is written is what the agent reads: eight devices share an instance's price."""
    rates = PriceTable.load(table).rates
    assert len(rates) == 5
    assert {rate.per_hour for rate in rates if rate.device_name == "NVIDIA L40S"} == {"1.8"}
    assert {str(rate.as_of) for rate in rates} == {"2026-10-01"}
    assert {rate.source for rate in rates} == {"skypilot nebius"}


def test_importing_again_replaces_only_its_own_rows(
    table: Path, tmp_path: Path, catalogue: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another cloud's rows stay; what changed and what is gone is counted."""
    other = tmp_path / "lambda.csv"
    other.write_text(VMS)
    assert run_import(other, table) == 0
    catalogue.write_text(VMS.replace("23.60", "24").replace("l40s,", "l40s-new,"))
    capsys.readouterr()
    assert run_import(catalogue, table) == 0
    said = capsys.readouterr()
    assert "10 in all; 2 new or changed, 1 gone" in said.out
    assert "left out 1: no accelerator" in said.err
    text = table.read_text()
    assert run_import(catalogue, table) == 0
    assert table.read_text() == text


@pytest.mark.parametrize(
    ("change", "more", "message"),
    [
        (("23.60", "x"), [], "vms.csv:2: the price 'x' is not money"),
        (("H100", "H100"), ["--as-of", "2999-01-01"], "is in the future"),
        (("H100", "H100"), ["--currency", "XQZ"], "not a code of ISO 4217"),
        (("H100", "H100"), ["--strict"], "nothing was written, --strict: 1 x no accelerator"),
        (("H100", "H100"), ["--device", "T4"], "there is no row to write"),
    ],
)
def test_nothing_is_half_imported(
    tmp_path: Path,
    catalogue: Path,
    capsys: pytest.CaptureFixture[str],
    change: tuple[str, str],
    more: list[str],
    message: str,
) -> None:
    """A refusal leaves no table, and no temporary file either."""
    catalogue.write_text(VMS.replace(*change))
    into = tmp_path / "prices.yaml"
    assert run_import(catalogue, into, *more) == 2
    said = capsys.readouterr()
    assert (said.out, message in said.err) == ("", True)
    assert [path.name for path in tmp_path.iterdir()] == ["nebius"]


def test_a_table_that_a_person_wrote_is_left_alone(
    tmp_path: Path, catalogue: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An import would lose its comments."""
    into = tmp_path / "prices.yaml"
    mine = "# mine\n- {device: T4, per_hour: '0.3', currency: USD, covers: gpu, basis: list, "
    mine += "source: me, as_of: 2026-01-01}\n"
    into.write_text(mine)
    assert run_import(catalogue, into) == 2
    assert "import into another" in capsys.readouterr().err
    assert into.read_text() == mine


def test_a_quote_says_by_which_row(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What it costs per device, from where and how old; a cloud's name of the device will do."""
    arguments = ["prices", "quote", str(table), "H100-SXM", *QUOTE, "--capacity", "spot"]
    assert main([*arguments, "--format", "json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["per_hour"], row["device"]) == ("1.25", "NVIDIA H100 80GB HBM3")
    assert (row["source"], row["as_of"]) == ("skypilot nebius", "2026-10-01")
    assert row["age_days"] >= 0
    number: int = row["line"]
    line = table.read_text().splitlines()[number - 1]
    assert line.startswith("- device: NVIDIA H100")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["H100", *QUOTE], "none matches this node; they ask for capacity, cloud"),
        (["H100"], "none matches this node"),
        (["T4", *QUOTE], "no row for this device"),
    ],
)
def test_no_unique_row_is_no_price(
    table: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str
) -> None:
    """Never the first row: exit status 1 and the reason."""
    assert main(["prices", "quote", str(table), *arguments]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert reason in said.err


def test_diff_and_list(
    table: Path, tmp_path: Path, catalogue: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Changed, added and gone rows; equal tables differ in nothing."""
    other = tmp_path / "new.yaml"
    catalogue.write_text(VMS.replace("1.80", "1.70").replace("h100x1,", "h100x2,"))
    assert run_import(catalogue, other) == 0
    capsys.readouterr()
    assert main(["prices", "diff", str(table), str(other), "--format", "json"]) == 1
    rows = json.loads(capsys.readouterr().out)
    assert sorted(row["change"] for row in rows) == ["added"] * 2 + ["changed"] + ["gone"] * 2
    (changed,) = [row for row in rows if row["change"] == "changed"]
    assert (changed["before"], changed["after"]) == ("1.8", "1.7")
    assert main(["prices", "diff", str(table), str(table)]) == 0
    capsys.readouterr()
    assert main(["prices", "list", str(table), "--device", "L40S", "--format", "json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["match"] == "capacity=on-demand,cloud=nebius,instance_type=l40s,region=eu-west1"


def test_check_names_what_is_doubtful(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Old and future dates, unknown devices, and gaps, each with its line."""
    path = tmp_path / "prices.csv"
    path.write_text(
        "device,per_hour,currency,covers,basis,source,as_of,from,to\n"
        "H100,2.5,USD,gpu,list,s,2020-01-01,,2026-01-01\n"
        "H100,2.4,USD,gpu,list,s,2999-01-01,2026-02-01,\n"
        "NVIDIA L40X,1,USD,gpu,list,s,2999-01-01,,\n"
    )
    assert main(["prices", "check", str(path)]) == 1
    said = capsys.readouterr().out
    assert f"{path}:2: the price is" in said
    assert f"{path}:3: as_of 2999-01-01 is in the future" in said
    assert "'NVIDIA L40X' is no device name known here; did you mean NVIDIA L40" in said
    assert "has no price from 2026-01-01T00:00:00+00:00 to 2026-02-01" in said
